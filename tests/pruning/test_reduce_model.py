import keras
import numpy as np
import pytest
from tensorflow_probability import distributions as tfd

import keras_bmr
from keras_bmr import ModelReduction, reduce_model
from keras_bmr.layers import variational_layers


def values_of(model):
    return [variable.numpy().copy() for variable in model.variables]


def test_copy_is_pruned_and_the_original_is_not(dense_model):
    before = values_of(dense_model)
    reduction = ModelReduction(dense_model, sparsity=0.5)
    reduced = reduce_model(dense_model, sparsity=0.5)
    for old, new in zip(before, values_of(dense_model), strict=True):
        np.testing.assert_array_equal(old, new)
    assert keras_bmr.sparsity(dense_model) == 0.0
    assert keras_bmr.sparsity(reduced) == 0.5
    for original, copy in zip(
        variational_layers(dense_model), variational_layers(reduced), strict=True
    ):
        keep = reduction.keep(original.name)
        np.testing.assert_array_equal(copy.mask("kernel").numpy(), keep)
        expected, found = original.posterior("kernel"), copy.posterior("kernel")
        np.testing.assert_allclose(found.loc, np.where(keep, expected.loc, 0))
        np.testing.assert_allclose(
            found.scale, np.where(keep, expected.scale, 0), rtol=1e-6
        )
    x = np.random.default_rng(0).normal(size=(5, 10)).astype("float32")
    hidden, output = variational_layers(dense_model)
    masked = np.maximum(x @ (hidden.kernel * reduction.keep("hidden")), 0)
    masked = masked @ (output.kernel * reduction.keep("output"))
    np.testing.assert_allclose(reduced.predict(x, verbose=0), masked, atol=1e-5)


@pytest.mark.parametrize("prior", ["layerwise_normal", "scale_mixture_normal"])
def test_pruned_weights_stay_zero_in_training(tmp_path, prior):
    model = keras.Sequential(
        [
            keras.Input((10,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(3),
        ]
    )
    model = keras_bmr.to_variational(
        model, num_examples=64, prior=prior, bayesian_bias=True
    )
    generator = np.random.default_rng(0)
    x = generator.normal(size=(64, 10)).astype("float32")
    y = generator.integers(0, 3, size=64)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss=loss)
    model.fit(x, y, epochs=2, verbose=0)
    # In the middle of training, so that Adam has momentum when weights go.
    ModelReduction(model, sparsity=0.6).apply(model)
    reduced = reduce_model(model, sparsity=0.8)
    reduced.compile(keras.optimizers.Adam(0.05), loss=loss)
    for trained, share in ((model, 0.6), (reduced, 0.8)):
        before = values_of(trained)
        trained.fit(x, y, epochs=3, verbose=0)
        assert keras_bmr.sparsity(trained) == pytest.approx(share, abs=0.5 / 227)
        for layer in variational_layers(trained):
            for name, variable in layer.location_variables(layer).items():
                pruned = ~layer.mask(name).numpy()
                assert pruned.any()
                assert (variable.numpy()[pruned] == 0).all()
                assert (layer.posterior(name).mean().numpy()[pruned] == 0).all()
        changed = [
            not np.array_equal(old, new)
            for old, new in zip(before, values_of(trained), strict=True)
        ]
        assert any(changed)
    reduced.save(tmp_path / "reduced.keras")
    loaded = keras.models.load_model(tmp_path / "reduced.keras")
    assert keras_bmr.sparsity(loaded) == keras_bmr.sparsity(reduced)
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), reduced.predict(x, verbose=0)
    )


def test_already_pruned_weights_count_towards_the_target(dense_model):
    reduced = reduce_model(dense_model, sparsity=0.5)
    further = reduce_model(reduced, sparsity=0.75)
    assert keras_bmr.sparsity(further) == 0.75
    for first, second in zip(
        variational_layers(reduced), variational_layers(further), strict=True
    ):
        assert (first.mask("kernel").numpy() | ~second.mask("kernel").numpy()).all()
    # Nothing returns.
    assert keras_bmr.sparsity(reduce_model(further, sparsity=0.25)) == 0.75


def test_dead_paths_are_removed(dense_model):
    hidden, output = variational_layers(dense_model)
    tight = np.full((8, 3), 0.01, "float32")
    loc = np.ones((8, 3), "float32")
    loc[2] = 0.0
    output.assign_posterior("kernel", tfd.Normal(loc, tight))
    reduced = reduce_model(dense_model, threshold=0.0)
    hidden, output = variational_layers(reduced)
    assert not output.mask("kernel").numpy()[2].any()
    assert not hidden.mask("kernel").numpy()[:, 2].any()
    reduction = ModelReduction(dense_model, threshold=0.0)
    assert reduction.keep("hidden")[:, 2].any()
    reduced = reduce_model(dense_model, threshold=0.0, skip=["hidden"])
    assert variational_layers(reduced)[0].mask("kernel").numpy().all()


def narrow(loc):
    return tfd.Normal(loc.astype("float32"), np.full(loc.shape, 0.01, "float32"))


