import keras
import numpy as np
import pytest
import scipy.stats
from tensorflow_probability import distributions as tfd

import keras_bmr
from keras_bmr import ModelReduction
from keras_bmr.layers import variational_layers
from keras_bmr.pruning import SpikeAndSlab

NAN = float("nan")


def posterior_arrays(model, name):
    layer = model.get_layer(name)
    posterior = layer.posterior("kernel")
    return (
        posterior.loc.numpy().astype("float64"),
        posterior.scale.numpy().astype("float64"),
    )


def point_mass_delta_f(mean, scale, prior_scale):
    """Two log densities at zero, in float64."""
    return scipy.stats.norm.logpdf(0, mean, scale) - scipy.stats.norm.logpdf(
        0, 0, prior_scale
    )


def test_hand_computed_evidence():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="d")])
    model = keras_bmr.to_variational(
        model, num_examples=1, prior=keras_bmr.priors.Normal(2.0)
    )
    model.get_layer("d").assign_posterior(
        "kernel", tfd.Normal([[0.0], [3.0]], [[0.5], [1.0]])
    )
    reduction = ModelReduction(model, reduced_prior="point_mass")
    # log(2 / 0.5) and log(2 / 1) - 9 / 2
    expected = [[1.3862943611], [-3.8068528194]]
    np.testing.assert_allclose(reduction.delta_f("d"), expected, rtol=1e-6)
    np.testing.assert_array_equal(reduction.keep("d"), [[False], [True]])
    assert reduction.log_bayes_factor == pytest.approx(1.3862943611)
    (layer,) = reduction.layers()
    assert (layer.layer, layer.num_weights, layer.num_kept) == ("d", 2, 1)
    assert layer.log_bayes_factor == pytest.approx(1.3862943611)


@pytest.mark.parametrize(
    "prior, prior_scale",
    [
        (keras_bmr.priors.Normal(0.3), lambda mean, scale: 0.3),
        ("layerwise_normal", lambda mean, scale: np.sqrt(np.mean(mean**2 + scale**2))),
        ("empirical_bayes_normal", lambda mean, scale: np.hypot(mean, scale)),
    ],
)
def test_delta_f_agrees_with_float64(prior, prior_scale):
    model = keras.Sequential([keras.Input((50,)), keras.layers.Dense(40, name="d")])
    model = keras_bmr.to_variational(model, num_examples=1, prior=prior)
    generator = np.random.default_rng(3)
    mean = generator.normal(size=(50, 40)).astype("float32")
    scale = np.exp(generator.uniform(-8, 1, size=(50, 40))).astype("float32")
    model.get_layer("d").assign_posterior("kernel", tfd.Normal(mean, scale))
    delta_f = ModelReduction(model, threshold=0.0).delta_f("d", "kernel")
    mean, scale = posterior_arrays(model, "d")
    expected = point_mass_delta_f(mean, scale, prior_scale(mean, scale))
    np.testing.assert_allclose(delta_f, expected, rtol=2e-5, atol=2e-6)


def test_normal_reduced_prior_agrees_with_quadrature(dense_model):
    reduction = ModelReduction(dense_model, reduced_prior=tfd.Normal(0.0, 0.1))
    mean, scale = posterior_arrays(dense_model, "output")
    nodes = np.linspace(-1.5, 1.5, 20001)
    log_ratio = scipy.stats.norm.logpdf(nodes, 0, 0.1) - scipy.stats.norm.logpdf(nodes)
    for index in [(0, 0), (3, 1), (7, 2)]:
        density = scipy.stats.norm.pdf(nodes, mean[index], scale[index])
        expected = np.log(np.trapezoid(density * np.exp(log_ratio), nodes))
        assert reduction.delta_f("output")[index] == pytest.approx(expected, rel=1e-3)
    delta_f = reduction.delta_f("output")
    np.testing.assert_array_equal(reduction.keep("output"), delta_f <= 0)


def test_linear_regression_agrees_with_two_exact_evidences():
    # Orthogonal inputs make the exact posterior a product of Normals.
    generator = np.random.default_rng(5)
    inputs, _ = np.linalg.qr(generator.normal(size=(40, 6)))
    inputs *= np.array([3.0, 1.0, 5.0, 2.0, 4.0, 0.5])
    weights = np.array([1.0, 0.0, -0.8, 0.05, 0.0, 0.3])
    targets = inputs @ weights + generator.normal(size=40)
    prior_scale = 0.7
    precision = np.sum(inputs**2, axis=0) + prior_scale**-2
    mean, scale = inputs.T @ targets / precision, precision**-0.5

    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(1, use_bias=False, name="d")]
    )
    model = keras_bmr.to_variational(
        model, num_examples=40, prior=keras_bmr.priors.Normal(prior_scale)
    )
    posterior = tfd.Normal(
        mean.reshape(6, 1).astype("float32"), scale.reshape(6, 1).astype("float32")
    )
    model.get_layer("d").assign_posterior("kernel", posterior)
    reduction = ModelReduction(model, reduced_prior="point_mass")
    keep = reduction.keep("d")[:, 0]
    assert 0 < keep.sum() < 6

    def log_evidence(x):
        covariance = np.eye(40) + prior_scale**2 * x @ x.T
        return scipy.stats.multivariate_normal.logpdf(targets, cov=covariance)

    expected = log_evidence(inputs[:, keep]) - log_evidence(inputs)
    assert reduction.log_bayes_factor == pytest.approx(expected, rel=1e-4)


