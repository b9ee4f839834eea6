import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from tensorflow_probability import distributions as tfd

import keras_bmr
from keras_bmr.layers import Conv2DVariational, DenseVariational
from keras_bmr.priors import HalfCauchyNormal, RegularizedHorseshoe
from keras_bmr.priors.log_normal_variables import log_normal

SHAPE = (4, 3)
NUM_DRAWS = 40000


def new_state(prior, shape=SHAPE, dtype="float64"):
    def add_weight(name, **options):
        return keras.Variable(**options, name=name, dtype=dtype)

    return prior.add_weights(add_weight, shape)


@pytest.fixture
def state():
    """Posteriors of the Gamma variables that differ and are wide."""
    generator = np.random.default_rng(0)
    state = new_state(RegularizedHorseshoe(global_scale=0.3))
    for name, variable in state.items():
        start, spread = (0.0, 0.05) if name.endswith("loc") else (-0.07, 0.01)
        variable.assign(start + spread * generator.normal(size=variable.shape))
    return state


PRIOR = RegularizedHorseshoe(global_scale=0.3)
NAMES = (
    "global_numerator",
    "global_denominator",
    "local_numerator",
    "local_denominator",
    "slab_precision",
)


def simulate(state, generator):
    """Draws of the Gamma variables from their posteriors."""
    laws = {name: log_normal(state, name) for name in NAMES}
    return {
        name: np.exp(
            law.loc.numpy()
            + law.scale.numpy()
            * generator.normal(size=(NUM_DRAWS, *law.batch_shape.as_list()))
        )
        for name, law in laws.items()
    }


def scales_of(u):
    """The scales as the paper writes them."""
    tau_squared = 0.3**2 * u["global_numerator"] / u["global_denominator"]
    psi = tau_squared[:, np.newaxis, np.newaxis] * u["local_numerator"]
    slab = u["slab_precision"][:, np.newaxis, np.newaxis]
    return np.sqrt(psi / (u["local_denominator"] + slab * psi))


def test_scales_have_the_law_of_the_hierarchy(state):
    simulated = scales_of(simulate(state, np.random.default_rng(1)))[:, 0]
    draws = PRIOR.sample_scale(state, tf.constant([3, 4]), (NUM_DRAWS,)).numpy()
    assert draws.shape == (NUM_DRAWS, 1, 3)
    for unit in range(3):
        assert stats.ks_2samp(draws[:, 0, unit], simulated[:, unit]).pvalue > 1e-4
    # The global scale and the slab are common to the units.
    expected = np.corrcoef(np.log(simulated.T))
    found = np.corrcoef(np.log(draws[:, 0].T))
    assert expected[0, 1] > 0.2
    np.testing.assert_allclose(found, expected, atol=0.03)
    error = simulated.std(axis=0) / np.sqrt(NUM_DRAWS)
    mean = PRIOR.expected_scale(state).numpy()[0]
    assert (np.abs(mean - simulated.mean(axis=0)) < 5 * error).all()


def test_the_divergence_is_that_of_all_gamma_variables(state):
    generator = np.random.default_rng(1)
    total = np.zeros(NUM_DRAWS)
    for name, u in simulate(state, generator).items():
        law = log_normal(state, name)
        shape, rate = (2.0, 6.0) if name == "slab_precision" else (0.5, 1.0)
        ratio = stats.lognorm.logpdf(u, law.scale, scale=np.exp(law.loc))
        ratio -= stats.gamma.logpdf(u, shape, scale=1 / rate)
        total += ratio.reshape(NUM_DRAWS, -1).sum(axis=1)
    divergence = PRIOR.scale_divergence(state, tf.ones(SHAPE, tf.bool))
    error = total.std() / np.sqrt(NUM_DRAWS)
    assert abs(float(divergence) - total.mean()) < 5 * error
    # It joins that of the weights.
    posterior = tfd.Normal(np.full(SHAPE, 0.5), np.float64(0.1))
    of_weights = tfd.kl_divergence(posterior, tfd.Normal(np.float64(0), np.float64(1)))
    np.testing.assert_allclose(
        PRIOR.divergence(posterior, state, tf.ones(SHAPE, tf.bool)),
        divergence + tf.reduce_sum(of_weights),
    )


def test_a_unit_without_weights_has_no_share_in_the_divergence(state):
    mask = np.ones(SHAPE, bool)
    whole = PRIOR.scale_divergence(state, mask)
    mask[1:, 1] = False
    np.testing.assert_allclose(PRIOR.scale_divergence(state, mask), whole)
    mask[0, 1] = False
    share = sum(
        tfd.kl_divergence(
            log_normal(state, f"local_{part}"), tfd.Gamma(np.float64(0.5), 1.0)
        )[0, 1]
        for part in ("numerator", "denominator")
    )
    np.testing.assert_allclose(PRIOR.scale_divergence(state, mask), whole - share)


