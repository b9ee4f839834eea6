import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src import testing

from keras_bmr import layers
from keras_bmr.posteriors import MeanFieldNormal

PRIORS = (
    "normal",
    "layerwise_normal",
    "empirical_bayes_normal",
    "scale_mixture_normal",
)


def test_every_exported_layer_has_a_case(request):
    exported = {
        name
        for name in layers.__all__
        if name.endswith("Variational")
        and name not in ("Variational", "LinearVariational")
    }
    from_cases = {str(c) for c in request.getfixturevalue("all_cases")}
    assert exported == from_cases


# Keras' own test feeds a generator.
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning")
def test_run_layer_test(case):
    if issubclass(case.layer_class, keras.layers.MultiHeadAttention):
        inputs = {
            "query_shape": case.input_shape,
            "value_shape": case.input_shape,
        }
        dtype = {"query_shape": "float32", "value_shape": "float32"}
    else:
        inputs = case.input_shape
        dtype = "float32" if case.vocabulary is None else "int32"
    testing.TestCase().run_layer_test(
        case.layer_class,
        init_kwargs={**case.arguments, "num_examples": 10, "bayesian_bias": True},
        input_shape=inputs,
        input_dtype=dtype,
        run_training_check=not isinstance(inputs, dict),
    )


def test_equals_the_keras_parent_at_the_means(case, randomize):
    layer, parent = case.make(bayesian_bias=True), case.make_parent()
    arguments = case.call_arguments(case.inputs())
    layer(*arguments), parent(*arguments)
    randomize(layer)
    for mine, theirs in zip(
        layer.location_variables(layer).values(),
        layer.location_variables(parent).values(),
        strict=True,
    ):
        theirs.assign(mine)
    np.testing.assert_array_equal(layer(*arguments), parent(*arguments))


@pytest.mark.parametrize("prior", PRIORS)
def test_every_trainable_variable_has_a_gradient(case, prior):
    arguments = case.call_arguments(case.inputs())
    for estimator in case.layer_class.ESTIMATORS:
        layer = case.make(prior=prior, estimator=estimator, bayesian_bias=True)
        with tf.GradientTape() as tape:
            outputs = layer(*arguments, training=True)
            loss = tf.reduce_sum(outputs**2) + tf.add_n(layer.losses)
        gradients = tape.gradient(loss, [v.value for v in layer.trainable_variables])
        for variable, gradient in zip(
            layer.trainable_variables, gradients, strict=True
        ):
            assert gradient is not None, variable.path
            values = tf.convert_to_tensor(gradient)
            assert np.isfinite(values).all(), variable.path
            if "log" in variable.name:
                assert np.any(values != 0), variable.path


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_dtype_policies(case, dtype):
    variable_dtype = "float64" if dtype == "float64" else "float32"
    compute_dtype = dtype.removeprefix("mixed_")
    arguments = case.call_arguments(case.inputs())
    for estimator in case.layer_class.ESTIMATORS:
        layer = case.make(dtype=dtype, estimator=estimator, bayesian_bias=True)
        with tf.GradientTape() as tape:
            outputs = layer(*arguments, training=True)
            loss = tf.reduce_mean(tf.cast(outputs, "float32"))
            # As Keras does, which sums in this dtype.
            loss = keras.ops.sum([loss, *layer.losses])
        gradients = tape.gradient(loss, [v.value for v in layer.trainable_variables])
        assert outputs.dtype.name == compute_dtype
        assert all(np.isfinite(tf.convert_to_tensor(g)).all() for g in gradients)
        for name in layer.random_weight_names:
            assert layer.divergence(name).dtype.name == variable_dtype
            assert layer.posterior(name).dtype.name == variable_dtype


@pytest.mark.parametrize("name", ["Dense", "Conv2D", "LSTM"])
def test_jit_and_graph_step_agree(all_cases, name):
    (case,) = [c for c in all_cases if str(c) == f"{name}Variational"]
    # XLA has noise of its own, which is all but silent at this scale.
    posterior = MeanFieldNormal(initial_scale=1e-7)
    for estimator in case.layer_class.ESTIMATORS:
        losses = []
        for jit_compile in (False, True):
            keras.utils.set_random_seed(1)
            model, _ = case.model(estimator=estimator, posterior=posterior)
            model.compile("sgd", "mse", jit_compile=jit_compile)
            losses.append(model.train_on_batch(case.inputs(), np.ones((4, 2))))
        np.testing.assert_allclose(*losses, rtol=1e-5)
