import keras
import numpy as np
import pytest
from scipy import stats
from tensorflow_probability import distributions as tfd

import keras_bmr
from keras_bmr.callbacks import BayesFactorPruning

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 6)).astype("float32")
# Two of six inputs count.
Y = (X[:, 0] - X[:, 1] > 0).astype("int32")


def classifier(rate=0.0, momentum=0.0, **options):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="tanh", name="hidden"),
            keras.layers.Dense(2, name="logits"),
        ]
    )
    model.compile(
        keras.optimizers.SGD(rate, momentum=momentum),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
        **options,
    )
    return model


def log_density(hidden, logits, biases, scale, counted):
    """log p(y | x, w) + log p(w) in NumPy, over the weights that are counted."""
    z = np.tanh(X @ hidden + biases[0]).astype("float64") @ logits + biases[1]
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    weights = np.concatenate([hidden.ravel(), logits.ravel()])
    prior = stats.norm(0, scale).logpdf(weights)[counted].sum()
    return log_p[np.arange(len(Y)), Y].sum() + prior


@pytest.mark.parametrize("terms", ["all", "active"])
def test_ratio_of_densities_against_numpy(terms):
    model = classifier()
    hidden, b0, logits, b1 = model.get_weights()
    flat = np.concatenate([hidden.ravel(), logits.ravel()])
    dropped = np.argsort(np.abs(flat))[:13]  # a fifth of 64, rounded up
    candidate = flat.copy()
    candidate[dropped] = 0
    left = np.ones(64, bool)
    if terms == "active":
        left[dropped] = False
    expected = log_density(
        candidate[:48].reshape(6, 8), candidate[48:].reshape(8, 2), (b0, b1), 0.3, left
    ) - log_density(hidden, logits, (b0, b1), 0.3, np.ones(64, bool))
    threshold = expected - 0.01
    for offset, accepted in ((0.0, 1.0), (0.02, 0.0)):
        model = classifier()
        callback = BayesFactorPruning(
            0.2, threshold + offset, "magnitude", 0.3, (X, Y), prior_terms=terms
        )
        logs = model.fit(X, Y, epochs=1, verbose=0, callbacks=[callback]).history
        assert logs["log_bayes_factor"][0] == pytest.approx(expected, rel=1e-4)
        assert logs["accepted"] == [accepted]
        assert logs["sparsity"] == [13 / 64 if accepted else 0.0]
        # The candidate leaves no trace where it is turned down.
        new = [model.get_weights()[i].ravel() for i in (0, 2)]
        np.testing.assert_array_equal(
            np.concatenate(new), candidate if accepted else flat
        )


def test_pruned_weights_stay_zero_in_training_and_after_saving(tmp_path):
    model = classifier(0.1, momentum=0.9)
    # A step that was traced before there were any masks.
    model.fit(X, Y, epochs=1, verbose=0)
    # Everything is accepted, until 60 % are pruned.
    callback = BayesFactorPruning(
        0.3, -1e6, "random", data=(X, Y), sparsity=0.6, seed=3
    )
    zeros = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            kernels = [layer.kernel.numpy().ravel() for layer in self.model.layers]
            zeros.append(np.concatenate(kernels) == 0)

    history = model.fit(
        X, Y, epochs=5, verbose=0, callbacks=[callback, Watch()]
    ).history
    np.testing.assert_allclose(
        history["sparsity"], [20 / 64, 34 / 64, 38 / 64, 38 / 64, 38 / 64]
    )
    assert history["accepted"] == [1, 1, 1, 0, 0]
    assert history["log_bayes_factor"][3:] == [0, 0]
    counts = [mask.sum() for mask in zeros]
    assert counts == [0] * 7 + [20] * 7 + [34] * 7 + [38] * 14
    for before, after in zip(zeros, zeros[1:], strict=False):
        assert np.all(after[before])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    kernel = loaded.get_layer("hidden").kernel.numpy()
    loaded.fit(X, Y, epochs=1, verbose=0)
    again = loaded.get_layer("hidden").kernel.numpy()
    np.testing.assert_array_equal(again == 0, kernel == 0)
    assert not np.array_equal(again, kernel)
    assert keras_bmr.sparsity(loaded) == 38 / 64