def test_half_cauchy_scales():
    prior = HalfCauchyNormal(global_scale=0.5)
    state = new_state(prior)
    np.testing.assert_allclose(prior.expected_scale(state), 1, rtol=5e-3)
    for value, variable in zip(
        (0.02, -0.08, -0.03, -0.09), state.values(), strict=True
    ):
        variable.assign(value)
    draws = prior.sample_scale(state, tf.constant([1, 2]), (NUM_DRAWS,)).numpy()
    error = draws.std() / np.sqrt(NUM_DRAWS)
    assert abs(float(prior.expected_scale(state)) - draws.mean()) < 5 * error
    np.testing.assert_allclose(
        np.median(draws), 0.5 * np.exp(0.5 * (10 * 0.02 + 10 * 0.03)), rtol=0.02
    )
    expected = sum(
        tfd.kl_divergence(
            tfd.LogNormal(np.float64(10 * loc), np.exp(10 * log)),
            tfd.Gamma(np.float64(0.5), 1.0),
        )
        for loc, log in ((0.02, -0.08), (-0.03, -0.09))
    )
    found = prior.scale_divergence(state, tf.ones(SHAPE, tf.bool))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.fixture(scope="module")
def values_and_gradients():
    state = new_state(PRIOR, shape=(2, 1), dtype="float32")

    @tf.function
    def compute():
        variables = [variable.value for variable in state.values()]
        with tf.GradientTape() as tape:
            draw = PRIOR.sample_scale(state, tf.constant([1, 2]))
            mean = PRIOR.expected_scale(state)
            divergence = PRIOR.scale_divergence(state, tf.ones((2, 1), tf.bool))
            total = tf.reduce_sum(tf.math.log(draw) + tf.math.log(mean)) + divergence
        return draw, mean, divergence, tape.gradient(total, variables)

    return state, compute


@hypothesis.settings(max_examples=40)
@hypothesis.given(st.lists(st.floats(-3, 3), min_size=5, max_size=5), st.floats(-2, 0))
def test_nothing_overflows_in_single_precision(
    values_and_gradients, locations, log_scale
):
    """Scales from below 1e-12 up to the slab; the published form has 0 / 0 there."""
    state, compute = values_and_gradients
    for name, location in zip(NAMES, locations, strict=True):
        for parameter, value in (("loc", location), ("log_scale", log_scale)):
            variable = state[f"{name}_{parameter}"]
            variable.assign(tf.fill(variable.shape, value))
    draw, mean, divergence, gradients = compute()
    for value in (draw, mean, divergence, *gradients):
        assert np.isfinite(value).all()
    assert float(draw[0, 0]) > 0


@pytest.mark.parametrize(
    "axis, kernel_shape, bias_shape",
    [(-1, (1, 1, 1, 5), (5,)), (-2, (1, 1, 2, 1), (1,))],
)
def test_units_of_convolutions(axis, kernel_shape, bias_shape):
    layer = Conv2DVariational(
        5, 3, prior=RegularizedHorseshoe(axis=axis), bayesian_bias=True, num_examples=1
    )
    layer.build((None, 8, 8, 2))
    assert layer.prior("kernel").batch_shape == kernel_shape
    assert layer.prior("bias").batch_shape == bias_shape
    # It starts near the scale of the initializer, not near the global scale.
    np.testing.assert_allclose(layer.prior("kernel").stddev(), 0.866, rtol=5e-3)


def test_training_shrinks_the_features_that_do_not_matter(tmp_path):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(256, 12)).astype("float32")
    y = (
        x[:, :3] @ [[1.0], [-1.0], [2.0]] + 0.3 * generator.normal(size=(256, 1))
    ) / 0.3
    model = keras.Sequential(
        [
            keras.Input((12,)),
            DenseVariational(
                1, use_bias=False, prior=RegularizedHorseshoe(axis=-2), seed=0
            ),
        ]
    )
    keras_bmr.set_num_examples(model, 256)
    # The log likelihood of unit noise is half the squared error.
    model.compile(
        keras.optimizers.Adam(0.02), loss="mse", loss_weights=0.5, jit_compile=False
    )
    data = tf.data.Dataset.from_tensors((x, y.astype("float32"))).repeat(600)
    model.fit(data, verbose=0, shuffle=False)
    layer = model.layers[0]
    scales = layer.prior("kernel").stddev().numpy().ravel()
    assert scales[:3].min() > 10 * scales[3:].max()

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        loaded.layers[0].prior("kernel").stddev().numpy().ravel(), scales
    )
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0)
    )
    assert loaded.layers[0].get_config()["prior"] == layer.get_config()["prior"]

    reduced = keras_bmr.reduce_model(
        model, criterion="prior_scale", threshold=-np.log(0.1 * scales[:3].min())
    )
    np.testing.assert_array_equal(
        reduced.layers[0].mask("kernel").numpy().ravel(), np.arange(12) < 3
    )


def test_mixed_precision_keeps_scales_in_single():
    with_scales = DenseVariational(
        3, prior="regularized_horseshoe", num_examples=10, dtype="mixed_float16"
    )
    model = keras.Sequential([keras.Input((4,)), with_scales])
    model.compile("adam", loss="mse")
    x = np.ones((8, 4), "float32")
    history = model.fit(x, np.ones((8, 3), "float32"), verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    prior = with_scales.prior("kernel")
    assert prior.dtype == tf.float32
    assert np.isfinite(prior.stddev()).all()


@pytest.mark.parametrize("name", ["global_scale", "slab_concentration", "slab_rate"])
@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_invalid_numbers(name, value):
    with pytest.raises(ValueError, match=f"`{name}`.*{name}={value}"):
        RegularizedHorseshoe(**{name: value})


@pytest.mark.parametrize("axis", [0, 1, -1.0, True])
def test_invalid_axis(axis):
    with pytest.raises(ValueError, match="`axis` must be a negative integer"):
        RegularizedHorseshoe(axis=axis)
