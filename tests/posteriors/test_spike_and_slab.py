import itertools

import keras
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import tensorflow as tf
from keras.src import testing
from tensorflow_probability import distributions as tfd

import keras_bmr
from keras_bmr import layers, priors
from keras_bmr.distributions import ContinuousSpikeAndSlab, SpikeAndSlab
from keras_bmr.reduction import model_reduction

FAMILIES = ("spike_and_slab", "continuous_spike_and_slab")
X = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")


def dense(units=3, posterior="spike_and_slab", **options):
    options = {"num_examples": 10, "seed": 1, **options}
    return layers.DenseVariational(units, posterior=posterior, **options)


def randomize(layer, seed=0):
    """Slabs and inclusion probabilities unlike their starts."""
    generator = np.random.default_rng(seed)
    for name in layer.random_weight_names:
        weight = layer._random[name]
        state, shape = weight.posterior_state, weight.location.shape
        weight.location.assign(generator.normal(size=shape))
        scale = generator.uniform(0.1, 0.6, size=shape)
        state["log_scale"].assign(np.log(scale) / layer._posterior_family.gain)
        state["inclusion_logits"].assign(generator.normal(0, 2, size=shape))


# --- The closed form ---


def updated(family, prior):
    layer = dense(posterior=family, dtype="float64")
    layer.build((None, 4))
    randomize(layer)
    weight = layer._random["kernel"]
    layer._posterior_family.update(weight.location.value, weight.posterior_state, prior)
    return layer.posterior("kernel")


def test_the_log_odds_are_those_of_the_reduction_to_zero():
    prior = SpikeAndSlab(np.float64(0.2), np.float64(0.0), np.float64(0.7))
    posterior = updated("spike_and_slab", prior)
    zero = tfd.Deterministic(np.float64(0.0))
    reduction = model_reduction(posterior.slab, prior.slab, zero)
    np.testing.assert_allclose(
        posterior.logits, np.log(0.2 / 0.8) - reduction.delta_f, rtol=1e-9
    )
    # And the evidence against the whole prior is a ratio of probabilities of zero.
    delta_f = model_reduction(posterior, prior, zero).delta_f
    log_zero = -np.logaddexp(0, posterior.logits)
    np.testing.assert_allclose(delta_f, log_zero - np.log(0.8), rtol=1e-9)


def test_a_zero_that_is_known_exactly_has_finite_log_odds():
    layer = dense()
    layer.build((None, 4))
    weight = layer._random["kernel"]
    family, state = layer._posterior_family, weight.posterior_state
    # In float32 1 / scale^2 is infinite.
    state["log_scale"].assign(np.full((4, 3), -50.0) / family.gain)
    prior = SpikeAndSlab(0.2, 0.0, 0.7)
    family.update(tf.zeros((4, 3)), state, prior)
    expected = np.log(0.2 / 0.8) - np.log(0.7) - 50
    np.testing.assert_allclose(layer.posterior("kernel").logits, expected, rtol=1e-5)


def test_the_point_mass_update_maximises_the_bound_of_a_conjugate_weight():
    """One weight, y ~ N(w, 1/a): mu and s stationary, then phi against a search."""
    precision, data, slab, rate = 8.0, 0.6, 0.9, 0.3
    scale = 1 / np.sqrt(precision + 1 / slab**2)
    loc = scale**2 * precision * data

    def negative_bound(phi):
        second = phi * (loc**2 + scale**2)
        fit = -0.5 * precision * (second - 2 * data * phi * loc)
        ratio = (scale / slab) ** 2
        kl = phi * 0.5 * (ratio + (loc / slab) ** 2 - 1 - np.log(ratio))
        kl += scipy.special.rel_entr(phi, rate)
        return kl + scipy.special.rel_entr(1 - phi, 1 - rate) - fit

    best = scipy.optimize.minimize_scalar(
        negative_bound, bounds=(1e-6, 1 - 1e-6), method="bounded"
    ).x
    layer = dense(1)
    layer.build((None, 1))
    layer.assign_posterior(
        "kernel", SpikeAndSlab(0.5, np.full((1, 1), loc, "f4"), np.float32(scale))
    )
    weight = layer._random["kernel"]
    layer._posterior_family.update(
        weight.location.value, weight.posterior_state, SpikeAndSlab(rate, 0.0, slab)
    )
    assert float(layer.posterior("kernel").probs[0, 0]) == pytest.approx(best, abs=1e-3)


