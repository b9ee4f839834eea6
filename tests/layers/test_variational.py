import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

import keras_bmr
from keras_bmr import layers, priors

X = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")


def dense(units=3, **options):
    return layers.DenseVariational(units, **{"num_examples": 10, **options})


def model_of(*parts, **compile_options):
    model = keras.Sequential([keras.Input((4,)), *parts])
    options = {"optimizer": "sgd", "loss": "mse", "jit_compile": False}
    model.compile(**{**options, **compile_options})
    return model


# --- KL divergence ---


def test_the_loss_is_the_sum_of_the_divergences():
    layer = dense(prior=priors.Normal(0.7), bayesian_bias=True)
    model = model_of(layer)
    layer.bias.assign([0.1, -0.2, 0.3])
    total = sum(
        tf.reduce_sum(tfd.kl_divergence(layer.posterior(name), tfd.Normal(0.0, 0.7)))
        for name in ("kernel", "bias")
    )
    np.testing.assert_allclose(sum(model.losses), total / 10, rtol=1e-6)
    np.testing.assert_allclose(
        layer.divergence("kernel") + layer.divergence("bias"), total, rtol=1e-6
    )
    keras_bmr.objectives.set_kl_factor(model, 0.25)
    np.testing.assert_allclose(sum(model.losses), total / 40, rtol=1e-6)


def test_a_shared_layer_counts_once_and_a_frozen_one_not_at_all():
    layer = dense(4)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layer(layer(layer(inputs))))
    model(X, training=True)
    assert len(model.losses) == 1
    np.testing.assert_allclose(model.losses[0], layer.divergence("kernel") / 10)
    layer.trainable = False
    assert model.losses == []


def test_regularizers_and_constraints_of_the_user_stay():
    layer = dense(kernel_regularizer="l2", kernel_constraint="non_neg")
    model = model_of(layer)
    penalty = 0.01 * tf.reduce_sum(tf.square(layer.kernel.value))
    expected = layer.divergence("kernel") / 10 + penalty
    np.testing.assert_allclose(sum(model.losses), expected, rtol=1e-6)
    model.train_on_batch(X, np.zeros((6, 3)))
    assert np.min(layer.kernel) >= 0
    assert layer.get_config()["kernel_constraint"]["class_name"] == "NonNeg"


def test_unknown_weights_are_named():
    layer = dense()
    with pytest.raises(ValueError, match="none: not built.*name='kernel'"):
        layer.posterior("kernel")
    layer.build((None, 4))
    for method in (layer.posterior, layer.prior, layer.divergence, layer.mask):
        with pytest.raises(ValueError, match=r"\('kernel',\).*name='bias'"):
            method("bias")
    with pytest.raises(ValueError, match=r"no weight.*\['gamma'\]"):
        layers.BatchNormalizationVariational(scale=False).build((None, 4))


# --- Masks ---


@pytest.mark.parametrize("estimator", layers.LinearVariational.ESTIMATORS)
def test_pruned_weights_are_zero_in_every_pass(estimator):
    posterior = keras_bmr.posteriors.MeanFieldNormal(initial_scale=0.5)
    layer = dense(estimator=estimator, posterior=posterior)
    layer(X)
    keep = np.ones((4, 3), bool)
    keep[:, 0] = False
    keep[2, 1] = False
    layer.prune("kernel", keep)
    layer.bias.assign([1.0, 2.0, 3.0])
    # Whatever the variable holds.
    layer.kernel.assign(layer.kernel + 5.0)
    for training in (False, True):
        outputs = layer(X, training=training)
        np.testing.assert_allclose(outputs[:, 0], 1.0, atol=1e-12)
        single = np.eye(4, dtype="float32")[2:3]
        np.testing.assert_allclose(layer(single, training=training)[0, 1], 2.0)
    posterior = layer.posterior("kernel")
    np.testing.assert_array_equal(posterior.mean() != 0, keep)
    np.testing.assert_array_equal(posterior.variance() != 0, keep)