def spike_and_slab_keep(delta_f, a0=1.0, b0=1.0, num_iterations=4):
    """Section A of the paper, in float64 with scipy."""
    delta_f = np.asarray(delta_f, "float64")
    zeta = 0.0
    for _ in range(num_iterations):
        q = scipy.special.expit(zeta - delta_f)
        zeta = scipy.special.digamma(a0 + q.sum()) - scipy.special.digamma(
            b0 + (1 - q).sum()
        )
    return delta_f <= min(zeta, -0.02)


@pytest.mark.parametrize("concentration0", [1.0, 300.0])
def test_spike_and_slab_infers_a_share_per_layer(dense_model, concentration0):
    reduced_prior = SpikeAndSlab(concentration0=concentration0)
    reduction = ModelReduction(dense_model, reduced_prior=reduced_prior)
    for name in ("hidden", "output"):
        expected = spike_and_slab_keep(reduction.delta_f(name), b0=concentration0)
        np.testing.assert_array_equal(reduction.keep(name), expected)
    if concentration0 > 1:
        # Few weights are expected: not the plain threshold at 0.
        assert (reduction.keep("hidden") != (reduction.delta_f("hidden") <= 0)).any()


def test_spike_and_slab_does_not_count_what_was_pruned(dense_model):
    layer = dense_model.get_layer("hidden")
    delta_f = ModelReduction(dense_model).delta_f("hidden")
    pruned = np.arange(80).reshape(10, 8) < 30
    layer.prune("kernel", ~pruned)
    reduction = ModelReduction(dense_model)
    expected = np.zeros((10, 8), bool)
    expected[~pruned] = spike_and_slab_keep(delta_f[~pruned])
    np.testing.assert_array_equal(reduction.keep("hidden"), expected)
    np.testing.assert_allclose(reduction.delta_f("hidden")[pruned], 0.0)


def test_second_call_prunes_no_more_by_a_plain_threshold(dense_model):
    first = ModelReduction(dense_model, threshold=0.0)
    first.apply(dense_model)
    second = ModelReduction(dense_model, threshold=0.0)
    np.testing.assert_array_equal(first.keep("hidden"), second.keep("hidden"))
    assert second.log_bayes_factor == 0.0


def test_block_is_the_sum_of_its_weights(dense_model):
    weights = ModelReduction(dense_model, threshold=0.0)
    blocks = ModelReduction(dense_model, threshold=0.0, granularity="block")
    delta_f = weights.delta_f("hidden")
    np.testing.assert_array_equal(blocks.delta_f("hidden"), delta_f)
    keep = blocks.keep("hidden")
    # 10 inputs: blocks of 4, 4 and 2.
    for rows in (slice(0, 4), slice(4, 8), slice(8, 10)):
        for column in range(8):
            expected = delta_f[rows, column].astype("float64").sum() <= 0
            assert (keep[rows, column] == expected).all()
    assert 0 < np.count_nonzero(keep) < keep.size


def test_block_leaves_convolutions_and_biases_alone():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dense(3, name="dense"),
        ]
    )
    model = keras_bmr.to_variational(model, num_examples=1, bayesian_bias=True)
    reduced = keras_bmr.reduce_model(model, granularity="block", sparsity=0.5)
    conv, dense = variational_layers(reduced)
    assert conv.mask("kernel").numpy().all() and dense.mask("bias").numpy().all()
    assert dense.mask("kernel").numpy().mean() == 0.5


def test_block_needs_a_dense_layer():
    model = keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Conv2D(4, 3)])
    model = keras_bmr.to_variational(model, num_examples=1)
    with pytest.raises(ValueError, match="no weight left to prune.*'block'"):
        ModelReduction(model, granularity="block")