def test_the_continuous_update_minimises_the_divergence():
    prior = ContinuousSpikeAndSlab(
        np.float64(0.2), np.float64(0.0), np.float64(0.7), spike_scale=np.float64(0.2)
    )
    posterior = updated("continuous_spike_and_slab", prior)
    # Where a weight is in or out for sure the divergence is flat.
    open_ones = np.abs(posterior.logits) < 20
    assert open_ones.any()

    def divergence(shift):
        kl = tfd.kl_divergence(
            posterior.copy(logits=posterior.logits + shift), prior
        ).numpy()
        return kl[open_ones]

    for shift in (-0.3, 0.3):
        assert np.all(divergence(shift) > divergence(0.0))


# --- Draws ---


def exact_moments(layer, inputs):
    """Mean, and covariance over examples of one unit for each part of a weight."""
    q = layer.posterior("kernel")
    phi, loc, scale = (
        np.asarray(v, "float64")[:, 0] for v in (q.probs, q.loc, q.scale)
    )
    slab = inputs @ np.diag(phi * scale**2) @ inputs.T
    indicator = inputs @ np.diag(phi * (1 - phi) * loc**2) @ inputs.T
    return inputs @ (phi * loc), indicator, slab


@pytest.mark.parametrize("estimator", layers.LinearVariational.ESTIMATORS)
def test_moments_of_the_estimators(estimator):
    layer = dense(1, estimator=estimator)
    layer(X[:2])
    randomize(layer)
    mean, indicator, slab = exact_moments(layer, X[:2])

    @tf.function
    def draw():
        return tf.map_fn(
            lambda _: layer(X[:2], training=True)[:, 0],
            tf.range(4000),
            fn_output_signature=tf.float32,
        )

    drawn = draw().numpy().astype("float64")
    covariance = indicator + slab
    if estimator == "flipout":
        # The examples share the indicators, not the draws of the slabs.
        covariance = indicator + np.diag(np.diag(slab))
    if estimator == "local_reparameterization":
        covariance = np.diag(np.diag(covariance))
    variance = np.diag(covariance)
    assert np.all(np.abs(drawn.mean(0) - mean) < 5 * np.sqrt(variance / 4000))
    error = np.sqrt(6 * np.outer(variance, variance) / 4000)
    assert np.all(np.abs(np.cov(drawn.T) - covariance) < 5 * error)
    # Outside training the weights are their means.
    layer.bias.assign([0.0])
    np.testing.assert_allclose(layer(X[:2])[:, 0], mean, rtol=1e-4)


def test_a_continuous_posterior_is_a_normal():
    layer = dense(posterior="continuous_spike_and_slab")
    layer(X)
    randomize(layer)
    family, q = layer._posterior_family, layer.posterior("kernel")
    np.testing.assert_allclose(q.variance(), q.scale**2, rtol=1e-5)
    drawn = family.sample(q, tf.constant([1, 2]), (4000,)).numpy()
    assert np.all(np.abs(drawn.mean(0) - q.loc) < 5 * q.scale / np.sqrt(4000))
    np.testing.assert_allclose(drawn.std(0), q.scale, rtol=0.1)
    layer.bias.assign([0.0, 0.0, 0.0])
    np.testing.assert_allclose(layer(X), X @ q.loc, rtol=1e-4, atol=1e-5)


def test_draws_of_a_shape():
    layer = dense()
    layer(X)
    randomize(layer)
    q = layer.posterior("kernel")
    drawn = layer._posterior_family.sample(q, tf.constant([1, 2]), (4000,)).numpy()
    error = np.sqrt(q.probs * (1 - q.probs) / 4000)
    assert np.all(np.abs((drawn != 0).mean(0) - q.probs) < 5 * error)
    assert np.all(np.abs(drawn.mean(0) - q.mean()) < 5 * q.stddev() / np.sqrt(4000))


# --- Layers ---


