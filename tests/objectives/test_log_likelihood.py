import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

from keras_bmr.objectives import LogLikelihood

RNG = np.random.default_rng(0)
X = RNG.normal(size=(1500, 3)).astype("float32")
LABELS = RNG.integers(0, 4, 1500)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])


@pytest.fixture(scope="module")
def outputs(model):
    kernel, bias = model.get_weights()
    return X.astype("float64") @ kernel + bias


def cross_entropy(**options):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **options)


def test_categorical(model, outputs):
    expected = special.log_softmax(outputs, -1)[np.arange(1500), LABELS].sum()
    value = LogLikelihood(model, (X, LABELS), cross_entropy())
    assert value.num_examples() == 1500
    assert value() == pytest.approx(expected, rel=1e-6)
    one_hot = keras.losses.CategoricalCrossentropy(from_logits=True)
    y = np.eye(4)[LABELS]
    assert LogLikelihood(model, (X, y), one_hot)() == pytest.approx(expected, rel=1e-6)


def test_dataset_of_uneven_batches(model):
    data = tf.data.Dataset.from_tensor_slices((X, LABELS)).batch(700)
    value = LogLikelihood(model, data, cross_entropy())
    assert value.num_examples() == 1500
    expected = LogLikelihood(model, (X, LABELS), cross_entropy())()
    assert value() == pytest.approx(expected, rel=1e-6)


def test_independent_outputs_are_summed(model, outputs):
    y = RNG.integers(0, 2, (1500, 4))
    expected = stats.bernoulli(special.expit(outputs)).logpmf(y).sum()
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    assert LogLikelihood(model, (X, y), loss)() == pytest.approx(expected, rel=1e-5)
    targets = RNG.normal(size=(1500, 4))
    density = stats.norm(outputs).logpdf(targets).sum()
    constant = stats.norm.logpdf(0) * targets.size
    value = LogLikelihood(model, (X, targets), "mse")()
    assert value == pytest.approx(density - constant, rel=1e-5)


def test_it_follows_the_weights(model):
    value = LogLikelihood(model, (X, LABELS), cross_entropy())
    weights = model.get_weights()
    model.set_weights([np.zeros_like(weight) for weight in weights])
    assert value() == pytest.approx(-1500 * np.log(4), rel=1e-6)
    model.set_weights(weights)


@pytest.mark.parametrize(
    "loss",
    [None, "mean_absolute_error", {"a": "mse"}, keras.losses.Huber()]
    + [keras.losses.CategoricalCrossentropy(label_smoothing=0.1)],
)
def test_losses_that_are_no_likelihood(model, loss):
    with pytest.raises(ValueError, match="must be a likelihood"):
        LogLikelihood(model, (X, LABELS), loss)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([X, LABELS], "must be a pair"),
        ((X, LABELS[:-1]), "as many inputs as targets"),
        ((X[:0], LABELS[:0]), "at least one"),
        ((X.tolist(), LABELS), "`numpy.asarray` makes an array.*type float"),
        ((np.where(X > 2, np.nan, X), LABELS), "must be finite"),
    ],
)
def test_data_of_another_form(model, data, message):
    with pytest.raises(ValueError, match=message):
        LogLikelihood(model, data, cross_entropy())


def test_empty_and_weighted_datasets(model):
    dataset = tf.data.Dataset.from_tensor_slices((X, LABELS, np.ones(1500)))
    with pytest.raises(ValueError, match="without sample weights"):
        LogLikelihood(model, dataset.batch(10), cross_entropy())()
    with pytest.raises(ValueError, match="at least one batch"):
        LogLikelihood(model, dataset.batch(10).take(0), cross_entropy())()


def test_inputs_may_be_text():
    vectorization = keras.layers.TextVectorization(
        output_mode="multi_hot", vocabulary=["a", "b"]
    )
    dense = keras.layers.Dense(2)
    model = keras.Sequential([keras.Input((1,), dtype="string"), vectorization, dense])
    x = np.array([["a"], ["b a"]], dtype=object)
    kernel, bias = (v.numpy() for v in dense.weights)
    # The first column is that of unknown words.
    logits = np.array([[0, 1, 0], [0, 1, 1]]) @ kernel + bias
    expected = special.log_softmax(logits, -1)[[0, 1], [0, 1]].sum()
    log_likelihood = LogLikelihood(model, (x, np.array([0, 1])), cross_entropy())
    assert log_likelihood() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", ["mse", "binary_crossentropy"])
def test_targets_may_lack_the_axis_of_outputs(loss):
    network = keras.Sequential(
        [keras.Input((4, 5, 2)), keras.layers.Conv2D(1, 3, activation="sigmoid")]
    )
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 4, 5, 2)).astype("float32")
    y = rng.integers(0, 2, (6, 2, 3)).astype("float32")
    outputs = network.predict(x, verbose=0)[..., 0].astype("float64")
    if loss == "mse":
        expected = -0.5 * np.sum((outputs - y) ** 2)
    else:
        expected = np.sum(np.log(np.where(y, outputs, 1 - outputs)))
    for targets in (y, y[..., None]):
        found = LogLikelihood(network, (x, targets), loss)()
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("loss", ["mse", "sparse_categorical_crossentropy"])
def test_padding_does_not_count(loss):
    num_outputs, activation = (1, None) if loss == "mse" else (3, "softmax")
    network = keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            keras.layers.Embedding(10, 4, mask_zero=True),
            keras.layers.Dense(num_outputs, activation=activation),
        ]
    )
    rng = np.random.default_rng(0)
    x, y = rng.integers(1, 10, (20, 5)), rng.integers(0, 3, (20, 5))
    x[:, 3:] = 0
    network.compile("sgd", loss)
    # Keras takes the mean over the 60 tokens.
    expected = -60 * network.evaluate(x, y[..., None], verbose=0)
    factor = 0.5 if loss == "mse" else 1.0
    found = LogLikelihood(network, (x, y[..., None] if loss == "mse" else y), loss)()
    np.testing.assert_allclose(found, factor * expected, rtol=1e-5)
