"""Whole networks: exact values, 1000 samples, and what is refused."""

import keras
import numpy as np
import pytest
from keras import layers
from tensorflow_probability import distributions as tfd

import keras_bmr
from keras_bmr.export import (
    elementwise_moments,
    propagate_moments,
    register_moment_rule,
)
from keras_bmr.objectives import predictive_moments
from keras_bmr.pruning.channels.calls import call_graph


def test_linear_network_is_exact(bayesian, normal):
    model = bayesian((5,), layers.Dense(4), layers.Dense(3), bayesian_bias=True)
    x = normal(6, 5)
    mean, variance = propagate_moments(model, x)
    (m1, s1, b1, t1), (m2, s2, b2, t2) = (
        [
            moment.numpy().astype("float64")
            for name in ("kernel", "bias")
            for moment in (
                layer.posterior(name).mean(),
                layer.posterior(name).variance(),
            )
        ]
        for layer in model.layers
    )
    hidden, spread = x @ m1 + b1, x**2 @ s1 + t1
    np.testing.assert_allclose(mean, hidden @ m2 + b2, rtol=1e-4, atol=1e-5)
    expected = hidden**2 @ s2 + spread @ (m2**2 + s2) + t2
    np.testing.assert_allclose(variance, expected, rtol=1e-4)


def residual():
    inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(inputs)
    y = layers.BatchNormalization()(x)
    y = layers.DepthwiseConv2D(3, padding="same", activation="silu")(y)
    y = layers.Conv2D(4, 1)(y)
    x = layers.ReLU(6.0)(x + 0.5 * y)
    x = layers.GlobalAveragePooling2D()(layers.Dropout(0.5)(x))
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(x))