def test_model_that_falls_apart_is_refused(dense_model):
    hidden, output = variational_layers(dense_model)
    # The first half of the hidden units has no outputs, the other half no inputs.
    first_half = np.arange(8) < 4
    loc = np.where(first_half, 1.0, 0.0) * np.ones((10, 1))
    hidden.assign_posterior("kernel", narrow(loc))
    loc = np.where(first_half, 0.0, 1.0)[:, np.newaxis] * np.ones((1, 3))
    output.assign_posterior("kernel", narrow(loc))
    assert [
        layer.num_kept for layer in ModelReduction(dense_model, threshold=0.0).layers()
    ] == [40, 12]
    with pytest.raises(ValueError, match="Nothing would be left of layer 'hidden'"):
        reduce_model(dense_model, threshold=0.0)


def test_reduced_posteriors_are_written_back(dense_model):
    reduced_prior = tfd.Normal(0.0, 0.5)
    reduced = reduce_model(
        dense_model, reduced_prior=reduced_prior, sparsity=0.3, write_back=True
    )
    for original, copy in zip(
        variational_layers(dense_model), variational_layers(reduced), strict=True
    ):
        posterior = original.posterior("kernel")
        mean = posterior.loc.numpy().astype("float64")
        variance = posterior.scale.numpy().astype("float64") ** 2
        # Precisions add; the prior N(0, 1) is exchanged for N(0, 1/4).
        precision = 1 / variance - 1 + 4
        keep = copy.mask("kernel").numpy()
        found = copy.posterior("kernel")
        np.testing.assert_allclose(
            found.loc.numpy()[keep], (mean / variance / precision)[keep], rtol=1e-4
        )
        np.testing.assert_allclose(
            found.scale.numpy()[keep], precision[keep] ** -0.5, rtol=1e-4
        )
        assert (found.loc.numpy()[~keep] == 0).all()


def test_write_back_under_a_hierarchical_scale():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="d")])
    prior = keras_bmr.priors.ScaleMixtureNormal(factor=0.1)
    model = keras_bmr.to_variational(model, num_examples=1, prior=prior)
    generator = np.random.default_rng(0)
    model.get_layer("d").assign_posterior(
        "kernel",
        tfd.Normal(
            generator.normal(size=(4, 3)).astype("float32"),
            np.full((4, 3), 0.05, "float32"),
        ),
    )
    reduced_prior = tfd.Normal(0.0, 0.08)
    expected = keras_bmr.reduction.model_reduction(
        model.get_layer("d").posterior("kernel"),
        model.get_layer("d").prior("kernel"),
        reduced_prior,
    ).posterior
    reduced = reduce_model(
        model, reduced_prior=reduced_prior, threshold=np.inf, write_back=True
    )
    found = reduced.get_layer("d").posterior("kernel")
    np.testing.assert_allclose(found.loc, expected.loc, rtol=1e-4)
    np.testing.assert_allclose(found.scale, expected.scale, rtol=1e-4)


def test_point_mass_cannot_be_written_back(dense_model):
    with pytest.raises(ValueError, match="`write_back=True` needs a reduced prior"):
        reduce_model(dense_model, write_back=True)


def test_subclassed_model_is_pruned_in_place():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras_bmr.layers.DenseVariational(4, num_examples=1)

        def call(self, inputs):
            return self.dense(inputs)

    model = Model()
    model(np.ones((1, 5), "float32"))
    with pytest.raises(ValueError, match="Expected a Sequential or Functional"):
        reduce_model(model, sparsity=0.5)
    ModelReduction(model, sparsity=0.5).apply(model)
    assert keras_bmr.sparsity(model) == 0.5


def test_bayesian_biases_are_pruned_like_weights():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="d")])
    model = keras_bmr.to_variational(model, num_examples=1, bayesian_bias=True)
    generator = np.random.default_rng(0)
    kernel = generator.normal(size=(4, 3)).astype("float32")
    layer = model.get_layer("d")
    layer.assign_posterior("kernel", tfd.Normal(kernel, 0.1 + 0 * kernel))
    bias = np.array([0.0, 2.0, 0.0], "float32")
    layer.assign_posterior("bias", tfd.Normal(bias, 0.1 + 0 * bias))
    reduction = ModelReduction(model, criterion="magnitude", sparsity=2 / 15)
    np.testing.assert_array_equal(reduction.keep("d", "bias"), [False, True, False])
    assert reduction.keep("d", "kernel").all()


def test_a_layer_without_weights_is_noticed_where_another_has_its_name():
    def part():
        dense = keras.layers.Dense(4, name="dense")
        return keras.Sequential([keras.Input((4,)), dense])

    model = keras.Sequential([keras.Input((4,)), part(), part()])
    model = keras_bmr.to_variational(model, num_examples=10)
    first, second = keras_bmr.layers.variational_layers(model)
    first.kernel.assign(np.ones((4, 4)))
    second.kernel.assign(np.full((4, 4), 1e-6))
    before = model.get_weights()
    with pytest.raises(ValueError, match="Nothing would be left of layer 'dense'"):
        ModelReduction(model, criterion="magnitude", threshold=-1e-3).apply(model)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert first.mask("kernel").numpy().all()
