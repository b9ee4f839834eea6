"""Bits, losses and choices against plain formulas on the Keras weights themselves."""

import itertools

import keras
import numpy as np
import pytest
import scipy.stats
from keras import layers
from tensorflow_probability import distributions as tfd

import keras_bmr
from keras_bmr.distributions import DiscreteNormal
from keras_bmr.export import WEIGHT_FORMATS, WeightPrecision, choose_precision
from keras_bmr.export.bit_allocation import cheapest_formats


def bayesian(network):
    """Posteriors of different widths, some weights pruned."""
    model = keras_bmr.to_variational(network, num_examples=100)
    rng = np.random.default_rng(0)
    for layer in keras_bmr.layers.variational_layers(model):
        for name in layer.random_weight_names:
            mean = layer.posterior(name).mean().numpy()
            scale = np.exp(rng.normal(-4, 1, mean.shape)).astype("float32")
            layer.assign_posterior(name, tfd.Normal(mean, scale))
            layer.prune(name, rng.random(mean.shape) > 0.3)
    return model


@pytest.fixture(scope="module")
def dense():
    keras.utils.set_random_seed(1)
    return bayesian(
        keras.Sequential(
            [
                keras.Input((20,)),
                layers.Dense(16, activation="relu", name="first"),
                layers.Dense(6, name="last"),
            ]
        )
    )


@pytest.fixture(scope="module")
def precision(dense):
    return WeightPrecision(dense)


def moments(model, layer):
    posterior = model.get_layer(layer).posterior("kernel")
    keep = model.get_layer(layer).mask("kernel").numpy()
    # A pruned weight has no spread; any other value keeps formulas finite.
    scale = np.where(keep, posterior.stddev().numpy(), 1.0)
    return posterior.mean().numpy(), scale, keep


def test_loss_is_that_of_the_rounded_network(dense, precision):
    for name in WEIGHT_FORMATS:
        choice = precision.assign({}, default=name)
        network, total = choice.network(), 0.0
        for layer in ("first", "last"):
            mean, scale, keep = moments(dense, layer)
            rounded = network.get_layer(layer).kernel.numpy()
            assert np.all(rounded[~keep] == 0)
            posterior = scipy.stats.norm(mean[keep], scale[keep])
            loss = np.sum(
                posterior.logpdf(mean[keep]) - posterior.logpdf(rounded[keep])
            )
            assert precision.loss(layer, name) == pytest.approx(
                loss, rel=1e-3, abs=1e-6
            )
            total += loss
        assert choice.loss == pytest.approx(total, rel=1e-3, abs=1e-6)
    # Closed form: uniform errors of a grid whose largest code is the largest weight.
    mean, scale, keep = moments(dense, "first")
    step = np.abs(mean).max(axis=0) / 127
    expected = np.sum(step**2 / (24 * np.where(keep, scale, np.inf) ** 2))
    assert precision.loss("first", "int8") == pytest.approx(expected, rel=0.2)


def test_values_lie_on_the_grid_of_their_channel(dense, precision):
    for name, largest in (("int4", 7), ("int8", 127)):
        kernel = precision.assign({}, name).network().get_layer("first").kernel.numpy()
        for column in kernel.T:
            sizes = np.unique(np.abs(column))
            step = np.abs(column).max() / largest
            # A range that was cut off at the largest weights has more codes than that.
            codes = [
                sizes / (np.abs(column).max() / code) for code in range(1, largest + 1)
            ]
            assert step > 0
            assert any(np.allclose(c, np.round(c), atol=1e-3) for c in codes)


def test_few_bits_cut_off_what_costs_little(dense, precision):
    """A range by the posterior loses less than that of the largest weight."""
    mean, scale, keep = moments(dense, "first")
    step = np.abs(mean).max(axis=0) / 7
    plain = np.where(keep, (np.round(mean / step) * step - mean) / scale, 0.0)
    assert precision.loss("first", "int4") < 0.5 * np.sum(plain**2)


def test_bits_of_channels(dense, precision):
    mean, scale, keep = moments(dense, "first")
    for max_loss in (1 / 24, 0.5):
        bits = precision.bits("first", max_loss=max_loss)
        for channel in range(16):
            alive = keep[:, channel]
            largest = np.abs(mean[:, channel]).max()
            # The grid of so many bits costs `max_loss` in the mean over the weights.
            step = 2 * largest / (2.0 ** bits[channel] - 1)
            cost = step**2 / (24 * scale[alive, channel] ** 2)
            assert np.mean(cost) == pytest.approx(max_loss, rel=1e-4)


def test_delta_f_of_the_grid_against_sums(dense, precision):
    kernel = dense.get_layer("last")
    mean, scale, keep = moments(dense, "last")
    prior = kernel.prior("kernel")
    prior_scale = np.broadcast_to(prior.stddev(), mean.shape)
    rounded = precision.assign({}, "int4").rounded[1]
    step = np.broadcast_to(rounded.scale, rounded.codes.shape).T
    total = 0.0
    for index in zip(*np.nonzero(keep), strict=True):
        points = step[index] * np.arange(-4000, 4001)
        mass = scipy.stats.norm.pdf(points, 0, prior_scale[index])
        density = scipy.stats.norm.pdf(points, mean[index], scale[index])
        total += np.log(density.sum() / mass.sum())
    assert precision.delta_f("last", "int4") == pytest.approx(total, rel=1e-3)