@pytest.mark.parametrize("criterion", ["delta_f", "signal_to_noise", "magnitude"])
@pytest.mark.parametrize("sparsity", [0.0, 0.37, 0.5, 0.93])
def test_target_sparsity_ranks_all_layers_together(dense_model, criterion, sparsity):
    reduction = ModelReduction(dense_model, criterion=criterion, sparsity=sparsity)
    scores = {}
    for name in ("hidden", "output"):
        mean, scale = posterior_arrays(dense_model, name)
        scores[name] = {
            "delta_f": point_mass_delta_f(mean, scale, 1.0),
            "signal_to_noise": -np.abs(mean) / scale,
            "magnitude": -np.abs(mean),
        }[criterion]
    ranked = np.sort(np.concatenate([s.ravel() for s in scores.values()]))
    num_kept = 104 - round(sparsity * 104)
    for name in scores:
        expected = scores[name] <= ranked[num_kept - 1]
        np.testing.assert_array_equal(reduction.keep(name), expected)
    assert sum(layer.num_kept for layer in reduction.layers()) == num_kept


def test_target_sparsity_of_each_layer(dense_model):
    reduction = ModelReduction(dense_model, sparsity=0.75, ranking="layer")
    assert [layer.num_kept for layer in reduction.layers()] == [20, 6]
    for name in ("hidden", "output"):
        delta_f = reduction.delta_f(name)
        keep = reduction.keep(name)
        assert delta_f[keep].max() <= delta_f[~keep].min()


def test_threshold_of_another_criterion(dense_model):
    reduction = ModelReduction(dense_model, criterion="magnitude", threshold=-0.5)
    mean, _ = posterior_arrays(dense_model, "hidden")
    np.testing.assert_array_equal(reduction.keep("hidden"), np.abs(mean) >= 0.5)


def test_a_criterion_of_ones_own(dense_model):
    class Largest(keras_bmr.pruning.Criterion):
        def statistic(self, evidence):
            return np.abs(evidence.posterior.mean())

    reduction = ModelReduction(dense_model, criterion=Largest(), threshold=0.5)
    mean, _ = posterior_arrays(dense_model, "hidden")
    np.testing.assert_array_equal(reduction.keep("hidden"), np.abs(mean) <= 0.5)


def test_skipped_layer_is_left_out(dense_model):
    reduction = ModelReduction(dense_model, sparsity=0.5, skip=["output"])
    assert [layer.layer for layer in reduction.layers()] == ["hidden"]
    assert reduction.layers()[0].num_kept == 40
    with pytest.raises(ValueError, match="Expected a layer and one of its weights"):
        reduction.delta_f("output")
    with pytest.raises(ValueError, match=r"`skip` must be a list of names.*'hidden'"):
        ModelReduction(dense_model, skip=["absent"])
    with pytest.raises(ValueError, match="no weight left to prune"):
        ModelReduction(dense_model, skip=["hidden", "output"])


def test_skipped_nested_model_is_left_out_with_its_layers():
    inputs = keras.Input((4,))
    inner = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(4, name="in")], name="inner"
    )
    model = keras.Model(inputs, keras.layers.Dense(2, name="out")(inner(inputs)))
    model = keras_bmr.to_variational(model, num_examples=1)
    reduction = ModelReduction(model, sparsity=0.5, skip=["inner"])
    assert [layer.layer for layer in reduction.layers()] == ["out"]


def test_layers_of_one_name_are_told_apart():
    inputs = keras.Input((4,))
    first, second = (
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="d")])
        for _ in range(2)
    )
    model = keras.Model(inputs, second(first(inputs)))
    model = keras_bmr.to_variational(model, num_examples=1)
    reduction = ModelReduction(model, sparsity=0.25)
    with pytest.raises(ValueError, match="pass the layer itself"):
        reduction.keep("d")
    kept = [reduction.keep(layer).sum() for layer in variational_layers(model)]
    assert sum(kept) == 24
    reduced = keras_bmr.reduce_model(model, sparsity=0.25)
    masks = [layer.mask("kernel").numpy() for layer in variational_layers(reduced)]
    assert [mask.sum() for mask in masks] == kept


def test_nothing_changes_before_it_is_applied(dense_model):
    before = [variable.numpy().copy() for variable in dense_model.variables]
    reduction = ModelReduction(dense_model, threshold=0.0)
    reduction.summary(print_fn=lambda line: None)
    reduction.delta_f("hidden")
    for old, variable in zip(before, dense_model.variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy().copy())


def test_summary_is_a_table_of_all_layers(dense_model):
    reduction = ModelReduction(dense_model, threshold=0.0)
    lines = []
    reduction.summary(print_fn=lines.append)
    assert lines[0].split()[:4] == ["Layer", "Weights", "Kept", "Share"]
    hidden, total = lines[2].split(), lines[-1].split()
    kept = int(reduction.keep("hidden").sum())
    assert hidden[:4] == ["hidden", "80", str(kept), f"{kept / 80:.2%}"]
    assert total[:2] == ["Total", "104"]
    assert float(total[4]) == pytest.approx(reduction.log_bayes_factor, abs=0.05)


