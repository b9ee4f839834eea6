import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from keras_bmr import layers, priors

NUM_DRAWS = 1000


def draws_of(layer, *arguments, num_draws=NUM_DRAWS):
    """Outputs of shape (num_draws, batch, features) in training mode."""

    @tf.function(jit_compile=needs_xla(layer))
    def draw():
        results = tf.TensorArray(tf.float32, num_draws)
        for i in tf.range(num_draws):
            results = results.write(i, layer(*arguments, training=True))
        return results.stack()

    outputs = draw().numpy()
    return outputs.reshape(num_draws, outputs.shape[1], -1)


def needs_xla(layer):
    """Whether TensorFlow's own kernels may lack what the layer does.

    On a CPU they convolve with the channels first only where oneDNN does it for them,
    which depends on the instructions that the processor knows.
    """
    return getattr(layer, "data_format", None) == "channels_first"


def exact_moments(layer, inputs):
    """Mean and covariance over (batch * features), one kernel serving all of it.

    From the response to each weight alone, so that nothing of the estimators enters.
    """
    (name,) = layer.RANDOM_WEIGHTS
    posterior = layer.posterior(name)
    mean, variance = posterior.mean().numpy(), posterior.variance().numpy()
    inputs = tf.convert_to_tensor(inputs)
    units = np.eye(mean.size, dtype="float32").reshape(-1, *mean.shape)

    @tf.function(jit_compile=needs_xla(layer))
    def responses(unit):
        return layer.linear(inputs, unit)

    jacobian = np.stack([responses(unit).numpy().ravel() for unit in units], axis=1)
    covariance = (jacobian * variance.ravel()) @ jacobian.T
    return jacobian @ mean.ravel(), covariance


def structured(covariance, estimator, num_examples):
    """What an estimator keeps of the covariance."""
    features = len(covariance) // num_examples
    if estimator == "local_reparameterization":
        return np.diag(np.diag(covariance))
    if estimator == "flipout":
        within = np.kron(np.eye(num_examples), np.ones((features, features)))
        return covariance * within
    return covariance


def assert_moments(draws, mean, covariance):
    flat = draws.reshape(len(draws), -1).astype("float64")
    variance = np.diag(covariance)
    assert np.all(variance > 0)
    error = np.sqrt(variance / len(flat))
    assert np.abs((flat.mean(0) - mean) / error).max() < 6
    # Flipped signs give products of two outputs up to the kurtosis of a product.
    error = np.sqrt(3 * np.outer(variance, variance) / len(flat))
    assert np.abs((np.cov(flat.T) - covariance) / error).max() < 6


def spread(layer, scale=0.3):
    generator = np.random.default_rng(3)
    for name in layer.random_weight_names:
        weight = layer._random[name]
        log_scale = weight.posterior_state["log_scale"]
        drawn = np.log(scale * generator.uniform(0.5, 2, log_scale.shape))
        log_scale.assign(drawn / layer._posterior_family.gain)
        weight.location.assign(generator.normal(size=weight.location.shape))


def test_mean_variance_and_covariance(linear_case):
    case, estimator = linear_case
    layer = case.make(estimator=estimator, seed=1)
    inputs = case.inputs(batch=2)
    layer(inputs)
    spread(layer)
    mean, covariance = exact_moments(layer, inputs)
    assert_moments(draws_of(layer, inputs), mean, structured(covariance, estimator, 2))


def make(layer_class, *arguments, **options):
    return layer_class(*arguments, num_examples=1, seed=2, **options)