# Keras' own test feeds a generator.
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning")
@pytest.mark.parametrize(
    "layer_class, arguments, shape",
    [
        (layers.DenseVariational, {"units": 3}, (4, 5)),
        (layers.Conv2DVariational, {"filters": 3, "kernel_size": 2}, (4, 4, 4, 2)),
    ],
)
def test_run_layer_test(layer_class, arguments, shape):
    testing.TestCase().run_layer_test(
        layer_class,
        init_kwargs={
            **arguments,
            "num_examples": 10,
            "bayesian_bias": True,
            "posterior": "spike_and_slab",
        },
        input_shape=shape,
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "float64"])
def test_gradients(family, dtype):
    for layer, inputs in (
        *(
            (dense(posterior=family, dtype=dtype, estimator=e), X)
            for e in layers.LinearVariational.ESTIMATORS
        ),
        (
            layers.LSTMVariational(
                2, posterior=family, dtype=dtype, num_examples=10, bayesian_bias=True
            ),
            X[:, :, None],
        ),
    ):
        layer(inputs)
        randomize(layer)
        with tf.GradientTape() as tape:
            outputs = tf.cast(layer(inputs, training=True), "float32")
            loss = keras.ops.sum([tf.reduce_mean(outputs**2), *layer.losses])
        assert {v.name for v in layer.trainable_variables} == {
            variable
            for name in layer.random_weight_names
            for variable in (name, f"{name}_log_scale")
        } | ({"bias"} if not layer.bayesian_bias else set())
        variables = [v.value for v in layer.trainable_variables]
        for gradient in tape.gradient(loss, variables):
            assert np.isfinite(gradient).all() and np.any(gradient != 0)
        for name in layer.random_weight_names:
            expected = "float64" if dtype == "float64" else "float32"
            assert layer.divergence(name).dtype.name == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_fit_updates_once_per_step_and_all_is_saved(family, tmp_path):
    prior = priors.get(family)
    prior.warmup_steps = 3
    layer = dense(posterior=family, prior=prior)
    model = keras.Sequential([keras.Input((4,)), layer])
    model.compile("adam", "mse", jit_compile=True)
    y = np.ones((6, 3))
    for step in range(1, 6):
        model.train_on_batch(X, y)
        state = layer._random["kernel"].prior_state
        assert int(state["step"]) == min(step, 3)
        certain = np.all(layer.posterior("kernel").probs == 1)
        assert certain == (step <= 3)
    model.predict(X, verbose=0), model.evaluate(X, y, verbose=0)
    layer(X, training=True)
    # After a step the probabilities are those of the new means and scales.
    weight = layer._random["kernel"]
    before = weight.posterior_state["inclusion_logits"].numpy()
    concentration = float(state["inclusion_concentration1"])
    expected = 1 + layer.posterior("kernel").probs.numpy().sum()
    assert concentration == pytest.approx(expected, rel=1e-5)
    keep = np.ones((4, 3), bool)
    keep[0] = False
    layer.prune("kernel", keep)
    np.testing.assert_array_equal(layer.posterior("kernel").probs[0], 0)
    np.testing.assert_array_equal(layer.posterior_means()["kernel"][0], 0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    for mine, theirs in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(loaded(X), model(X))
    assert loaded.layers[0]._prior_family.get_config() == prior.get_config()
    copy = layers.conversion.copy_model(model)
    np.testing.assert_array_equal(
        copy.layers[0]._random["kernel"].posterior_state["inclusion_logits"], before
    )
    model.train_on_batch(X, y)
    np.testing.assert_array_equal(layer.kernel[0], 0)
    means = layers.to_deterministic(model)
    np.testing.assert_allclose(means(X), model(X), rtol=1e-5, atol=1e-6)


def test_conversion_takes_the_prior_of_the_family():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    bayesian = layers.to_variational(model, num_examples=6, posterior=FAMILIES[0])
    (layer,) = bayesian.layers
    assert isinstance(layer._prior_family, priors.SpikeAndSlab)
    np.testing.assert_allclose(bayesian(X), model(X), rtol=1e-6)


def test_posterior_and_prior_have_the_same_spike():
    for family, prior in itertools.product(
        ("mean_field_normal", *FAMILIES), ("normal", *FAMILIES)
    ):
        fits = family == prior or (family, prior) == ("mean_field_normal", "normal")
        if not fits:
            with pytest.raises(ValueError, match="cannot stand under.*prior='"):
                dense(posterior=family, prior=prior)


@pytest.mark.parametrize("family", FAMILIES)
def test_assign_round_trip(family):
    layer = dense(posterior=family)
    layer(X)
    randomize(layer, seed=1)
    q = layer.unmasked_posterior("kernel")
    keep = np.ones((4, 3), bool)
    keep[1] = False
    randomize(layer, seed=2)
    layer.prune("kernel", keep)
    layer.assign_posterior("kernel", q)
    again = layer.posterior("kernel")
    for name in ("loc", "scale", "probs"):
        values, expected = getattr(again, name).numpy(), getattr(q, name).numpy()
        np.testing.assert_allclose(values[keep], expected[keep], rtol=1e-5)
    np.testing.assert_array_equal(again.mean()[1], 0)
    np.testing.assert_array_equal(again.variance()[1], 0)
    before = [weight.numpy() for weight in layer.weights]
    with pytest.raises(ValueError, match=f"{type(q).__name__}.*Normal"):
        layer.assign_posterior("kernel", tfd.Normal(q.loc, q.scale))
    for weight, old in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(weight, old)
    layer.assign_means({"kernel": np.full((4, 3), 0.5, "float32")})
    np.testing.assert_array_equal(layer.posterior_means()["kernel"][0], 0.5)


# --- Known truth ---


def conjugate_problem():
    """Ten features that are weakly correlated, some of them with weak effects."""
    generator = np.random.default_rng(5)
    common = generator.normal(size=(100, 1))
    x = (generator.normal(size=(100, 10)) + 0.3 * common).astype("float32")
    w = np.array([1, -0.8, 0.5, 0.35, -0.3, 0.25, 0, 0, 0, 0])
    return x, (x @ w + generator.normal(size=100)).astype("float32")


def enumerated(x, y, rate, slab):
    """Inclusion probabilities from the evidence of all 2^10 models."""
    logs, members = [], []
    for chosen in itertools.product([False, True], repeat=x.shape[1]):
        chosen = np.array(chosen)
        design = x[:, chosen].astype("float64")
        covariance = np.eye(len(y)) + slab**2 * design @ design.T
        _, log_det = np.linalg.slogdet(covariance)
        logs.append(
            -0.5 * (log_det + y @ np.linalg.solve(covariance, y))
            + chosen.sum() * np.log(rate)
            + (~chosen).sum() * np.log1p(-rate)
        )
        members.append(chosen)
    return scipy.special.softmax(logs) @ np.array(members)


def coordinate_ascent(x, y, rate, slab, num_sweeps=500):
    """The mean-field optimum, Carbonetto and Stephens 2012, equations 8 to 10."""
    x, y = x.astype("float64"), y.astype("float64")
    gram, product = x.T @ x, x.T @ y
    scale2 = 1 / (np.diag(gram) + slab**-2)
    phi, mu = np.full(10, 1.0), np.linalg.solve(gram, product)
    for _ in range(num_sweeps):
        for k in range(10):
            rest = gram[k] @ (phi * mu) - gram[k, k] * phi[k] * mu[k]
            mu[k] = scale2[k] * (product[k] - rest)
            signal = 0.5 * (np.log(scale2[k] / slab**2) + mu[k] ** 2 / scale2[k])
            phi[k] = scipy.special.expit(np.log(rate / (1 - rate)) + signal)
    return phi


def test_inclusion_probabilities_agree_with_enumeration():
    x, y = conjugate_problem()
    rate, slab = 0.3, 0.7
    prior = priors.SpikeAndSlab(rate, slab_scale=slab, warmup_steps=300)
    layer = dense(1, prior=prior, num_examples=100, use_bias=False)
    model = keras.Sequential([keras.Input((10,)), layer])
    schedule = keras.optimizers.schedules.CosineDecay(0.03, 1200)
    # Unit noise: the mean of squares is twice the negative log likelihood.
    model.compile(keras.optimizers.Adam(schedule), "mse", loss_weights=0.5)
    model.fit(x, y, batch_size=100, epochs=1200, verbose=0)
    found = keras_bmr.inclusion_probabilities(model).features()
    np.testing.assert_allclose(found, coordinate_ascent(x, y, rate, slab), atol=0.05)
    exact = enumerated(x, y, rate, slab)
    assert np.any((exact > 0.2) & (exact < 0.8))
    np.testing.assert_allclose(found, exact, atol=0.1)
