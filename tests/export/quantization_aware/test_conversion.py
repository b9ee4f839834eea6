"""Networks in canonical form, and what training and saving do to an aware one."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_bmr
from keras_bmr.export import export_tflite, int8_weights, to_quantization_aware
from keras_bmr.export.quantization_aware import (
    FakeQuantization,
    QuantizationAware,
    is_quantization_aware,
    register_quantization_aware,
)
from keras_bmr.export.quantization_aware.canonical_form import canonical_form
from keras_bmr.layers.pruned_weights import weight_mask
from keras_bmr.pruning import prune_weight


def normal(*shape):
    return np.random.default_rng(1).normal(size=shape).astype("float32")


def randomize(model):
    """Random statistics, factors and biases, and half of all kernels pruned."""
    rng = np.random.default_rng(0)
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, layers.BatchNormalization):
            low, high = 0.5, 1.5
            layer.gamma.assign(rng.uniform(low, high, layer.gamma.shape) * -1)
            layer.beta.assign(rng.normal(size=layer.beta.shape))
            layer.moving_mean.assign(rng.normal(size=layer.gamma.shape) * 0.2)
            layer.moving_variance.assign(rng.uniform(low, high, layer.gamma.shape))
        for name in ("kernel", "depthwise_kernel", "pointwise_kernel"):
            if hasattr(layer, name):
                shape = getattr(layer, name).shape
                prune_weight(layer, name, rng.random(shape) > 0.5)
        if getattr(layer, "bias", None) is not None:
            layer.bias.assign(rng.normal(size=layer.bias.shape) * 0.3)
    return model


def image_network():
    inputs = keras.Input((6, 6, 2), name="image")
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="first")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU()(x)
    y = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="deep")(x)
    y = layers.BatchNormalization()(y)
    y = layers.Activation("relu6")(y)
    y = layers.Conv2D(4, 1, name="back")(y)
    y = layers.BatchNormalization()(y)
    y = layers.Rescaling([0.5, 1.0, 2.0, -1.0])(y)
    x = layers.Activation("relu")(layers.Add()([x, y]))
    x = layers.MaxPooling2D()(x)
    # Behind a pooling layer: a convolution of its own.
    x = layers.BatchNormalization(name="alone")(x)
    x = layers.SeparableConv2D(3, 2, activation="tanh", name="separable")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Conv2DTranspose(3, 2, strides=2, activation="silu", name="up")(x)
    x = layers.Flatten()(layers.AveragePooling2D(2)(x))
    x = layers.Dense(6, activation="relu", name="dense")(x)
    x = layers.BatchNormalization(name="of_vectors")(x)
    x = layers.Dropout(0.2)(x)
    outputs = layers.Dense(3, activation="softmax", name="outputs")(x)
    return keras.Model(inputs, outputs)


@pytest.fixture(scope="module")
def aware_images():
    keras.utils.set_random_seed(0)
    model = randomize(image_network())
    return model, to_quantization_aware(model, normal(200, 6, 6, 2))


def test_canonical_form_has_the_same_outputs():
    model, x = randomize(image_network()), normal(50, 6, 6, 2)
    network = canonical_form(model)
    np.testing.assert_allclose(
        network.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6
    )
    kinds = [type(layer).__name__ for layer in network.layers]
    assert "BatchNormalization" not in kinds
    assert "Rescaling" not in kinds
    assert "SeparableConv2D" not in kinds
    assert isinstance(network.get_layer("alone"), layers.DepthwiseConv2D)
    assert isinstance(network.get_layer("of_vectors"), layers.DepthwiseConv2D)


def test_canonical_form_keeps_masks_and_no_others():
    # A negative factor turns 0.0 into -0.0, the mark of a pruned weight.
    model = randomize(image_network())
    kernel = model.get_layer("first").kernel
    free = np.argwhere(weight_mask(model.get_layer("first"), "kernel"))[0]
    value = kernel.numpy()
    value[tuple(free)] = 0.0
    kernel.assign(value)
    network = canonical_form(model)
    for name in ("first", "deep", "back", "up", "dense", "outputs"):
        np.testing.assert_array_equal(
            weight_mask(network.get_layer(name), "kernel"),
            weight_mask(model.get_layer(name), "kernel"),
        )
    for part in ("depthwise", "pointwise"):
        np.testing.assert_array_equal(
            weight_mask(network.get_layer(f"separable_{part}"), "kernel"),
            weight_mask(model.get_layer("separable"), f"{part}_kernel"),
        )


def test_aware_model_stays_near_the_model(aware_images):
    model, aware = aware_images
    x = normal(200, 6, 6, 2)
    expected = model.predict(x, verbose=0)
    received = aware.predict(x, verbose=0)
    assert [tensor.name for tensor in aware.inputs] == ["image"]
    assert 0 < np.sqrt(np.mean((received - expected) ** 2)) < 0.1 * np.std(expected)


def test_quantizers_stand_where_tflite_rounds(aware_images):
    _, aware = aware_images
    names = {la.name for la in aware.layers if isinstance(la, FakeQuantization)}
    expected = """image re_lu activation back activation_1 alone
        separable_depthwise separable_pointwise separable_pointwise_activation
        batch_normalization_3 up up_activation_sigmoid up_activation dense of_vectors
        outputs outputs_activation"""
    assert len(names) == len(expected.split())
    # Those with names that Keras does not number.
    for name in ("image", "back", "alone", "up", "up_activation", "dense", "outputs"):
        assert f"{name}_quantization" in names
    assert "first_quantization" not in names
    assert "deep_quantization" not in names
    softmax = aware.get_layer("outputs_activation_quantization")
    assert softmax.fixed_range == (0.0, 255 / 256)


def test_training_moves_weights_and_ranges_and_keeps_masks(aware_images, tmp_path):
    model, _ = aware_images
    x = normal(64, 6, 6, 2)
    aware = to_quantization_aware(model, x, momentum=0.5)
    aware.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    before = {w.path: w.numpy() for w in aware.weights}
    aware.fit(3 * x, np.arange(64) % 3, epochs=2, batch_size=32, verbose=0)
    aware_layers = [la for la in aware.layers if isinstance(la, QuantizationAware)]
    assert len(aware_layers) == 11
    for layer in aware_layers:
        kept = weight_mask(layer, "kernel")
        kernel = layer.kernel.numpy()
        assert np.all(kernel[~kept] == 0)
        assert np.all(layer.rounded_kernel().numpy()[~kept] == 0)
        assert np.any(kernel != before[layer.kernel.path])
    moved = aware.get_layer("image_quantization")
    assert float(moved.high) > 1.5 * before[moved.high.path]
    path = tmp_path / "aware.keras"
    aware.save(path)
    loaded = keras.models.load_model(path)
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), aware.predict(x, verbose=0)
    )
    loaded.fit(x, np.arange(64) % 3, epochs=1, verbose=0)
    kept = weight_mask(loaded.get_layer("deep"), "kernel")
    assert 0.2 < np.mean(~kept) < 0.8
    assert np.all(loaded.get_layer("deep").kernel.numpy()[~kept] == 0)


def test_no_gradient_is_missing(aware_images):
    import tensorflow as tf

    _, aware = aware_images
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(aware(normal(8, 6, 6, 2), training=True)[:, 0])
    variables = [weight.value for weight in aware.trainable_weights]
    gradients = tape.gradient(loss, variables)
    assert all(gradient is not None for gradient in gradients)
    assert all(np.any(gradient.numpy() != 0) for gradient in gradients[:1])


def test_bayesian_model_is_taken_at_its_means_with_its_masks():
    network = keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, activation="relu"), layers.Dense(2)]
    )
    bayesian = keras_bmr.to_variational(network, num_examples=100)
    reduced = keras_bmr.reduce_model(bayesian, sparsity=0.5)
    aware = to_quantization_aware(reduced, normal(100, 6))
    aware_layers = [la for la in aware.layers if isinstance(la, QuantizationAware)]
    kept = [weight_mask(layer, "kernel") for layer in aware_layers]
    assert sum(int(np.sum(~mask)) for mask in kept) == 32
    aware.compile("sgd", "mse")
    aware.fit(normal(100, 6), normal(100, 2), verbose=0)
    for layer, mask in zip(aware_layers, kept, strict=True):
        assert np.all(layer.kernel.numpy()[~mask] == 0)


def test_nested_and_shared_layers():
    shared = layers.Dense(4, activation="relu", name="shared")
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="shared")])
    inputs = [keras.Input((4,), name="a"), keras.Input((4,), name="b")]
    x = layers.Concatenate()([shared(inputs[0]), shared(inputs[1])])
    model = keras.Model(
        inputs, layers.Dense(2)(layers.Add()([inner(inputs[0]), x[:, :4]]))
    )
    x = [normal(50, 4), normal(50, 4) + 1]
    aware = to_quantization_aware(model, x)
    assert sum(isinstance(la, QuantizationAware) for la in aware.layers) == 3
    expected, received = model.predict(x, verbose=0), aware.predict(x, verbose=0)
    assert np.max(np.abs(expected - received)) < 0.1 * np.std(expected)


def trained(network, tmp_path):
    """The layers with kernels of an aware model after training, and its file."""
    x = normal(64, *network.input_shape[1:])
    aware = to_quantization_aware(network, x)
    aware.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=True)
    y = normal(64, *network.output_shape[1:])
    aware.fit(x, y, batch_size=64, epochs=3, verbose=0)
    path = tmp_path / "model.tflite"
    export_tflite(aware, path, quantize="int8", validation_data=x)
    named = {la.name: la for la in aware.layers if isinstance(la, QuantizationAware)}
    return named, [item.codes for item in int8_weights(path)]


def largest(kernel):
    """The largest absolute weight of each channel on the last axis."""
    return np.abs(kernel).reshape(-1, kernel.shape[-1]).max(0)


def test_pruned_gates_stay_shut_and_factors_constant(tmp_path):
    network = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Rescaling(0.7, name="scale"),
            layers.Dense(4, activation="relu", name="bent"),
            layers.Dense(4, bias_initializer="ones", name="straight"),
            layers.Dense(2),
        ]
    )
    gated = keras_bmr.layers.add_noise_gates(network, num_examples=64)
    is_open = np.array([True, False, True, False])
    for name in ("bent_gate", "straight_gate"):
        gated.get_layer(name).prune("noise", is_open)
    named, codes = trained(gated, tmp_path)
    # One behind the activation, the other as part of the layer before it.
    gate, straight = named["bent_gate"], named["straight"]
    assert "straight_gate" not in named
    np.testing.assert_array_equal(gate.kernel.numpy().ravel() != 0, is_open)
    np.testing.assert_array_equal(weight_mask(gate, "kernel").ravel(), is_open)
    np.testing.assert_array_equal(gate.bias.numpy(), 0.0)
    np.testing.assert_array_equal(largest(straight.kernel.numpy()) > 0, is_open)
    np.testing.assert_array_equal(
        weight_mask(straight, "kernel"), np.broadcast_to(is_open, (4, 4))
    )
    np.testing.assert_array_equal(straight.bias.numpy() != 0, is_open)
    assert [item.shape for item in codes[2:4]] == [(1, 1, 1, 4), (4, 4)]
    np.testing.assert_array_equal(largest(codes[2]) > 0, is_open)
    np.testing.assert_array_equal(largest(codes[3].T) > 0, is_open)
    np.testing.assert_array_equal(named["scale"].kernel.numpy(), np.float32(0.7))
    np.testing.assert_array_equal(named["scale"].bias.numpy(), 0.0)


def test_channels_of_pruned_scales_stay_pruned(tmp_path):
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, use_bias=False, name="shifted")(inputs)
    x = layers.BatchNormalization(beta_initializer="ones", name="with_beta")(x)
    x = layers.ReLU()(x)
    x = layers.SeparableConv2D(4, 2, name="split")(x)
    x = layers.BatchNormalization(center=False, name="without_beta")(x)
    x = layers.GlobalMaxPooling2D()(x)
    x = layers.BatchNormalization(name="alone")(x)
    network = keras.Model(inputs, layers.Dense(2)(x))
    kept = np.array([True, False, True, False])
    for name in ("with_beta", "without_beta", "alone"):
        # Times a negative scale, zero has the sign that marks pruned weights.
        network.get_layer(name).gamma.assign(-np.ones(4))
        prune_weight(network.get_layer(name), "gamma", kept)
    network.get_layer("shifted").kernel.assign(np.zeros((3, 3, 2, 4)))
    named, codes = trained(network, tmp_path)
    shifted, split, alone = (named[n] for n in ("shifted", "split_pointwise", "alone"))
    for layer in (shifted, split):
        np.testing.assert_array_equal(
            weight_mask(layer, "kernel"), np.broadcast_to(kept, layer.kernel.shape)
        )
        np.testing.assert_array_equal(largest(layer.kernel.numpy()) > 0, kept)
    np.testing.assert_array_equal(alone.kernel.numpy().ravel() != 0, kept)
    # What the batch normalisation added still trains, if it had something to add.
    assert np.all(shifted.bias.numpy()[~kept] != 1)
    np.testing.assert_array_equal(split.bias.numpy() != 0, kept)
    assert np.all(alone.bias.numpy() != 0)
    np.testing.assert_array_equal(codes[0].any((1, 2, 3)), kept)
    np.testing.assert_array_equal(codes[2].any((1, 2, 3)), kept)


def test_layers_may_have_the_names_of_inputs():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="x")])
    inputs = [keras.Input((4,), name="x"), keras.Input((4,), name="x_quantization")]
    # By keyword, as arguments may come.
    normalised = layers.BatchNormalization()(inputs=inner(inputs[0]))
    outputs = layers.Dense(2)(inputs=layers.Add()([normalised, inputs[1]]))
    model = keras.Model(inputs, outputs)
    x = [normal(50, 4), normal(50, 4) + 1]
    aware = to_quantization_aware(model, x)
    assert [tensor.name for tensor in aware.inputs] == ["x", "x_quantization"]
    expected, received = model.predict(x, verbose=0), aware.predict(x, verbose=0)
    assert np.max(np.abs(expected - received)) < 0.1 * np.std(expected)


def dense(**arguments):
    return keras.Sequential([keras.Input((4,)), layers.Dense(3, **arguments)])


def test_unknown_layers_are_named():
    model = keras.Sequential([keras.Input((5, 3)), layers.LSTM(4, name="memory")])
    with pytest.raises(ValueError, match="'memory' of class LSTM.*Conv2DTranspose"):
        to_quantization_aware(model, normal(30, 5, 3))


def test_channels_first_is_refused():
    model = keras.Sequential(
        [
            keras.Input((2, 6, 6)),
            layers.DepthwiseConv2D(3, data_format="channels_first", name="spatial"),
        ]
    )
    with pytest.raises(ValueError, match="'spatial'.*channels_last"):
        to_quantization_aware(model, normal(30, 2, 6, 6))


def test_other_errors():
    model, x = dense(), normal(30, 4)
    with pytest.raises(ValueError, match="at least 20 examples"):
        to_quantization_aware(model, x[:5])
    with pytest.raises(ValueError, match="momentum=2"):
        to_quantization_aware(model, x, momentum=2)
    with pytest.raises(TypeError, match="keras.Model"):
        to_quantization_aware("model", x)
    aware = to_quantization_aware(model, x)
    assert is_quantization_aware(aware)
    assert not is_quantization_aware(model)
    with pytest.raises(ValueError, match="already"):
        to_quantization_aware(aware, x)
    tokens = keras.Sequential([keras.Input((4,), dtype="int32"), layers.Flatten()])
    with pytest.raises(ValueError, match="int32"):
        to_quantization_aware(tokens, np.ones((30, 4), "int32"))
    x[3, 2] = np.nan
    with pytest.raises(ValueError, match="1 values that are nan"):
        to_quantization_aware(model, x)


def test_registered_class_of_ones_own():
    class Doubling(layers.Dense):
        def call(self, inputs, training=None):
            return 2 * super().call(inputs)

    with pytest.raises(ValueError, match="Doubling"):
        to_quantization_aware(
            keras.Sequential([keras.Input((4,)), Doubling(3)]), normal(30, 4)
        )
    with pytest.raises(ValueError, match="Dense already has"):

        @register_quantization_aware(layers.Dense)
        class Again(QuantizationAware, layers.Dense):
            CHANNEL_AXES = (-1,)

    class Mine(layers.Layer):
        pass

    with pytest.raises(ValueError, match=r"Mine derives from no .*'Conv2DTranspose'"):

        @register_quantization_aware(Mine)
        class MineAware(QuantizationAware, Mine):
            CHANNEL_AXES = (-1,)

    with pytest.raises(ValueError, match="WithoutAxes must say by `CHANNEL_AXES`"):

        @register_quantization_aware(Doubling)
        class WithoutAxes(QuantizationAware, Doubling):
            pass

    with pytest.raises(ValueError, match="must derive from"):

        @register_quantization_aware(Doubling)
        class NoMixin(Doubling):
            pass