@pytest.mark.parametrize(
    "prior", ["normal", "layerwise_normal", "empirical_bayes_normal"]
)
def test_pruned_weights_have_no_divergence_and_no_gradient(prior):
    layer = dense(prior=prior)
    layer(X)
    keep = np.random.default_rng(1).uniform(size=(4, 3)) < 0.5
    layer.prune("kernel", keep)
    kept = tfd.Normal(
        layer.posterior("kernel").loc[keep], layer.posterior("kernel").scale[keep]
    )
    reference = layer.prior("kernel")
    if reference.batch_shape.rank:
        reference = tfd.Normal(0.0, reference.scale[keep])
    expected = tf.reduce_sum(tfd.kl_divergence(kept, reference))
    np.testing.assert_allclose(layer.divergence("kernel"), expected, rtol=1e-5)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(X, training=True) ** 2) + layer.divergence("kernel")
    log_scale = layer._random["kernel"].posterior_state["log_scale"]
    for gradient in tape.gradient(loss, [layer.kernel.value, log_scale.value]):
        np.testing.assert_array_equal(gradient != 0, keep)


def test_a_layer_with_nothing_left():
    layer = dense()
    layer(X)
    layer.prune("kernel", np.zeros((4, 3), bool))
    assert float(layer.divergence("kernel")) == 0
    assert np.all(np.isfinite(layer.prior("kernel").scale))
    np.testing.assert_allclose(layer(X, training=True), layer(X), atol=1e-12)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_pruned_weights_keep_still_under_momentum(jit_compile):
    layer = dense()
    model = model_of(layer, optimizer="adam", jit_compile=jit_compile)
    y = np.ones((6, 3))
    for _ in range(3):
        model.train_on_batch(X, y)
    keep = np.random.default_rng(1).uniform(size=(4, 3)) < 0.5
    layer.prune("kernel", keep)
    before = layer.kernel.numpy()
    for _ in range(3):
        model.train_on_batch(X, y)
    np.testing.assert_array_equal(layer.kernel.numpy()[~keep], 0)
    assert np.all(layer.kernel.numpy()[keep] != before[keep])


def test_masks_add_up_and_have_the_shape_of_the_weight():
    layer = dense()
    layer(X)
    first, second = np.ones((4, 3), bool), np.ones((4, 3), bool)
    first[0], second[1] = False, False
    layer.prune("kernel", first)
    layer.prune("kernel", second)
    np.testing.assert_array_equal(layer.mask("kernel"), first & second)
    with pytest.raises(ValueError, match=r"\(4, 3\).*keep.shape=\(3, 4\)"):
        layer.prune("kernel", np.zeros((3, 4), bool))
    np.testing.assert_array_equal(layer.mask("kernel"), first & second)


@pytest.mark.parametrize(
    "prior", sorted(k for k, v in priors.PRIORS.items() if v.spike is None)
)
def test_assign_posterior_round_trip(prior, randomize):
    layer = dense(prior=prior)
    layer(X)
    randomize(layer)
    keep = np.ones((4, 3), bool)
    keep[1, 1] = False
    layer.prune("kernel", keep)
    generator = np.random.default_rng(2)
    loc = generator.normal(size=(4, 3)).astype("float32")
    scale = generator.uniform(0.1, 2, (4, 3)).astype("float32")
    layer.assign_posterior("kernel", tfd.Normal(loc, scale))
    posterior = layer.posterior("kernel")
    np.testing.assert_allclose(posterior.loc, np.where(keep, loc, 0), rtol=1e-5)
    np.testing.assert_allclose(posterior.scale, np.where(keep, scale, 0), rtol=1e-5)


# --- Saving ---


def test_everything_is_saved(case, randomize, tmp_path):
    model, layer = case.model(prior="scale_mixture_normal", bayesian_bias=True)
    randomize(layer)
    for name in layer.random_weight_names:
        shape = layer.mask(name).shape
        layer.prune(name, np.random.default_rng(1).uniform(size=shape) < 0.7)
    layer.kl_weight.assign(0.123)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    clone = keras.models.clone_model(model)
    assert [type(each) for each in clone.layers] == [type(e) for e in model.layers]
    different = [
        np.any(a.numpy() != b.numpy())
        for a, b in zip(model.weights, clone.weights, strict=True)
    ]
    assert any(different)
    clone.load_weights(tmp_path / "model.weights.h5")
    for restored in (loaded, clone):
        for mine, theirs in zip(model.weights, restored.weights, strict=True):
            assert mine.name == theirs.name and mine.dtype == theirs.dtype
            np.testing.assert_array_equal(mine, theirs)
        np.testing.assert_array_equal(restored(case.inputs()), model(case.inputs()))
        assert restored.get_config()["layers"][1]["config"]["num_examples"] == 10