def test_progress_is_shown_on_request(dense_model, capsys):
    ModelReduction(dense_model, verbose=True)
    assert "104/104" in capsys.readouterr().out
    ModelReduction(dense_model)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"threshold": 0.0, "sparsity": 0.5}, "either `threshold` or `sparsity`"),
        ({"sparsity": 1.0}, r"`sparsity` must lie in \[0, 1\).*Received: sparsity=1.0"),
        ({"sparsity": -0.1}, "Received: sparsity=-0.1"),
        ({"sparsity": NAN}, "Received: sparsity=nan"),
        ({"sparsity": "most"}, "Received: sparsity='most'"),
        ({"threshold": NAN}, "`threshold` must be a number"),
        ({"threshold": "high"}, "`threshold` must be a number.*threshold='high'"),
        ({"reduced_prior": tfd.Normal(0.0, NAN)}, "reduced prior scale must be finite"),
        (
            {"reduced_prior": tfd.Normal(np.float64(0.0), np.float64(0.1))},
            "same dtype.*float64.*tf.constant",
        ),
        ({"criterion": "magnitude"}, "Magnitude has no natural threshold"),
        ({"criterion": "size"}, r"`criterion`.*\['delta_f', .*'magnitude', "),
        ({"granularity": "row"}, r"`granularity`.*\['block', 'channel', 'unit', 'wei"),
        ({"reduced_prior": "horseshoe"}, r"`reduced_prior`.*'point_mass', 'spike"),
        ({"reduced_prior": 0.1}, "Received: reduced_prior=0.1"),
        ({"reduced_prior": tfd.MultivariateNormalDiag([0.0])}, "of scalars"),
        ({"ranking": "random"}, r"`ranking` must be one of .*'random'"),
        ({"skip": "hidden"}, "`skip` must be a list"),
        (
            {"reduced_prior": tfd.Normal(0.0, 5.0)},
            "Cannot reduce weight 'kernel' of layer 'wide'.*improper",
        ),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, message):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="wide")])
    model = keras_bmr.to_variational(
        model, num_examples=1, prior=keras_bmr.priors.Normal(1.0)
    )
    # As wide as the prior: a broader reduced prior leaves no proper posterior.
    model.get_layer("wide").assign_posterior(
        "kernel", tfd.Normal(np.zeros((3, 2), "float32"), 1.5 * np.ones((3, 2), "f"))
    )
    with pytest.raises(ValueError, match=f"(?s){message}"):
        ModelReduction(model, **arguments)


@pytest.mark.parametrize("value", [NAN, np.inf])
def test_posterior_that_is_not_finite_is_refused(dense_model, value):
    kernel = dense_model.get_layer("output").kernel.numpy().copy()
    kernel[2, 1] = value
    dense_model.get_layer("output").kernel.assign(kernel)
    with pytest.raises(ValueError, match="(?s)weight 'kernel' of layer 'output'"):
        ModelReduction(dense_model)


def test_model_without_bayesian_layers_is_refused():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="has no Bayesian layer"):
        ModelReduction(model)


def test_reduction_of_another_model_is_not_applied(dense_model):
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    other = keras_bmr.to_variational(other, num_examples=1)
    with pytest.raises(ValueError, match="not the one that was analysed"):
        ModelReduction(dense_model, threshold=0.0).apply(other)


def test_layer_without_anything_left_is_refused(dense_model):
    layer = dense_model.get_layer("output")
    zeros = np.zeros(layer.kernel.shape, "float32")
    layer.assign_posterior("kernel", tfd.Normal(zeros, 0.9 + zeros))
    before = [variable.numpy().copy() for variable in dense_model.variables]
    reduction = ModelReduction(dense_model, threshold=0.0)
    assert reduction.layers()[1].num_kept == 0
    with pytest.raises(ValueError, match=r"left of layer 'output'.*skip=\['output'\]"):
        reduction.apply(dense_model)
    for old, variable in zip(before, dense_model.variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy().copy())


@pytest.mark.parametrize("prior", ["empirical_bayes_normal", "layerwise_normal"])
def test_pruned_weights_do_not_make_a_reduction_improper(prior):
    layer = keras_bmr.layers.DenseVariational(3, prior=prior, num_examples=10)
    model = keras.Sequential([keras.Input((4,)), layer])
    keep = np.arange(12).reshape(4, 3) % 3 > 0
    full = keras_bmr.ModelReduction(model, reduced_prior=tfd.Normal(0.0, 0.05))
    layer.prune("kernel", keep)
    pruned = keras_bmr.ModelReduction(model, reduced_prior=tfd.Normal(0.0, 0.05))
    delta_f = pruned.delta_f(layer)
    assert not delta_f[~keep].any()
    if prior == "empirical_bayes_normal":
        np.testing.assert_array_equal(delta_f[keep], full.delta_f(layer)[keep])