def test_magnitude_keeps_what_the_data_need():
    model = classifier(0.5)
    callback = BayesFactorPruning(
        0.2, -2.0, prior_scale=1.0, data=(X, Y), sparsity=0.75
    )
    model.fit(X, Y, epochs=30, verbose=0, callbacks=[callback])
    assert keras_bmr.sparsity(model) == 0.75
    per_input = np.abs(model.get_layer("hidden").kernel.numpy()).sum(-1)
    assert min(per_input[:2]) > 2 * max(per_input[2:])
    assert np.mean(model.predict(X, verbose=0).argmax(-1) == Y) > 0.95


def test_a_subset_stands_for_all_examples():
    values = []
    for options in ({}, {"num_examples": 2000}):
        callback = BayesFactorPruning(
            0.9, prior_scale=1e6, data=(X, Y), sparsity=0.95, **options
        )
        history = classifier().fit(X, Y, epochs=1, verbose=0, callbacks=[callback])
        values += history.history["log_bayes_factor"]
    assert abs(values[0]) > 1
    assert values[1] == pytest.approx(10 * values[0], rel=1e-5)


class FixedPosterior:
    """Posteriors with a known log Bayes factor."""

    def __init__(self, model):
        self.model = model

    def weights(self):
        return [(layer, "kernel") for layer in self.model.layers]

    def posterior(self, layer, name):
        return tfd.Normal(layer.kernel.numpy(), 0.1)

    def prior(self, layer, name):
        return tfd.Normal(0.0, 2.0)


def test_evidence_ratio_is_the_sum_of_savage_dickey_ratios():
    model = classifier()
    kernels = [layer.kernel.numpy().ravel() for layer in model.layers]
    flat = np.concatenate(kernels).astype("float64")
    smallest = flat[np.argsort(np.abs(flat))[:13]]
    expected = np.sum(
        stats.norm(smallest, 0.1).logpdf(0) - stats.norm(0, 2.0).logpdf(0)
    )
    callback = BayesFactorPruning(0.2, source=FixedPosterior)
    history = model.fit(X, Y, epochs=1, verbose=0, callbacks=[callback]).history
    assert history["log_bayes_factor"][0] == pytest.approx(expected, rel=1e-5)
    assert history["accepted"] == [1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 1.0}, "`rate` must lie in"),
        ({"sparsity": 0.0}, "`sparsity` must lie in"),
        ({"method": "smallest"}, "`method` must be one of"),
        ({"prior_terms": "some"}, "`prior_terms` must be one of"),
        ({"threshold": np.nan}, "`threshold` must be finite"),
        ({"prior_scale": 0.0}, "`prior_scale` must be a positive"),
        ({"num_examples": 0}, "`num_examples` must be an integer"),
        ({"data": None}, "either `data`.*or `source`"),
        ({"source": FixedPosterior}, "either `data`.*or `source`"),
    ],
)
def test_invalid_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        BayesFactorPruning(**{"data": (X, Y), **options})


def test_models_that_it_is_not_for():
    def begin(model, data=(X, Y)):
        callback = BayesFactorPruning(data=data)
        callback.set_model(model)
        callback.on_train_begin()

    with pytest.raises(ValueError, match="ModelReductionCallback"):
        begin(keras_bmr.to_variational(classifier(), num_examples=200))
    frozen = classifier()
    frozen.trainable = False
    with pytest.raises(ValueError, match="no trainable kernel"):
        begin(frozen)
    model = classifier()
    model.compile("sgd", "mean_absolute_error")
    with pytest.raises(ValueError, match="must be a likelihood"):
        begin(model)
    with pytest.raises(ValueError, match=r"must be a pair \(x, y\)"):
        begin(classifier(), X)