@pytest.mark.parametrize("num_examples", [None, 40])
def test_loaded_weights_of_another_training_set_weigh_the_divergence_right(
    num_examples, tmp_path
):
    model = model_of(dense(num_examples=10))
    keras_bmr.objectives.set_kl_factor(model, 0.5)
    model.save_weights(tmp_path / "model.weights.h5")
    other = model_of(dense(num_examples=num_examples))
    other.load_weights(tmp_path / "model.weights.h5")
    assert keras_bmr.objectives.kl_factor(other) == pytest.approx(0.5)
    keras_bmr.set_num_examples(other, 20)
    np.testing.assert_allclose(other.layers[0].kl_weight, 0.5 / 20, rtol=1e-6)


def test_the_config_of_every_argument_comes_back():
    layer = dense(
        posterior=keras_bmr.posteriors.MeanFieldNormal(initial_scale=0.2, gain=3.0),
        prior=priors.ScaleMixtureNormal(concentration=3.0, rate=1.0, factor=0.1),
        estimator="flipout",
        bayesian_bias=True,
        seed=7,
    )
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(layer)
    )
    assert again.get_config() == layer.get_config()
    assert again._posterior_family.get_config() == {"initial_scale": 0.2, "gain": 3.0}
    assert again._prior_family.factor == 0.1 and again.estimator == "flipout"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"posterior": "normal"}, "posterior='normal'"),
        ({"prior": "cauchy"}, "prior='cauchy'"),
        ({"num_examples": 0}, "num_examples=0"),
        ({"num_examples": 1.5}, "num_examples=1.5"),
        ({"num_examples": float("nan")}, "num_examples=nan"),
        ({"num_examples": "many"}, "num_examples='many'"),
    ],
)
def test_invalid_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        dense(**options)


# --- Noise ---


def test_layers_and_batches_draw_different_noise_and_seeds_repeat_it():
    def draws(seed):
        layer = dense(seed=seed, kernel_initializer="zeros")
        return [layer(X, training=True).numpy() for _ in range(2)]

    first, second = draws(None), draws(None)
    assert np.all(first[0] != first[1]) and np.all(first[0] != second[0])
    np.testing.assert_array_equal(draws(3), draws(3))
    assert np.all(draws(3)[0] != draws(4)[0])


def test_the_scale_is_drawn_apart_from_the_weights():
    layer = layers.DenseVariational(
        1, prior="scale_mixture_normal", estimator="reparameterization", seed=1
    )
    layer.build((None, 1))

    @tf.function
    def scale_and_noise(seed):
        drawn = layer.scaled_draw("kernel", seed)
        value = layer._posterior_family.sample(drawn, seed)
        return tf.stack([drawn.scale[0, 0], ((value - drawn.loc) / drawn.scale)[0, 0]])

    seeds = tf.unstack(tf.reshape(tf.range(800), (400, 2)))
    pairs = [scale_and_noise(seed) for seed in seeds]
    assert abs(np.corrcoef(np.array(pairs).T)[0, 1]) < 5 / np.sqrt(400)


def test_replicas_draw_different_noise():
    source = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)
import keras, numpy as np
from keras_bmr import layers
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    layer = layers.DenseVariational(3, num_examples=10, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((4,)), layer])
    model.compile("adam", "mse", jit_compile=False)
