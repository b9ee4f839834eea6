"""The grids of weights and activations, against TFLite's formulas in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bmr.export.quantization_aware import FakeQuantization, fake_quantize_weights
from keras_bmr.export.quantization_aware.activation import observing


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.mark.parametrize("axes", [(-1,), (-2,), (-2, -1)])
def test_weights_are_rounded_to_the_grid_of_their_channel(axes):
    weights = normal(3, 2, 4, 5)
    weights[..., 1, 2] = 0.0
    weights[0, 0] = 0.0
    others = tuple(i for i in range(4) if i - 4 not in axes)
    scale = np.abs(weights).max(others, keepdims=True) / 127
    rounded = fake_quantize_weights(weights, axes).numpy()
    codes = np.divide(rounded, scale, out=np.zeros_like(rounded), where=scale > 0)
    np.testing.assert_allclose(codes, np.round(codes), atol=2e-5)
    assert np.abs(codes).max() == pytest.approx(127)
    assert np.all(np.abs(rounded - weights) <= scale * 0.50001)
    assert np.all(rounded[weights == 0] == 0)


def test_gradient_of_weights_goes_straight_through():
    weights, upstream = tf.constant(normal(6, 3)), tf.constant(normal(6, 3) + 2)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        output = tf.reduce_sum(fake_quantize_weights(weights, [-1]) * upstream)
    np.testing.assert_array_equal(tape.gradient(output, weights), upstream)


def activation(low, high, **arguments):
    layer = FakeQuantization(**arguments)
    layer.build((None, 4))
    layer.low.assign(low)
    layer.high.assign(high)
    return layer


@pytest.mark.parametrize("low, high", [(-1.0, 2.0), (0.0, 6.0), (-3.0, 0.0)])
def test_activations_are_rounded_to_256_values_with_zero(low, high):
    layer = activation(low, high)
    values = np.linspace(low - 1, high + 1, 5001, dtype="float32")
    rounded = layer(values).numpy()
    scale = (high - low) / 255
    zero_point = round(-128 - low / scale)
    codes = np.clip(np.round(values / scale) + zero_point, -128, 127)
    expected = (codes - zero_point) * scale
    # Where a value lies between two points, float32 may choose the other one.
    wrong = np.abs(rounded - expected) > 1e-5
    assert np.mean(wrong) < 0.003
    assert np.all(np.abs(rounded - expected) < 1.001 * scale)
    assert len(np.unique(rounded.round(5))) == 256
    assert layer(np.zeros(1, "float32")).numpy() == 0
    assert layer.scale() == pytest.approx(scale)


def test_gradient_of_activations_is_one_within_the_range_and_zero_outside():
    layer = activation(-1.0, 2.0)
    values = tf.constant([-1.5, -0.9, 0.0, 1.9, 2.5])
    with tf.GradientTape() as tape:
        tape.watch(values)
        output = tf.reduce_sum(layer(values) * [1.0, 2.0, 3.0, 4.0, 5.0])
    np.testing.assert_array_equal(tape.gradient(output, values), [0, 2, 3, 4, 0])


def test_range_follows_batches_in_training_only():
    layer = activation(-1.0, 2.0, momentum=0.75)
    batch = tf.constant([[-3.0, 0.0, 1.0, 4.0]])
    layer(batch, training=False)
    assert (float(layer.low), float(layer.high)) == (-1.0, 2.0)
    layer(batch, training=True)
    assert (float(layer.low), float(layer.high)) == (-1.5, 2.5)
    # Zero stays within the range of a batch that is positive throughout.
    layer(batch + 5.0, training=True)
    assert float(layer.low) == pytest.approx(-1.125)
    layer.trainable = False
    layer(batch, training=True)
    assert float(layer.low) == pytest.approx(-1.125)


def test_fixed_range_stays():
    layer = FakeQuantization(fixed_range=(0.0, 255 / 256))
    layer(tf.constant([[5.0]]), training=True)
    with observing([layer]):
        layer(tf.constant([[5.0]]))
    assert (float(layer.low), float(layer.high)) == (0.0, 255 / 256)
    copy = FakeQuantization.from_config(layer.get_config())
    assert copy.fixed_range == (0.0, 255 / 256)


def test_observing_widens_the_range_to_hold_all_batches():
    layer = activation(0.0, 0.0)
    with observing([layer]):
        for values in ([1.0, 3.0], [-2.0, 0.5]):
            np.testing.assert_array_equal(layer(tf.constant([values])), [values])
    assert (float(layer.low), float(layer.high)) == (-2.0, 3.0)


def test_tensor_that_is_always_zero_gives_zeros():
    layer = activation(0.0, 0.0)
    assert np.all(layer(np.zeros((2, 4), "float32")).numpy() == 0)
    assert layer.scale() > 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"momentum": 1.5}, "momentum=1.5"),
        ({"momentum": True}, "momentum=True"),
        ({"fixed_range": (1.0, 2.0)}, r"fixed_range=\(1.0, 2.0\)"),
        ({"fixed_range": (0.0, 0.0)}, r"fixed_range=\(0.0, 0.0\)"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        FakeQuantization(**arguments)


def test_float16_policy_does_not_reach_the_grid():
    assert FakeQuantization(dtype="mixed_float16").compute_dtype == "float32"
    assert keras.config.dtype_policy().name == "float32"
