import keras
import numpy as np
import pytest

import keras_bmr
from keras_bmr.callbacks import ContinuousReduction
from keras_bmr.distributions import TruncatedLogNormal


def gated_network():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(4, kernel_initializer="identity", trainable=False),
            keras_bmr.layers.MultiplicativeNoise(num_examples=1000, name="gates"),
            keras.layers.Dense(1, kernel_initializer="ones", trainable=False),
        ]
    )
    gates = model.get_layer("gates")
    # The first two look as if nothing needed them.
    loc = np.array([-7.0, -7.0, 0.0, 0.0], "float32")
    scale = np.array([2.0, 2.0, 0.1, 0.1], "float32")
    gates.assign_posterior("noise", TruncatedLogNormal(loc, scale, -20.0, 0.0))
    model.compile(keras.optimizers.Adam(0.1), "mse", jit_compile=False)
    return model, gates


def test_a_gate_that_is_needed_returns_and_the_others_are_pruned():
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    # The first column counts, the second does not.
    y = x @ np.array([[1.0], [0.0], [1.0], [1.0]], "float32")
    model, gates = gated_network()
    closed = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            closed.append(gates.closed.numpy().tolist())

    callbacks = [ContinuousReduction("bmrs_u4"), Watch()]
    history = model.fit(x, y, batch_size=16, epochs=15, verbose=0, callbacks=callbacks)
    assert closed[0][:2] == [True, True]
    assert closed[-1] == [False, True, False, False]
    assert history.history["closed_gates"] == [np.mean(c) for c in closed]
    np.testing.assert_array_equal(
        gates.mask("noise").numpy(), [True, False, True, True]
    )
    assert not gates.closed.numpy().any()


def test_one_gate_of_a_layer_stays_open():
    model, gates = gated_network()
    callback = ContinuousReduction(criterion="expected_value", threshold=-1e9)
    model.fit(
        np.ones((4, 4)), np.ones((4, 1)), epochs=1, verbose=0, callbacks=[callback]
    )
    mask = gates.mask("noise").numpy()
    assert mask.sum() == 1 and mask[2:].any()


def test_invalid_arguments_are_found_before_training():
    with pytest.raises(ValueError, match="start"):
        ContinuousReduction(start=-1)
    with pytest.raises(ValueError, match="reduced_prior"):
        ContinuousReduction("nothing")
    plain = keras.Sequential([keras.Input((2,)), keras_bmr.layers.DenseVariational(1)])
    plain.compile("sgd", "mse")
    with pytest.raises(ValueError, match="no weight left to prune"):
        plain.fit(np.ones((2, 2)), np.ones((2, 1)), callbacks=[ContinuousReduction()])