call = tf.function(lambda: layer(tf.ones((2, 4)), training=True))
first, second = strategy.run(call).values
assert np.all(first.numpy() != second.numpy())
model.train_on_batch(np.ones((4, 4), "float32"), np.ones((4, 3), "float32"))
layer.prune("kernel", np.eye(4, 3) > 0)
loss = model.train_on_batch(np.ones((4, 4), "float32"), np.ones((4, 3), "float32"))
assert np.isfinite(loss)
assert np.all((layer.kernel.numpy() != 0) == (np.eye(4, 3) > 0))
"""
    root = pathlib.Path(__file__).parents[2]
    completed = subprocess.run(
        [sys.executable, "-c", source],
        cwd=root,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert completed.returncode == 0, completed.stderr


# --- State and masks of inputs ---


def test_dropout_seeds_advance_also_inside_a_stateless_scope():
    layer = layers.LSTMVariational(
        3, dropout=0.5, recurrent_dropout=0.5, num_examples=1, seed=1
    )
    inputs = tf.ones((2, 3, 4))
    layer(inputs)
    states = [v for v in layer.variables if "seed_generator_state" in v.path]
    assert len(states) == 2
    before = [v.numpy() for v in states]
    layer(inputs, training=True)
    assert all(np.any(v.numpy() != b) for v, b in zip(states, before, strict=True))
    before = [v.numpy() for v in layer.variables]
    outputs, updated = layer.stateless_call(
        [v.value for v in layer.trainable_variables],
        [v.value for v in layer.non_trainable_variables],
        inputs,
        training=True,
    )
    for variable, value in zip(layer.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    for variable, value in zip(layer.non_trainable_variables, updated, strict=True):
        if "seed_generator_state" in variable.path:
            assert np.any(variable.numpy() != np.asarray(value)), variable.path


def test_an_outer_stateless_scope_reaches_the_parent():
    layer = layers.LayerNormalizationVariational(num_examples=1)
    layer(X)
    expected = layer(X) + 2.0
    with keras.StatelessScope([(layer.beta, tf.fill((4,), 2.0))]):
        np.testing.assert_allclose(layer(X), expected, rtol=1e-6)


def test_dropout_follows_the_seed_of_the_layer():
    def draws():
        layer = layers.LSTMVariational(3, dropout=0.5, seed=5, num_examples=1)
        layer.build((None, 3, 4))
        for variable in layer.location_variables(layer).values():
            variable.assign(tf.ones(variable.shape))
        return layer(tf.ones((2, 3, 4)), training=True)

    np.testing.assert_array_equal(draws(), draws())
    assert layers.MultiHeadAttentionVariational(1, 1, seed=5).get_config()["seed"] == 5


def test_batch_normalization_moves_its_statistics_as_keras_does():
    mine = layers.BatchNormalizationVariational(num_examples=1)
    theirs = keras.layers.BatchNormalization()
    for _ in range(2):
        mine(X, training=True), theirs(X, training=True)
    np.testing.assert_allclose(mine.moving_mean, theirs.moving_mean, rtol=1e-6)
    np.testing.assert_allclose(mine.moving_variance, theirs.moving_variance, rtol=1e-6)


def test_a_stateful_layer_keeps_its_state():
    mine = layers.GRUVariational(3, stateful=True, num_examples=1)
    theirs = keras.layers.GRU(3, stateful=True)
    inputs = tf.ones((2, 3, 4))
    mine(inputs), theirs(inputs)
    mine.reset_state(), theirs.reset_state()
    for a, b in zip(
        mine.location_variables(mine).values(),
        mine.location_variables(theirs).values(),
        strict=True,
    ):
        b.assign(a)
    for _ in range(2):
        np.testing.assert_allclose(mine(inputs), theirs(inputs), rtol=1e-5)


def test_masks_of_inputs_reach_the_layers_behind():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.EmbeddingVariational(6, 3, mask_zero=True, num_examples=1)(inputs)
    outputs = layers.LSTMVariational(3, num_examples=1)(x)
    model = keras.Model(inputs, outputs)
    long = np.array([[1, 2, 3, 0, 0]])
    embeddings = model.layers[1].embeddings
    expected = model(long)
    embeddings.assign(embeddings + 9.0 * np.eye(6)[:, :1])
    np.testing.assert_allclose(model(long), expected, rtol=1e-6)
    assert np.any(model(np.array([[1, 2, 3, 0, 4]])) != expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_variables_of_half_precision_are_refused(dtype):
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(2, dtype=dtype, name="half")]
    )
    with pytest.raises(ValueError, match=f"'half'.*mixed_float16.*dtype='{dtype}'"):
        keras_bmr.to_variational(model)


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have:UserWarning")
def test_quantised_weights_are_refused():
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="small")])
    network.quantize("int8")
    with pytest.raises(ValueError, match="'small' was quantised.*before `quantize`"):
        keras_bmr.to_variational(network)


def test_weights_with_posteriors_are_in_single_precision_or_better():
    layer = layers.DenseVariational(2, num_examples=10, dtype="bfloat16", name="small")
    with pytest.raises(ValueError, match="'small'.*quantise after.*dtype='bfloat16'"):
        layer.build((None, 4))