def test_grids_are_reduced_priors_like_others(dense):
    """The nearest point counts alone where the grid is coarse."""
    mean, scale, keep = moments(dense, "last")
    prior = dense.get_layer("last").prior("kernel")
    grid = DiscreteNormal(0.0, 0.3, step=20.0)
    delta_f = keras_bmr.ModelReduction(dense, reduced_prior=grid).delta_f("last")
    expected = scipy.stats.norm.logpdf(0, mean, scale)
    expected -= np.broadcast_to(prior.log_prob(0.0), mean.shape)
    np.testing.assert_allclose(delta_f[keep], expected[keep], rtol=1e-4, atol=1e-4)


def test_rounding_by_the_evidence_goes_away_from_the_prior(dense):
    by_evidence = WeightPrecision(dense, rounding="evidence")
    mean, scale, keep = moments(dense, "last")
    layer = dense.get_layer("last")
    prior_scale = np.broadcast_to(layer.prior("kernel").stddev(), mean.shape)
    rounded = by_evidence.assign({}, "int8").rounded[1]
    values = rounded.values.T
    step = np.broadcast_to(rounded.scale, rounded.codes.shape).T.astype("float64")
    lower = np.floor(mean / step) * step

    def evidence(t):
        return scipy.stats.norm.logpdf(t, mean, scale) - scipy.stats.norm.logpdf(
            t, 0, prior_scale
        )

    expected = np.where(evidence(lower + step) > evidence(lower), lower + step, lower)
    inside = keep & (np.abs(expected) < 126.5 * step)
    np.testing.assert_allclose(values[inside], expected[inside], rtol=1e-5)
    assert by_evidence.loss("last", "int8") > WeightPrecision(dense).loss(
        "last", "int8"
    )


@pytest.mark.parametrize("seed", range(4))
def test_the_choice_is_near_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    options = []
    for _ in range(4):
        sizes = rng.integers(50, 900) * np.array([1, 2, 4])
        losses = np.sort(rng.exponential(100, 3))[::-1] * [1, 0.1, 0]
        names = ("int8", "float16", "float32")
        options.append(
            {
                n: (int(s), float(v))
                for n, s, v in zip(names, sizes, losses, strict=True)
            }
        )
    smallest = sum(min(size for size, _ in option.values()) for option in options)
    largest_step = max(max(v for _, v in option.values()) for option in options)
    for budget in np.linspace(smallest, 3 * smallest, 7).astype(int):
        chosen = cheapest_formats(options, budget)
        pairs = [option[name] for option, name in zip(options, chosen, strict=True)]
        assert sum(size for size, _ in pairs) <= budget
        best = min(
            sum(loss for _, loss in combination)
            for combination in itertools.product(*(o.values() for o in options))
            if sum(size for size, _ in combination) <= budget
        )
        assert sum(loss for _, loss in pairs) <= best + largest_step
    assert cheapest_formats(options, smallest - 1) is None
    everything = cheapest_formats(options, 10**6)
    assert everything == ["float32"] * 4


def test_budgets_hold_for_the_file_and_more_bytes_lose_less(dense, precision):
    losses = []
    for max_bytes in (2000, 2200, 2600):
        choice = choose_precision(dense, max_bytes)
        lines = []
        choice.summary(lines.append)
        assert len(lines) == 4 and "first/kernel" in lines[1]
        losses.append(choice.loss)
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[-1]
    with pytest.raises(ValueError, match=r"max_bytes of at least \d+.*max_bytes=500"):
        precision.choose(500)
    # Less than the structure of the file takes, in an integer without a sign.
    with pytest.raises(ValueError, match=r"max_bytes of at least \d+.*max_bytes=50,"):
        precision.choose(np.uint8(50))


def test_summary_shows_every_weight(precision):
    lines = []
    precision.summary(print_fn=lines.append)
    assert [line.split()[0] for line in lines] == [
        "weight",
        "first/kernel",
        "last/kernel",
    ]


def test_bad_arguments(dense, precision):
    with pytest.raises(ValueError, match="rounding='up'"):
        WeightPrecision(dense, rounding="up")
    with pytest.raises(ValueError, match="one of the formats.*'int5'"):
        precision.assign({"first": "int5"})
    with pytest.raises(ValueError, match="first/kernel.*layer='second'"):
        precision.assign({"second": "int8"})
    for max_loss in (0, "a", np.nan):
        with pytest.raises(ValueError, match=f"positive.*max_loss={max_loss!r}"):
            precision.bits("first", max_loss=max_loss)
    for max_bytes in (float("nan"), np.inf, "4000", 4000.0, None, True, 0):
        with pytest.raises(ValueError, match=f"integer.*max_bytes={max_bytes!r}"):
            precision.choose(max_bytes)
    with pytest.raises(ValueError, match="max_bytes=nan"):
        choose_precision(dense, max_bytes=np.nan)
    with pytest.raises(ValueError, match="Bayesian"):
        WeightPrecision(keras.Sequential([keras.Input((3,)), layers.Dense(2)]))