@pytest.mark.parametrize("estimator", layers.LinearVariational.ESTIMATORS)
@pytest.mark.parametrize(
    "layer, shape",
    [
        (("Conv1D", 2, 2, {"padding": "causal", "dilation_rate": 2}), (2, 5, 2)),
        (("Conv2D", 4, 2, {"groups": 2, "strides": 2}), (2, 4, 4, 2)),
        (("Conv2D", 2, 2, {"data_format": "channels_first"}), (2, 2, 3, 4)),
        (("Conv2DTranspose", 2, 3, {"strides": 2, "padding": "same"}), (2, 2, 2, 2)),
        (("Dense", 2, {}), (2, 3, 2)),
        (("EinsumDense", "...ab,bc->...ac", (2, 3), {}), (2, 2, 2, 3)),
        (("EinsumDense", "ab...,bc->ac...", 3, {}), (2, 3, 2)),
        (("EinsumDense", "abc,cd->ad", 3, {}), (2, 3, 2)),
        (("EinsumDense", "abc,bc->abc", (2, 3), {}), (2, 2, 3)),
    ],
    ids=lambda value: "-".join(map(str, value[:2])) if isinstance(value, tuple) else "",
)
def test_arguments_of_the_linear_map(layer, shape, estimator):
    name, *arguments, options = layer
    layer = make(
        getattr(layers, f"{name}Variational"),
        *arguments,
        estimator=estimator,
        **options,
    )
    inputs = np.random.default_rng(0).normal(size=shape).astype("float32")
    parent = layers.registry.deterministic_class(type(layer))(*arguments, **options)
    np.testing.assert_allclose(
        layer.compute_output_shape(shape), parent.compute_output_shape(shape)
    )
    layer.build(shape)
    kernel, _ = layer.location_variables(layer)["kernel"], spread(layer)
    parent.build(shape)
    layer.random_weights(parent)["kernel"].assign(kernel)
    outputs, expected = (
        tf.function(called, jit_compile=needs_xla(layer))(inputs)
        for called in (layer, parent)
    )
    np.testing.assert_allclose(outputs, expected, rtol=1e-6)
    mean, covariance = exact_moments(layer, inputs)
    assert_moments(
        draws_of(layer, inputs),
        mean,
        structured(covariance, estimator, len(inputs)),
    )


@pytest.mark.parametrize("equation", ["ab,ac->ac", "ab,bc->ca"])
def test_flipout_needs_a_batch_axis(equation):
    with pytest.raises(ValueError, match=f"Flipout needs.*equation='{equation}'"):
        layers.EinsumDenseVariational(equation, 3, estimator="flipout")


@pytest.mark.parametrize("estimator", layers.LinearVariational.ESTIMATORS)
def test_a_random_scale_is_shared_by_the_batch(estimator):
    prior = priors.ScaleMixtureNormal(factor=0.7)
    layer = make(layers.DenseVariational, 2, estimator=estimator, prior=prior)
    inputs = np.random.default_rng(0).normal(size=(2, 3)).astype("float32")
    layer(inputs)
    spread(layer)
    state = layer._random["kernel"].prior_state
    state["log_precision_loc"].assign(-0.4)
    state["log_precision_log_scale"].assign(np.log(0.6))
    expected = float(prior.expected_scale(state))
    # E[c^2] of c = factor exp(-x/2), x ~ N(m, s^2).
    second = 0.7**2 * np.exp(0.4 + 0.5 * 0.6**2)
    mean, covariance = exact_moments(layer, inputs)
    mean, covariance = mean / expected, covariance / expected**2
    structure = structured(covariance, estimator, 2)
    total = second * structure + (second - expected**2) * np.outer(mean, mean)
    draws = draws_of(layer, inputs, num_draws=4000)
    flat = draws.reshape(len(draws), -1)
    np.testing.assert_allclose(flat.mean(0), expected * mean, atol=0.1)
    scale = np.sqrt(np.outer(np.diag(total), np.diag(total)))
    np.testing.assert_allclose(np.cov(flat.T) / scale, total / scale, atol=0.12)


def test_a_bayesian_bias_is_drawn_once_for_the_batch():
    layer = make(layers.DenseVariational, 2, bayesian_bias=True)
    inputs = np.zeros((3, 4), "float32")
    layer(inputs)
    spread(layer)
    draws = draws_of(layer, inputs)
    np.testing.assert_allclose(draws[:, 0], draws[:, 2], atol=1e-6)
    posterior = layer.posterior("bias")
    error = posterior.stddev() / np.sqrt(NUM_DRAWS)
    assert np.abs((draws[:, 0].mean(0) - posterior.mean()) / error).max() < 5
    ratio = draws[:, 0].var(0) / posterior.variance()
    np.testing.assert_allclose(ratio, 1, atol=5 * np.sqrt(2 / NUM_DRAWS))


