import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bmr import layers
from keras_bmr.objectives import predictive, predictive_moments

NUM_FEATURES = 3
# How a layer is trained must not matter for its predictions.
ESTIMATORS = pytest.mark.parametrize(
    "estimator", ["local_reparameterization", "flipout", "reparameterization"]
)


def linear_model(units=1, estimator="reparameterization"):
    """A Bayesian linear model whose posterior is far from its prior."""
    model = keras.Sequential(
        [
            keras.Input((NUM_FEATURES,)),
            layers.DenseVariational(units, estimator=estimator, num_examples=100),
        ]
    )
    spread(model)
    return model


def spread(model):
    """Writes large, unequal standard deviations into the posteriors."""
    rng = np.random.default_rng(1)
    for layer in layers.variational_layers(model):
        for name in layer.random_weight_names:
            posterior = layer.posterior(name)
            shape = tuple(posterior.batch_shape)
            scale = rng.uniform(0.5, 2.0, size=shape).astype("float32")
            loc = rng.normal(size=shape).astype("float32")
            layer.assign_posterior(name, type(posterior)(loc, scale))


def inputs(num_examples, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num_examples, NUM_FEATURES)).astype("float32")


def deep_model():
    model = keras.Sequential(
        [
            keras.Input((NUM_FEATURES,)),
            layers.DenseVariational(
                8, activation="tanh", estimator="reparameterization", num_examples=9
            ),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            layers.DenseVariational(4, estimator="reparameterization", num_examples=9),
        ]
    )
    spread(model)
    return model


@ESTIMATORS
def test_moments_equal_those_of_bayesian_linear_regression(estimator):
    model = linear_model(units=2, estimator=estimator)
    model.layers[0].bias.assign([0.5, -0.5])
    x = inputs(4)
    posterior = model.layers[0].posterior("kernel")
    mean = x @ posterior.mean().numpy() + [0.5, -0.5]
    variance = x**2 @ posterior.variance().numpy()
    num_samples = 4000
    samples = predictive(model, x, num_samples=num_samples, seed=0)
    assert samples.shape == (num_samples, 4, 2)
    standard_error = np.sqrt(variance / num_samples)
    # Five standard errors of a mean and of a normal variance.
    np.testing.assert_array_less(abs(samples.mean(0) - mean), 5 * standard_error)
    relative = abs(samples.var(0) / variance - 1)
    assert relative.max() < 5 * np.sqrt(2 / num_samples)


@ESTIMATORS
def test_a_sample_is_one_draw_of_the_weights_for_all_examples(estimator):
    model = linear_model(estimator=estimator)
    x = inputs(5)
    # Cut into chunks, so that the draw has to be the same in each of them.
    samples = predictive(model, x, num_samples=1000, batch_size=3, seed=0)[..., 0]
    variance = model.layers[0].posterior("kernel").variance().numpy()[:, 0]
    expected = (x * variance) @ x.T
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    error = abs(np.cov(samples, rowvar=False) - expected) / scale
    assert error.max() < 5 * np.sqrt(2 / 1000)
    # Three features: every sample is linear in the inputs, exactly.
    kernels, *_ = np.linalg.lstsq(x, samples.T, rcond=None)
    np.testing.assert_allclose(x @ kernels, samples.T, atol=1e-4)


def test_layers_draw_independently_and_samples_differ():
    model = keras.Sequential(
        [
            keras.Input((1,)),
            layers.DenseVariational(1, estimator="reparameterization", num_examples=9),
            layers.DenseVariational(1, estimator="reparameterization", num_examples=9),
        ]
    )
    spread(model)
    (m1, s1), (m2, s2) = (
        (p.mean().numpy().item(), p.stddev().numpy().item())
        for p in (layer.posterior("kernel") for layer in model.layers)
    )
    samples = predictive(model, np.ones((1, 1)), num_samples=4000, seed=0)
    # Moments of a product of two independent normals; a shared draw adds s1 s2.
    expected = m1 * m2
    variance = m1**2 * s2**2 + m2**2 * s1**2 + s1**2 * s2**2
    assert abs(samples.mean() - expected) < 5 * np.sqrt(variance / 4000)
    assert samples.var() == pytest.approx(variance, rel=0.2)
    assert len(np.unique(samples)) == 4000