def lenet():
    return keras.Sequential(
        [
            keras.Input((12, 12, 1)),
            layers.Rescaling(0.5),
            layers.Conv2D(4, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(8, 3, padding="same"),
            layers.Activation("tanh"),
            layers.AveragePooling2D(2),
            layers.Flatten(),
            layers.Dense(16, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(4),
        ]
    )


def dense():
    return keras.Sequential(
        [
            keras.Input((10,)),
            layers.Dense(30, activation="relu"),
            layers.LayerNormalization(),
            layers.Dense(20, activation="gelu"),
            layers.Dense(3),
        ]
    )


CASES = [
    (dense, {}),
    (lenet, {}),
    (residual, {}),
    (lenet, {"posterior": "spike_and_slab"}),
    (lenet, {"structured": True}),
]


@pytest.mark.parametrize(
    ("build", "options"), CASES, ids=["dense", "lenet", "residual", "slab", "gates"]
)
def test_moments_against_1000_samples(build, options, randomised, normal):
    model = keras_bmr.to_variational(build(), num_examples=100, **options)
    randomised(model, scale=0.05, sparsity=0.0 if options else 0.3)
    if options.get("posterior"):
        for layer in model.layers:
            if hasattr(layer, "mask"):
                weight = layer._random_weight("kernel")
                logits = np.random.default_rng(0).normal(3, 2, weight.location.shape)
                weight.posterior_state["inclusion_logits"].assign(logits)
    from_logits = build is not residual
    x = normal(40, *model.input_shape[1:])
    before = [np.array(variable) for variable in model.variables]
    mean, variance = propagate_moments(model, x, from_logits)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    sampled = predictive_moments(
        model, x, num_samples=1000, seed=0, from_logits=from_logits, verbose=0
    )
    np.testing.assert_allclose(mean.sum(-1), 1, rtol=1e-5)
    deviation, expected = np.sqrt(variance), np.sqrt(sampled.variance)
    # Positions of noise are less correlated than those of images, for which the rule
    # of averages stands.
    assert np.abs(mean - sampled.mean).mean() < 0.25 * expected.mean()
    limits = (0.8, 2.0) if build is residual else (0.8, 1.25)
    assert limits[0] < deviation.mean() / expected.mean() < limits[1]
    assert np.corrcoef(deviation.ravel(), expected.ravel())[0, 1] > 0.75


def test_covariance_of_hidden_units_counts(bayesian, normal):
    """Two units that say the same add up, which their variances alone do not tell."""
    model = bayesian((3,), layers.Dense(1), layers.Dense(50), layers.Dense(2))
    rng = np.random.default_rng(0)
    for layer in model.layers[1:]:
        layer.kernel.assign(np.abs(rng.normal(size=layer.kernel.shape)))
    for layer, scale in zip(model.layers, (0.5, 1e-3, 1e-3), strict=True):
        log_scale = layer._random_weight("kernel").posterior_state["log_scale"]
        log_scale.assign(np.full(log_scale.shape, np.log(scale) / 10))
    x = normal(20, 3)
    _, variance = propagate_moments(model, x)
    sampled = predictive_moments(model, x, num_samples=1000, seed=0, verbose=0)
    np.testing.assert_allclose(variance, sampled.variance, rtol=0.25)
    assert abs(np.mean(variance) / np.mean(sampled.variance) - 1) < 0.06


def test_logits_move_together(bayesian, normal):
    """Four classes that hang on one hidden unit, which alone is uncertain."""
    model = bayesian((3,), layers.Dense(1), layers.Dense(4), scale=0.5)
    hidden, output = model.layers
    kernel = output.posterior("kernel").mean()
    output.assign_posterior("kernel", tfd.Normal(0 * kernel + [[2.0, 2, -1, 1]], 1e-4))
    x = normal(30, 3)
    mean, variance = propagate_moments(model, x, from_logits=True)
    sampled = predictive_moments(
        model, x, num_samples=3000, seed=0, from_logits=True, verbose=0
    )
    np.testing.assert_allclose(mean, sampled.mean, atol=0.03)
    np.testing.assert_allclose(
        np.sqrt(variance).mean(0), np.sqrt(sampled.variance).mean(0), rtol=0.1
    )
    # As often as not the first two are one and the same.
    np.testing.assert_allclose(mean[:, 0], mean[:, 1], rtol=1e-3)
    np.testing.assert_allclose(variance[:, 0], variance[:, 1], rtol=1e-3)


def test_noise_of_the_last_weights_is_that_of_each_logit(bayesian, normal):
    """Of very different size, with mean weights that would move two logits together."""
    model = bayesian((3,), layers.Dense(6), layers.Dense(3), scale=1e-3)
    output = model.layers[1]
    column = np.linspace(-1, 1, 6, dtype="float32")[:, None]
    loc = column * np.float32([[1, 1, -1]])
    scale = np.ones((6, 1), "float32") * np.float32([[1.0, 0.01, 0.3]])
    output.assign_posterior("kernel", tfd.Normal(loc, scale))
    x = normal(60, 3)
    mean, variance = propagate_moments(model, x, from_logits=True)
    sampled = predictive_moments(
        model, x, num_samples=3000, seed=0, from_logits=True, verbose=0
    )
    np.testing.assert_allclose(mean, sampled.mean, atol=0.03)
    np.testing.assert_allclose(
        np.sqrt(variance).mean(0), np.sqrt(sampled.variance).mean(0), rtol=0.1
    )


def test_half_precision_counts_as_float32(normal):
    network = keras.Sequential(
        [keras.Input((5,)), layers.Dense(4, dtype="mixed_float16")]
    )
    model = keras_bmr.to_variational(network, num_examples=100)
    x = normal(7, 5)
    mean, variance = propagate_moments(model, x)
    posterior = model.layers[0].posterior("kernel")
    assert mean.dtype == variance.dtype == np.float32
    np.testing.assert_allclose(mean, x @ posterior.mean(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(variance, x**2 @ posterior.variance(), rtol=1e-5)


def test_operations_with_constants(normal):
    inputs = keras.Input((4,))
    x = layers.Dense(3)(inputs)
    network = keras.Model(inputs, (2.0 * x - 1.0) / 4.0)
    model = keras_bmr.to_variational(network, num_examples=100)
    dense_only = keras.Model(model.inputs, call_graph(model).calls[0].operation.output)
    x = normal(5, 4)
    mean, variance = propagate_moments(dense_only, x)
    outputs = propagate_moments(model, x)
    np.testing.assert_allclose(outputs.mean, (2 * mean - 1) / 4, rtol=1e-5)
    np.testing.assert_allclose(outputs.variance, variance / 4, rtol=1e-5)


def test_constants_of_every_kind(bayesian, normal):
    """Numbers of NumPy, arrays and variables, behind a layer that stays as it is."""
    inputs = keras.Input((4,))
    hidden = layers.Dense(3)(inputs)
    outputs = hidden * np.float32(0.1) + np.float32(5)
    outputs = keras.ops.subtract(np.float64(2), outputs)
    outputs = outputs / np.int64(4) * keras.Variable(3.0)
    added = normal(1, 3)
    outputs = layers.Add()([outputs, added])
    model = keras_bmr.to_variational(keras.Model(inputs, outputs), num_examples=100)
    dense_only = keras.Model(model.inputs, call_graph(model).calls[0].operation.output)
    x = normal(5, 4)
    mean, variance = propagate_moments(dense_only, x)
    outputs = propagate_moments(model, x)
    expected = (2 - (0.1 * mean + 5)) / 4 * 3 + added
    np.testing.assert_allclose(outputs.mean, expected, rtol=1e-5)
    np.testing.assert_allclose(outputs.variance, variance * 0.075**2, rtol=1e-5)


def test_other_arguments_are_refused(normal, monkeypatch):
    inputs = keras.Input((4,))
    network = keras.Model(inputs, layers.Dense(3)(inputs)[:, :2])
    model = keras_bmr.to_variational(network, num_examples=100)
    slicing = call_graph(model).calls[-1].operation
    monkeypatch.setattr(
        "keras_bmr.export.uncertainty.registry._RULES",
        dict(keras_bmr.export.uncertainty.registry._RULES),
    )
    register_moment_rule(type(slicing))(lambda layer, weights, x: x)
    with pytest.raises(ValueError, match="of type tuple for 'get_item.*of class Get"):
        propagate_moments(model, normal(3, 4))


def test_masks_are_refused_where_they_would_count(normal):
    inputs = keras.Input((4,), dtype="int32")
    x = layers.Embedding(20, 6, mask_zero=True)(inputs)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    network = keras.Model(inputs, layers.Dense(2, name="head")(x))
    tokens = np.array([[1, 2, 0, 0], [3, 4, 5, 6]], "int32")
    model = keras_bmr.to_variational(network, num_examples=100)
    with pytest.raises(ValueError, match="\"ensemble\".*'pool' of class GlobalAver"):
        propagate_moments(model, tokens)
    # Before the first random weight the layers themselves run, masks and all.
    model = keras_bmr.to_variational(
        network, num_examples=100, skip=[network.layers[1].name]
    )
    table = model.layers[1].embeddings.numpy()
    pooled = np.stack([table[[1, 2]].mean(0), table[[3, 4, 5, 6]].mean(0)])
    posterior = model.get_layer("head").posterior("kernel")
    mean, variance = propagate_moments(model, tokens)
    np.testing.assert_allclose(mean, pooled @ posterior.mean().numpy(), atol=1e-6)
    expected = pooled**2 @ posterior.variance().numpy()
    np.testing.assert_allclose(variance, expected, rtol=1e-5)


class Cube(layers.Layer):
    def call(self, inputs):
        return inputs**3


def test_unknown_layers_are_named_and_can_be_registered(bayesian, normal, monkeypatch):
    model = bayesian((4,), layers.Dense(3), Cube(name="third_power"), scale=0.3)
    x = normal(5, 4)
    with pytest.raises(ValueError, match="'third_power' of class Cube.*register"):
        propagate_moments(model, x)
    monkeypatch.setattr(
        "keras_bmr.export.uncertainty.registry._RULES",
        dict(keras_bmr.export.uncertainty.registry._RULES),
    )

    @register_moment_rule(Cube)
    def cube(layer, weights, x):
        return elementwise_moments(layer, x)

    mean, variance = propagate_moments(model, x)
    hidden = propagate_moments(keras.Model(model.inputs, model.layers[0].output), x)
    m, v = hidden
    np.testing.assert_allclose(mean, m**3 + 3 * m * v, rtol=1e-4, atol=1e-5)
    expected = 9 * m**4 * v + 36 * m**2 * v**2 + 15 * v**3
    np.testing.assert_allclose(variance, expected, rtol=1e-3)
    with pytest.raises(ValueError, match="already has a moment rule, `cube`"):
        register_moment_rule(Cube)(cube)


@pytest.mark.parametrize(
    ("stack", "match"),
    [
        ([layers.Dense(3), layers.GroupNormalization(1, name="norm")], "'norm'"),
        (
            [layers.Dense(3, activation="sparsemax", name="own")],
            "`sparsemax` of",
        ),
        (
            [layers.Reshape((2, 2)), layers.SimpleRNN(3, name="rnn")],
            "'rnn' of class Sim",
        ),
        ([layers.Dense(4), layers.ReLU(threshold=1.0, name="relu")], "'relu' with max"),
        ([layers.Dense(4), layers.Softmax(axis=0, name="soft")], "'soft' with axis=0"),
    ],
)
def test_what_moments_cannot_pass(bayesian, normal, stack, match):
    with pytest.raises(ValueError, match=match):
        propagate_moments(bayesian((4,), *stack), normal(3, 4))


def test_models_that_are_refused(bayesian, normal):
    plain = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    with pytest.raises(ValueError, match="has no Bayesian layer"):
        propagate_moments(plain, normal(3, 4))
    inputs = keras.Input((4,))
    two = keras.Model(inputs, [layers.Dense(3)(inputs), layers.Dense(2)(inputs)])
    two = keras_bmr.to_variational(two, num_examples=100)
    with pytest.raises(ValueError, match="with 2 outputs"):
        propagate_moments(two, normal(3, 4))
    shared, a, b = layers.Dense(3, name="twin"), keras.Input((4,)), keras.Input((4,))
    siamese = keras.Model([a, b], layers.Subtract()([shared(a), shared(b)]))
    siamese = keras_bmr.to_variational(siamese, num_examples=100)
    with pytest.raises(ValueError, match="\"ensemble\".*'twin', called 2 times"):
        propagate_moments(siamese, [normal(3, 4), normal(3, 4, seed=2)])
    with pytest.raises(ValueError, match="sigmoid.*shape \\(None, 1\\)"):
        propagate_moments(bayesian((4,), layers.Dense(1)), normal(3, 4), True)
    with pytest.raises(ValueError, match="nan, infinite"):
        propagate_moments(bayesian((4,), layers.Dense(3)), np.full((3, 4), np.nan))
