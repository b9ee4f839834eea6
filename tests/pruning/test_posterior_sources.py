"""Ordinary models with posteriors from elsewhere."""

import keras
import numpy as np
import pytest
from tensorflow_probability import distributions as tfd

import keras_bmr
from keras_bmr import ModelReduction, reduce_model
from keras_bmr.pruning import weight_mask


@pytest.fixture
def source(posteriors_of):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="relu", name="hidden"),
            keras.layers.Dense(3, name="output"),
        ]
    )
    for variable in model.weights:
        variable.assign(np.random.default_rng(1).normal(size=variable.shape) / 2)
    return posteriors_of(model)


def values_of(source):
    """Posterior precision times squared weight, and the precision, in float64."""
    values = {}
    for layer, name in source.weights():
        precision = source.precisions[layer.name, name]
        squares = np.square(getattr(layer, name).numpy().astype("float64"))
        values[layer.name, name] = precision * squares, precision
    return values


def test_evidence_is_the_occam_term_less_half_the_damage(source):
    reduction = ModelReduction(source, reduced_prior="point_mass")
    for (layer, name), (damage, precision) in values_of(source).items():
        expected = 0.5 * np.log(precision / 2.0) - 0.5 * damage
        delta_f = reduction.delta_f(layer, name)
        np.testing.assert_allclose(delta_f, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(reduction.keep(layer, name), expected <= 0)


def test_least_damage_goes_first(source):
    reduced = reduce_model(source, criterion="opd", sparsity=0.6, skip=["output"])
    damages = values_of(source)
    both = np.concatenate([damages["hidden", n][0].ravel() for n in ("kernel", "bias")])
    cut = np.sort(both)[round(0.6 * both.size) - 1]
    for name in ("kernel", "bias"):
        kept = getattr(reduced.get_layer("hidden"), name).numpy() != 0
        np.testing.assert_array_equal(kept, damages["hidden", name][0] > cut)
    assert (reduced.get_layer("output").kernel.numpy() != 0).all()


def test_pruned_copy_is_an_ordinary_model_that_stays_pruned(
    source, posteriors_of, tmp_path
):
    before = source.model.get_weights()
    reduced = reduce_model(source, sparsity=0.5, criterion="opd")
    for old, new in zip(before, source.model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert [type(layer) for layer in reduced.layers] == [keras.layers.Dense] * 2
    zeros = [value == 0 for value in reduced.get_weights()]
    assert sum(zero.sum() for zero in zeros) == round(0.5 * 83)
    reduced.save(tmp_path / "reduced.keras")
    loaded = keras.models.load_model(tmp_path / "reduced.keras", safe_mode=True)
    x = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
    y = np.zeros(16, "int32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    loaded.compile(keras.optimizers.Adam(0.1), loss=loss, jit_compile=False)
    loaded.fit(x, y, epochs=2, verbose=0)
    for zero, value in zip(zeros, loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(value == 0, zero)
    # A second reduction counts what is pruned already.
    further = reduce_model(posteriors_of(loaded), sparsity=0.75, criterion="opd")
    for zero, value in zip(zeros, further.get_weights(), strict=True):
        assert (value[zero] == 0).all()
    assert sum((v == 0).sum() for v in further.get_weights()) == round(0.75 * 83)


def test_pruning_in_place_reaches_a_step_that_is_compiled_already(source):
    model = source.model
    model.compile(keras.optimizers.SGD(0.1, 0.9), loss="mse", jit_compile=False)
    x, y = np.ones((8, 6), "float32"), np.ones((8, 3), "float32")
    model.fit(x, y, verbose=0)
    ModelReduction(source, sparsity=0.5).apply(model)
    model.fit(x, y, verbose=0)
    for layer, name in source.weights():
        mask = weight_mask(layer, name)
        np.testing.assert_array_equal(getattr(layer, name).numpy() != 0, mask)
        assert not mask.all()


def test_what_is_no_source_is_refused(source, posteriors_of):
    with pytest.raises(ValueError, match="Expected a `keras.Model`"):
        ModelReduction(object())
    with pytest.raises(
        ValueError, match="needs a Bayesian model.*'hidden'.*Posteriors"
    ):
        reduced_prior = tfd.Normal(0.0, 0.1)
        reduce_model(source, reduced_prior=reduced_prior, write_back=True)
    other = posteriors_of(keras.models.clone_model(source.model))
    other.model = source.model
    other.weights = lambda: [(keras.layers.Dense(2, name="strange"), "kernel")]
    with pytest.raises(ValueError, match="'strange'.*of other layers"):
        ModelReduction(other)
    other.weights = lambda: []
    with pytest.raises(ValueError, match="`weights\\(\\)` is empty"):
        ModelReduction(other)
    source.precisions["output", "kernel"] = np.ones((2, 8, 3))
    with pytest.raises(ValueError, match=r"'output' must have.*\(8, 3\).*Received"):
        ModelReduction(source)
    other = keras_bmr.pruning.PosteriorSource
    assert isinstance(source, other)