def test_moments_equal_those_of_the_samples():
    model, x = deep_model(), inputs(7)
    samples = predictive(model, x, num_samples=30, seed=3).astype("float64")
    moments = predictive_moments(model, x, num_samples=30, seed=3, batch_size=3)
    np.testing.assert_allclose(moments.mean, samples.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(moments.variance, samples.var(0, ddof=1), rtol=1e-4)


def test_moments_are_stable_where_the_mean_is_large():
    model = linear_model()
    model.layers[0].bias.assign([1e4])
    x = inputs(3)
    samples = predictive(model, x, num_samples=200, seed=3).astype("float64")
    _, variance = predictive_moments(model, x, num_samples=200, seed=3)
    np.testing.assert_allclose(variance, samples.var(0, ddof=1), rtol=1e-3)


def test_seed_makes_the_result_reproducible():
    model, x = deep_model(), inputs(6)
    first = predictive(model, x, num_samples=5, seed=7)
    np.testing.assert_array_equal(predictive(model, x, num_samples=5, seed=7), first)
    # The first samples do not depend on how many are asked for.
    np.testing.assert_array_equal(
        predictive(model, x, num_samples=3, seed=7), first[:3]
    )
    assert abs(predictive(model, x, num_samples=5, seed=8) - first).min() > 0


def test_without_a_seed_the_results_differ_but_follow_the_global_one():
    model, x = deep_model(), inputs(6)
    keras.utils.set_random_seed(5)
    first = predictive(model, x, num_samples=2)
    second = predictive(model, x, num_samples=2)
    assert abs(first - second).min() > 0
    keras.utils.set_random_seed(5)
    np.testing.assert_array_equal(predictive(model, x, num_samples=2), first)


@pytest.mark.parametrize("batch_size", [1, 4, 10, 64])
def test_chunks_do_not_change_the_result(batch_size):
    model, x = deep_model(), inputs(10)
    whole = predictive(model, x, num_samples=4, seed=1)
    in_chunks = predictive(model, x, num_samples=4, seed=1, batch_size=batch_size)
    np.testing.assert_allclose(in_chunks, whole, rtol=1e-4, atol=1e-5)


def test_normalisation_and_dropout_stay_in_inference_mode():
    model, x = deep_model(), inputs(20)
    normalisation, dropout = model.layers[1:3]
    normalisation.moving_mean.assign(np.arange(8.0))
    normalisation.moving_variance.assign(np.arange(1.0, 9.0))
    before = [
        v.numpy()
        for v in (*normalisation.variables, *dropout.variables, *model.weights)
    ]
    samples = predictive(model, x, num_samples=50, seed=0)
    after = [
        v.numpy()
        for v in (*normalisation.variables, *dropout.variables, *model.weights)
    ]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new, old)
    # With dropout or batch statistics the value of an example would depend on others.
    alone = predictive(model, x[:1], num_samples=50, seed=0)
    np.testing.assert_allclose(samples[:, :1], alone, rtol=1e-4, atol=1e-5)


def test_pruned_weights_stay_zero():
    model = linear_model()
    keep = np.array([[True], [False], [True]])
    model.layers[0].prune("kernel", keep)
    samples = predictive(model, np.eye(3), num_samples=10, seed=0)[..., 0]
    np.testing.assert_array_equal(samples[:, 1], 0)
    assert samples[:, [0, 2]].std(0).min() > 0.1