@pytest.mark.parametrize(
    "name",
    [
        "SeparableConv1D",
        "SeparableConv2D",
        "SimpleRNN",
        "LSTM",
        "GRU",
        "MultiHeadAttention",
        "LayerNormalization",
    ],
)
def test_other_layers_draw_their_weights_once_for_the_batch(all_cases, name):
    (case,) = [c for c in all_cases if str(c) == f"{name}Variational"]
    layer, parent = case.make(bayesian_bias=True, seed=4), case.make_parent()
    inputs = np.repeat(case.inputs(batch=1), 2, axis=0)
    arguments = case.call_arguments(inputs)
    layer(*arguments), parent(*arguments)
    spread(layer)
    draws = draws_of(layer, *arguments, num_draws=300)
    np.testing.assert_allclose(draws[:, 0], draws[:, 1], rtol=1e-4, atol=1e-5)

    generator = np.random.default_rng(5)
    run = tf.function(lambda: parent(*arguments))
    references = []
    for _ in range(300):
        for weight, variable in layer.location_variables(parent).items():
            posterior = layer.posterior(weight)
            noise = generator.normal(size=variable.shape)
            variable.assign(posterior.mean() + posterior.stddev() * noise)
        references.append(run().numpy().reshape(2, -1)[0])
    references = np.stack(references)
    for i in range(references.shape[1]):
        test = scipy.stats.ks_2samp(draws[:, 0, i], references[:, i])
        assert test.pvalue > 1e-4


def test_batch_normalization_draws_its_scale():
    layer = make(layers.BatchNormalizationVariational)
    inputs = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    layer(inputs)
    spread(layer)
    normalised = (inputs - inputs.mean(0)) / np.sqrt(inputs.var(0) + 1e-3)
    gamma = draws_of(layer, inputs)[:, 0] / normalised[0]
    posterior = layer.posterior("gamma")
    error = posterior.stddev() / np.sqrt(NUM_DRAWS)
    assert np.abs((gamma.mean(0) - posterior.mean()) / error).max() < 5
    ratio = gamma.var(0) / posterior.variance()
    np.testing.assert_allclose(ratio, 1, atol=5 * np.sqrt(2 / NUM_DRAWS))


def test_the_variance_does_not_underflow_in_half_precision():
    layer = make(layers.DenseVariational, 64, dtype="mixed_float16")
    inputs = np.ones((64, 50), "float16")
    layer(inputs)
    layer.kernel.assign(tf.zeros_like(layer.kernel))
    # The squares of these are below the smallest float16.
    layer._random["kernel"].posterior_state["log_scale"].assign(
        tf.fill((50, 64), np.log(1e-4) / 10)
    )
    outputs = layer(inputs, training=True)
    assert outputs.dtype == tf.float16
    deviation = np.std(outputs.numpy().astype("float64"))
    assert deviation == pytest.approx(1e-4 * np.sqrt(50), rel=0.05)


def test_unknown_estimators_are_refused():
    with pytest.raises(ValueError, match="`estimator` of Embedding.*'flipout'"):
        layers.EmbeddingVariational(3, 2, estimator="flipout")
    with pytest.raises(ValueError, match="estimator='none'"):
        layers.DenseVariational(3, estimator="none")


def test_indices_are_not_cast_to_a_float():
    layer = make(layers.EmbeddingVariational, 2, 1, mask_zero=True)
    layer.build((None, 1))
    indices = tf.constant([[1]])
    seen = []
    layer.linear = lambda inputs, kernel: seen.append(inputs) or tf.zeros((1, 1, 1))
    layer(indices, training=True)
    assert len(seen) == 2 and all(each is indices for each in seen)


def test_flipout_signs_are_shared_by_pixels_and_not_by_examples():
    layer = make(layers.Conv2DVariational, 1, 1, estimator="flipout")
    inputs = np.ones((64, 2, 2, 1), "float32")
    layer(inputs)
    spread(layer)
    deviations = (layer(inputs, training=True) - layer(inputs)).numpy()
    flat = deviations.reshape(64, 4)
    np.testing.assert_allclose(flat, np.repeat(flat[:, :1], 4, 1), rtol=1e-5)
    np.testing.assert_allclose(np.abs(flat), np.abs(flat[0, 0]), rtol=1e-5)
    assert 10 < np.sum(flat[:, 0] > 0) < 54


def test_zero_inputs_have_finite_gradients():
    layer = make(layers.DenseVariational, 2)
    inputs = tf.zeros((2, 3))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(inputs, training=True))
    for gradient in tape.gradient(loss, [v.value for v in layer.trainable_variables]):
        assert np.isfinite(gradient).all()
    assert keras.ops.all(keras.ops.isfinite(loss))
