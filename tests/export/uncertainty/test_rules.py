"""Each rule against draws of what goes into it, or against exact values."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from scipy import stats

from keras_bmr.export.uncertainty import Moments
from keras_bmr.export.uncertainty.activations import activated, clipped, rectified
from keras_bmr.export.uncertainty.convolution import convolution
from keras_bmr.export.uncertainty.normal_functions import distribution_function
from keras_bmr.export.uncertainty.probabilities import normal_points, softmax_moments
from keras_bmr.export.uncertainty.registry import rule_for
from keras_bmr.export.uncertainty.weight_moments import WeightMoments
from keras_bmr.layers import MultiplicativeNoise
from keras_bmr.layers.registry import variational_class
from keras_bmr.posteriors.sampling import sampling


def rng():
    return np.random.default_rng(0)


def random_moments(*shape, deviation=0.5):
    generator = rng()
    mean = generator.normal(size=shape).astype("float32")
    variance = (deviation * generator.uniform(0.5, 1.5, shape)) ** 2
    return Moments(tf.constant(mean), tf.constant(variance.astype("float32")))


def by_rule(layer, moments, original=None):
    weights = WeightMoments(layer, original or layer)
    return rule_for(layer)(layer, weights, *moments)


def assert_close(moments, draws, tolerance):
    """Mean and deviation of each entry, as shares of the deviation."""
    mean, deviation = np.mean(draws, axis=0), np.std(draws, axis=0)
    assert np.max(np.abs(moments.mean - mean) / deviation) < tolerance
    assert np.max(np.abs(np.sqrt(moments.variance) / deviation - 1)) < tolerance


def test_distribution_function():
    x = np.linspace(-40, 40, 8001).astype("float32")
    values = distribution_function(tf.constant(x), tf.square(x))
    assert np.max(np.abs(values - stats.norm.cdf(x))) < 2e-6


GRID = np.stack(np.meshgrid(np.linspace(-3, 3, 7), [0.1, 0.5, 1.0]), -1).reshape(-1, 2)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("relu", 1e-3),
        ("leaky_relu", 1e-3),
        ("relu6", 1e-3),
        ("hard_tanh", 1e-3),
        ("hard_sigmoid", 1e-3),
        ("elu", 0.015),
        ("gelu", 0.01),
        ("mish", 0.01),
        ("sigmoid", 0.005),
        ("silu", 0.01),
        ("softplus", 0.005),
        ("tanh", 0.02),
    ],
)
def test_activations(name, tolerance):
    function = keras.activations.get(name)
    mean, deviation = GRID.T.astype("float32")
    # Quantiles in the place of draws: the integral itself, and no noise.
    z = stats.norm.ppf((np.arange(20000) + 0.5) / 20000)
    draws = np.asarray(function((mean + deviation * z[:, None]).astype("float32")))
    moments = activated(
        function, Moments(tf.constant(mean), tf.square(tf.constant(deviation))), "test"
    )
    spread = np.std(draws, axis=0)
    assert np.max(np.abs(moments.mean - draws.mean(0)) / deviation) < tolerance
    error = np.abs(np.sqrt(moments.variance) - spread) / deviation
    assert np.max(error) < tolerance
    covariance = np.mean((draws - draws.mean(0)) * z[:, None], axis=0)
    gain = moments.spread(moments.before.mean, moments.before.variance).gain
    assert np.max(np.abs(gain - covariance / deviation)) < 2 * tolerance


@pytest.mark.parametrize(
    "function", [rectified, functools.partial(clipped, low=0.0, high=6.0)]
)
def test_rectifiers_of_extreme_numbers(function):
    mean = tf.constant([3.0, -3.0, 5.0, 1000.0, -1000.0, 0.0])
    variance = tf.constant([0.0, 0.0, 1e-6, 1e-2, 1e-2, 0.0])
    expected, spread, _ = function(mean, variance)
    assert np.all(np.isfinite(expected)) and np.all(np.isfinite(spread))
    largest = 1000.0 if function is rectified else 6.0
    np.testing.assert_allclose(expected[:5], [3, 0, 5, largest, 0], atol=1e-5)
    largest = 1e-2 if function is rectified else 0.0
    np.testing.assert_allclose(spread[:5], [0, 0, 1e-6, largest, 0], atol=1e-9)


LINEAR = [
    (layers.Dense(4), (5,)),
    (layers.Conv1D(3, 3, padding="causal", dilation_rate=2), (6, 2)),
    (layers.Conv2D(3, 3, strides=2, padding="same"), (5, 5, 2)),
    (layers.Conv2D(4, 3, groups=2), (5, 5, 2)),
    (layers.Conv2DTranspose(2, 3, strides=2), (3, 3, 2)),
    (layers.DepthwiseConv2D(3, depth_multiplier=2), (5, 5, 2)),
    (layers.SeparableConv2D(3, 3), (5, 5, 2)),
    (layers.EinsumDense("abc,cd->abd", output_shape=(None, 4)), (3, 5)),
]


@pytest.mark.parametrize(
    ("layer", "shape"), LINEAR, ids=[type(layer).__name__ for layer, _ in LINEAR]
)
def test_linear_layers(layer, shape):
    """Draws of the weights, and for each of them draws of the inputs."""
    num_weights, num_inputs = 500, 100
    config = {**layer.get_config(), "bias_initializer": "ones"}
    layer = type(layer).from_config(config)
    original = variational_class(type(layer)).from_config(
        {**config, "bayesian_bias": True}
    )
    x = random_moments(1, *shape)
    layer(x.mean), original(x.mean)
    for name in original.random_weight_names:
        weight = original._random_weight(name)
        weight.posterior_state["log_scale"].assign(
            np.log(0.3 * rng().uniform(0.5, 1.5, weight.location.shape)) / 10
        )
    moments = by_rule(layer, [x], original)

    def draw(seed):
        noise = tf.random.stateless_normal((num_inputs, *shape), [7, seed])
        with sampling(seed=seed):
            return original(x.mean + noise * tf.sqrt(x.variance))

    draws = tf.function(
        lambda seeds: tf.map_fn(draw, seeds, fn_output_signature=tf.float32)
    )(tf.range(num_weights))
    draws = draws.numpy().reshape(-1, *moments.mean.shape)
    mean, deviation = draws.mean(0), draws.std(0)
    assert np.max(np.abs(moments.mean - mean) / deviation) < 0.2
    ratio = np.sqrt(moments.variance) / deviation
    separable = type(layer) is layers.SeparableConv2D
    assert abs(np.mean(ratio) - 1) < (0.15 if separable else 0.03)
    assert np.max(np.abs(ratio - 1)) < (0.5 if separable else 0.15)


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_mean_variance_of_windows_is_an_average(padding):
    layer = layers.Conv2D(3, (5, 3), padding=padding)
    x = random_moments(2, 9, 8, 2)
    layer(x.mean)
    moments = convolution(layer, WeightMoments(layer, layer), x)
    for window in ((2, 2), (3, 2)):
        expected = tf.nn.avg_pool2d(moments.variance, window, window, "VALID")
        np.testing.assert_allclose(
            moments.variance_of_windows(window), expected, rtol=1e-5
        )


def together(moments, num_draws=20000):
    """Draws of numbers that go up and down together, at quantiles."""
    z = stats.norm.ppf((np.arange(num_draws) + 0.5) / num_draws)
    z = z.reshape(-1, *[1] * (len(moments.mean.shape) - 1)).astype("float32")
    return moments.mean + z * tf.sqrt(moments.variance)


@pytest.mark.parametrize(
    "layer",
    [
        layers.MaxPooling2D(2),
        layers.MaxPooling2D(3, strides=1),
        layers.GlobalMaxPooling2D(),
    ],
)
def test_max_pooling_of_what_varies_together(layer):
    moments = random_moments(1, 6, 6, 2, deviation=0.1)
    assert_close(by_rule(layer, [moments]), layer(together(moments)), 0.1)


@pytest.mark.parametrize(
    "layer", [layers.AveragePooling2D(3), layers.GlobalAveragePooling2D()]
)
def test_average_pooling_of_what_varies_half_together(layer):
    moments = random_moments(1, 6, 6, 2)
    generator = rng()
    common = generator.normal(size=(50000, 1, 1, 2))
    own = generator.normal(size=(50000, 6, 6, 2))
    noise = tf.constant((0.5**0.5 * (common + own)).astype("float32"))
    draws = layer(moments.mean + noise * tf.sqrt(moments.variance))
    assert_close(by_rule(layer, [moments]), draws, 0.03)


def test_max_pooling_before_a_rising_activation():
    moments = random_moments(1, 4, 4, 2)
    relu = activated(keras.activations.relu, moments, "test")
    pooled = by_rule(layers.MaxPooling2D(2), [relu])
    expected = activated(
        keras.activations.relu, by_rule(layers.MaxPooling2D(2), [moments]), "test"
    )
    np.testing.assert_allclose(pooled.mean, expected.mean)
    np.testing.assert_allclose(pooled.variance, expected.variance)
    silu = activated(keras.activations.silu, moments, "test")
    resolved = Moments(silu.mean, silu.variance)
    np.testing.assert_allclose(
        by_rule(layers.MaxPooling2D(2), [silu]).mean,
        by_rule(layers.MaxPooling2D(2), [resolved]).mean,
    )


def test_batch_normalization_with_random_scales_and_shifts():
    layer = layers.BatchNormalization()
    original = variational_class(layers.BatchNormalization)(bayesian_bias=True)
    x = random_moments(1, 3, 4)
    layer(x.mean), original(x.mean)
    values = [rng().uniform(0.5, 1.5, 4) for _ in range(4)]
    layer.set_weights(values)
    for name, value in (("gamma", values[0]), ("beta", values[1])):
        getattr(original, name).assign(value)
        original._random_weight(name).posterior_state["log_scale"].assign(
            np.full(4, np.log(0.3) / 10)
        )
    moments = by_rule(layer, [x], original)
    generator, size = rng(), (50000, 1, 1, 4)
    gamma = values[0] + 0.3 * generator.normal(size=size)
    beta = values[1] + 0.3 * generator.normal(size=size)
    noise = generator.normal(size=(50000, 1, 3, 4)) * np.sqrt(x.variance)
    centred = (x.mean + noise - values[2]) / np.sqrt(values[3] + layer.epsilon)
    assert_close(moments, gamma * centred + beta, 0.02)


@pytest.mark.filterwarnings("ignore:You passed `rms_scaling=True`")
@pytest.mark.parametrize("rms_scaling", [False, True])
def test_layer_normalization(rms_scaling):
    layer = layers.LayerNormalization(rms_scaling=rms_scaling)
    x = random_moments(1, 64, deviation=0.3)
    layer(x.mean)
    layer.set_weights([rng().uniform(0.5, 1.5, 64) for _ in layer.weights])
    noise = rng().normal(size=(20000, 64)).astype("float32")
    draws = layer(x.mean + noise * tf.sqrt(x.variance)).numpy()
    assert_close(by_rule(layer, [x]), draws, 0.1)


def test_arithmetic():
    x, y = random_moments(1, 5), random_moments(1, 5, deviation=1.0)
    generator = rng()
    a, b = (
        m.mean + np.sqrt(m.variance) * generator.normal(size=(50000, 5)) for m in (x, y)
    )
    certain = Moments(tf.constant(generator.normal(size=(1, 5)).astype("float32")))
    assert_close(by_rule(layers.Add(), [x, y]), a + b, 0.02)
    assert_close(by_rule(layers.Add(), [x, certain]), a + certain.mean, 0.02)
    assert_close(by_rule(layers.Add(), [x, x]), a + a, 0.02)
    assert_close(by_rule(layers.Subtract(), [x, y]), a - b, 0.02)
    assert_close(by_rule(layers.Average(), [x, y]), (a + b) / 2, 0.02)
    assert_close(by_rule(layers.Multiply(), [x, y]), a * b, 0.02)
    assert_close(by_rule(layers.Multiply(), [x, x]), a * a, 0.02)
    assert_close(by_rule(layers.Rescaling(3.0, 1.0), [x]), 3 * a + 1, 0.02)
    both = by_rule(layers.Concatenate(), [x, certain])
    np.testing.assert_array_equal(both.variance[:, :5], x.variance)
    np.testing.assert_array_equal(both.variance[:, 5:], 0)


def test_noise_gates():
    gate = MultiplicativeNoise(num_examples=100)
    x = random_moments(1, 3, 4)
    gate(x.mean)
    gate.noise.assign(rng().normal(size=4) - 1)
    gate._random_weight("noise").posterior_state["log_scale"].assign(np.full(4, -1.0))
    layer = gate.deterministic_layer()
    factors = gate.posterior("noise").sample(50000, seed=1).numpy()[:, None, None]
    noise = rng().normal(size=(50000, 1, 3, 4)) * np.sqrt(x.variance)
    assert_close(by_rule(layer, [x], gate), (x.mean + noise) * factors, 0.03)


def test_covariance_of_sums():
    """Through a dense layer and a rectifier that is open or shut for sure."""
    first, second = layers.Dense(6), layers.Dense(3)
    # Alike in variance, for which the covariance is exact.
    x = Moments(random_moments(1, 5).mean, tf.fill((1, 5), 0.01))
    first(x.mean), second(tf.zeros((1, 6)))
    first.bias.assign([50, -50, 50, -50, 50, 50])
    hidden = by_rule(first, [x])
    outputs = by_rule(second, [activated(keras.activations.relu, hidden, "test")])
    jacobian = first.kernel.numpy() * (first.bias.numpy() > 0) @ second.kernel.numpy()
    covariance = jacobian.T @ np.diag(x.variance[0]) @ jacobian
    sums = rng().normal(size=(2, 3)).astype("float32")
    np.testing.assert_allclose(
        outputs.variance_of_sums(sums)[0],
        np.diag(sums @ covariance @ sums.T),
        rtol=1e-4,
    )
    # Several examples have other shapes on the way.
    pair = Moments(tf.repeat(x.mean, 2, 0), tf.repeat(x.variance, 2, 0))
    hidden = activated(keras.activations.relu, by_rule(first, [pair]), "test")
    np.testing.assert_allclose(
        by_rule(second, [hidden]).variance_of_sums(sums),
        np.repeat(outputs.variance_of_sums(sums), 2, 0),
        rtol=1e-5,
    )


@pytest.mark.parametrize("dimension", [1, 2, 10, 32, 64, 70])
def test_points_have_the_moments_of_normal_numbers(dimension):
    points = normal_points(dimension)
    assert 60 <= len(points) <= 128
    np.testing.assert_allclose(points.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(np.mean(points**2, axis=0), 1, rtol=1e-5)
    if dimension <= 64:
        covariance = points.T @ points / len(points)
        np.testing.assert_allclose(covariance, np.eye(dimension), atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 10), (2, 4, 5)])
def test_softmax(shape):
    logits = random_moments(*shape, deviation=1.5)
    moments = softmax_moments(logits)
    noise = rng().normal(size=(50000, *shape)).astype("float32")
    draws = tf.nn.softmax(logits.mean + tf.sqrt(logits.variance) * noise).numpy()
    np.testing.assert_allclose(tf.reduce_sum(moments.mean, -1), 1, rtol=1e-5)
    np.testing.assert_allclose(moments.mean, draws.mean(0), atol=0.03)
    np.testing.assert_allclose(np.sqrt(moments.variance), draws.std(0), atol=0.04)


def test_covariance_behind_a_wide_layer():
    """Of a few directions out of 60, with inputs that are not quite alike."""
    first, second = layers.Dense(60), layers.Dense(4)
    x = random_moments(1, 200, deviation=0.1)
    first(x.mean), second(tf.zeros((1, 60)))
    # Half of the correlations are about 1/3.
    first.kernel.assign_add(0.05 * tf.ones((200, 60)))
    second.kernel.assign(tf.abs(second.kernel))
    hidden = by_rule(first, [x])
    assert hidden.correlated.root().shape[1] < 60
    outputs = by_rule(second, [hidden])
    jacobian = first.kernel.numpy() @ second.kernel.numpy()
    expected = np.sum(x.variance[0].numpy()[:, None] * jacobian**2, axis=0)
    found = outputs.variance_of_sums(np.eye(4, dtype="float32"))[0]
    np.testing.assert_allclose(found, expected, rtol=0.1)
    alone = hidden.variance[0].numpy() @ second.kernel.numpy() ** 2
    assert (alone < 0.5 * expected).all()
    # A unit by itself keeps its variance.
    alone = hidden.variance_of_sums(np.eye(60, dtype="float32"))
    np.testing.assert_allclose(alone, hidden.variance, rtol=1e-4)