def test_logits_become_probabilities_sample_by_sample():
    model, x = deep_model(), inputs(5)
    logits = predictive(model, x, num_samples=6, seed=2).astype("float64")
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    actual = predictive(model, x, num_samples=6, seed=2, from_logits=True)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-7)
    mean, _ = predictive_moments(model, x, num_samples=6, seed=2, from_logits=True)
    np.testing.assert_allclose(mean, expected.mean(0), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "as_dataset",
    [
        lambda x: tf.data.Dataset.from_tensor_slices(x).batch(4),
        lambda x: tf.data.Dataset.from_tensor_slices((x, x)).batch(3),
        lambda x: tf.data.Dataset.from_tensor_slices((x, x, x)).batch(3),
        # A cardinality that nobody knows.
        lambda x: tf.data.Dataset.from_tensor_slices(x).batch(4).filter(lambda _: True),
    ],
)
def test_datasets_give_the_result_of_arrays(as_dataset):
    model, x = deep_model(), inputs(10)
    expected = predictive(model, x, num_samples=3, seed=1)
    actual = predictive(model, as_dataset(x), num_samples=3, seed=1)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("keys", "structure"),
    [
        (True, lambda a, b: {"a": a, "b": b}),
        (False, lambda a, b: (a, b)),
        (False, lambda a, b: [tf.constant(a), b]),
        (True, lambda a, b: tf.data.Dataset.from_tensor_slices({"a": a, "b": b})),
    ],
    ids=["dict", "tuple", "list", "dataset"],
)
def test_structures_of_inputs(keys, structure):
    a, b = keras.Input((2,), name="a"), keras.Input((1,), name="b")
    dense = layers.DenseVariational(1, estimator="reparameterization", num_examples=9)
    outputs = dense(keras.ops.concatenate([a, b], axis=-1))
    model = keras.Model({"a": a, "b": b} if keys else [a, b], outputs)
    spread(model)
    x = inputs(5)
    structured = structure(x[:, :2], x[:, 2:])
    if isinstance(structured, tf.data.Dataset):
        structured = structured.batch(2)
    actual = predictive(model, structured, num_samples=3, seed=0)
    flat = keras.Sequential([keras.Input((NUM_FEATURES,)), dense])
    expected = predictive(flat, x, num_samples=3, seed=0)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_half_precision_outputs_come_as_float32():
    model = keras.Sequential(
        [
            keras.Input((NUM_FEATURES,)),
            layers.DenseVariational(4, dtype="mixed_float16", num_examples=9),
        ]
    )
    samples = predictive(model, inputs(5), num_samples=3, from_logits=True)
    assert samples.dtype == np.float32
    # The sum of a softmax in half precision is off by 1e-4 and more.
    np.testing.assert_allclose(samples.sum(-1), 1, rtol=1e-6)


def test_progress(capsys, monkeypatch):
    model, x = linear_model(), inputs(6)
    dataset = tf.data.Dataset.from_tensor_slices(x).batch(3)
    predictive(model, x, num_samples=5, batch_size=3)
    assert capsys.readouterr().out == ""
    predictive(model, x, num_samples=5, batch_size=3, verbose=0)
    assert capsys.readouterr().out == ""
    for data, options in (
        (x, {"batch_size": 3}),
        (dataset, {}),
        (dataset.filter(lambda _: True), {}),
    ):
        predictive(model, data, num_samples=5, verbose=2, **options)
        # Two chunks with five samples each.
        assert "10/" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    predictive(model, x, num_samples=5)
    assert "5/5" in capsys.readouterr().out


def test_model_without_bayesian_layers_is_refused():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)], name="plain")
    with pytest.raises(ValueError, match="'plain' has no Bayesian layer.*Expected"):
        predictive(model, inputs(2))


def test_model_that_is_not_built_is_refused():
    model = keras.Sequential([layers.DenseVariational(1, name="dense")])
    with pytest.raises(ValueError, match="not built yet.*dense"):
        predictive(model, inputs(2))


def test_model_with_several_outputs_is_refused():
    model_input = keras.Input((3,))
    outputs = layers.DenseVariational(1, num_examples=9)(model_input)
    model = keras.Model(model_input, {"a": outputs, "b": model_input}, name="two")
    with pytest.raises(ValueError, match="'two' must have a single tensor.*type dict"):
        predictive(model, inputs(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "`num_samples`.*at least .*num_samples=0"),
        ({"num_samples": 2.5}, "`num_samples`.*num_samples=2.5"),
        ({"num_samples": True}, "`num_samples`.*num_samples=True"),
        ({"batch_size": 0}, "`batch_size`.*at least 1.*batch_size=0"),
        ({"batch_size": "all"}, "`batch_size`.*batch_size='all'"),
        ({"seed": -1}, "`seed`.*at least 0.*seed=-1"),
        ({"seed": 1.0}, "`seed`.*seed=1.0"),
        ({"verbose": 3}, "`verbose`.*verbose=3"),
        ({"verbose": "loud"}, "`verbose`.*verbose='loud'"),
    ],
)
@pytest.mark.parametrize("function", [predictive, predictive_moments])
def test_invalid_arguments_are_refused(function, options, message):
    with pytest.raises(ValueError, match=message):
        function(linear_model(), inputs(2), **options)


@pytest.mark.parametrize("function", [predictive, predictive_moments])
def test_a_softmax_of_a_single_logit_is_refused(function):
    with pytest.raises(ValueError, match=r"sigmoid.*shape \(None, 1\)"):
        function(linear_model(), inputs(5), num_samples=2, from_logits=True)


def test_a_softmax_of_probabilities_is_refused():
    last_layers = (
        keras.layers.Dense(3, activation="softmax"),
        keras.layers.Softmax(),
        keras.layers.Activation("sigmoid"),
    )
    for last in last_layers:
        network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3), last])
        model = layers.to_variational(network, num_examples=10)
        with pytest.raises(ValueError, match="probabilities already"):
            predictive(model, inputs(2), num_samples=2, from_logits=True)
        assert predictive(model, inputs(2), num_samples=2).shape == (2, 2, 3)


def test_moments_of_a_single_sample_are_refused():
    with pytest.raises(ValueError, match="`num_samples`.*at least 2"):
        predictive_moments(linear_model(), inputs(2), num_samples=1)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (inputs(0), r"at least one example.*arrays with \[0\]"),
        ((inputs(2), inputs(3)), r"same number.*arrays with \[2, 3\]"),
        ([[1.0, 2.0, 3.0]], "array with an axis of examples.*type float"),
        (iter([inputs(2)]), "tf.data.Dataset.*iterator"),
        (None, "array with an axis of examples"),
        (tf.data.Dataset.from_tensors(inputs(2)).repeat(), "infinite dataset"),
        (tf.data.Dataset.from_tensors(inputs(2)).take(0), "empty dataset"),
    ],
    ids=["empty", "ragged", "nested", "iterator", "none", "infinite", "no_batches"],
)
@pytest.mark.parametrize("function", [predictive, predictive_moments])
def test_invalid_inputs_are_refused(function, x, message):
    with pytest.raises(ValueError, match=message):
        function(linear_model(), x, num_samples=2)


def test_batch_size_of_a_dataset_is_refused():
    dataset = tf.data.Dataset.from_tensor_slices(inputs(4)).batch(2)
    with pytest.raises(ValueError, match=r"rebatch\(3\).*batch_size=3"):
        predictive(linear_model(), dataset, batch_size=3)


@pytest.mark.parametrize("function", [predictive, predictive_moments])
def test_nan_is_refused_and_its_source_named(function):
    model = linear_model()
    x = inputs(3)
    x[1, 0] = np.nan
    with pytest.raises(ValueError, match="finite weights and gives NaN in .*Check `x`"):
        function(model, x, num_samples=2)
    kernel = model.layers[0].kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    with pytest.raises(ValueError, match="Expected finite weights.*kernel"):
        function(model, inputs(3), num_samples=2)


def test_inputs_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="axis -1 .* value 3.*None, 2"):
        predictive(linear_model(), inputs(3)[:, :-1], num_samples=2)
