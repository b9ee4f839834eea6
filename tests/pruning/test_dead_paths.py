import keras
import numpy as np
import pytest

import keras_bmr
from keras_bmr.layers import variational_layers
from keras_bmr.pruning import remove_dead_paths

layers = keras.layers


def lenet_300_100(activation):
    return keras.Sequential(
        [
            keras.Input((10, 10, 1)),
            layers.Flatten(),
            layers.Dense(30, activation=activation),
            layers.Dropout(0.5),
            layers.Dense(10, activation=activation),
            layers.Dense(4),
        ]
    )


def lenet_5(activation, padding="valid", pooling=layers.MaxPooling2D):
    return keras.Sequential(
        [
            keras.Input((14, 14, 1)),
            layers.Conv2D(6, 3, activation=activation, padding=padding),
            pooling(2),
            layers.Conv2D(8, 3, padding=padding),
            layers.BatchNormalization(),
            layers.Activation(activation),
            pooling(2),
            layers.Flatten(),
            layers.Dense(20, activation=activation),
            layers.Dense(4),
        ]
    )


def sparse_variational(model, density, seed=0, **options):
    """Random weights and biases, most of them pruned, whole units among them."""
    generator = np.random.default_rng(seed)
    bayesian = keras_bmr.to_variational(model, num_examples=10, **options)
    for variable in bayesian.non_trainable_variables:
        if "moving" in variable.path:
            variable.assign(generator.uniform(0.5, 1.5, variable.shape))
    for layer in variational_layers(bayesian):
        layer.bias.assign(generator.normal(size=layer.bias.shape))
        fan_in = np.prod(layer.kernel.shape[:-1])
        kernel = generator.normal(size=layer.kernel.shape)
        layer.kernel.assign(kernel / np.sqrt(max(1.0, fan_in * min(density, 1.0))))
        keep = generator.uniform(size=layer.mask("kernel").shape) < density
        units = keep.shape[-1]
        if layer is not variational_layers(bayesian)[-1]:
            # The first unit has no fan-in, so that there always is a constant.
            keep[..., : max(1, units // 10)] = False
        layer.prune("kernel", keep)
    return bayesian


def inputs_for(model, count=16):
    generator = np.random.default_rng(7)
    shape = (count, *model.input_shape[1:])
    return generator.normal(size=shape).astype("float32")


def check_output_unchanged(model):
    x = inputs_for(model)
    before = np.asarray(model(x))
    sparsity = keras_bmr.sparsity(model)
    pruned = remove_dead_paths(model)
    assert np.ptp(before, axis=0).max() > 1e-3
    np.testing.assert_allclose(np.asarray(model(x)), before, atol=1e-5)
    num_weights = sum(
        np.prod(layer.mask("kernel").shape) for layer in variational_layers(model)
    )
    assert keras_bmr.sparsity(model) == pytest.approx(sparsity + pruned / num_weights)
    assert remove_dead_paths(model) == 0
    return pruned


def dead_units(model):
    """Units with only one of fan-in and fan-out, per pair of dense layers."""
    dense = [
        layer for layer in variational_layers(model) if isinstance(layer, layers.Dense)
    ]
    return [
        int(
            np.sum(
                np.any(first.mask("kernel").numpy(), axis=0)
                != np.any(second.mask("kernel").numpy(), axis=1)
            )
        )
        for first, second in zip(dense, dense[1:], strict=False)
    ]


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("density", [0.05, 0.3])
def test_dense_output_is_unchanged(activation, density):
    model = sparse_variational(lenet_300_100(activation), density)
    assert sum(dead_units(model)) > 0
    assert check_output_unchanged(model) > 0
    assert sum(dead_units(model)) == 0


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("pooling", [layers.MaxPooling2D, layers.AveragePooling2D])
def test_convolution_output_is_unchanged(activation, pooling):
    model = sparse_variational(lenet_5(activation, pooling=pooling), 0.2)
    assert check_output_unchanged(model) > 0
    conv1, conv2, dense1, _ = variational_layers(model)
    has_fan_in = np.any(conv1.mask("kernel").numpy(), axis=(0, 1, 2))
    has_fan_out = np.any(conv2.mask("kernel").numpy(), axis=(0, 1, 3))
    np.testing.assert_array_equal(has_fan_in, has_fan_out)
    flattened = np.any(dense1.mask("kernel").numpy(), axis=1).reshape(-1, 8)
    has_fan_in = np.any(conv2.mask("kernel").numpy(), axis=(0, 1, 2))
    np.testing.assert_array_equal(has_fan_in, flattened.any(axis=0))


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_padded_constant_is_not_folded(activation):
    model = sparse_variational(lenet_5(activation, padding="same"), 0.1)
    conv1, conv2, *_ = variational_layers(model)
    conv1.bias.assign(np.full(6, 0.7))
    check_output_unchanged(model)
    # sigmoid(0.7) differs between the middle and the border after the padding.
    assert conv2.mask("kernel").numpy()[:, :, 0, :].any()


def test_padded_zero_is_removed():
    model = sparse_variational(lenet_5("relu", padding="same"), 0.1)
    conv1, conv2, *_ = variational_layers(model)
    conv1.bias.assign(np.full(6, -0.7))
    check_output_unchanged(model)
    assert not conv2.mask("kernel").numpy()[:, :, 0, :].any()


def test_hand_computed_constant():
    model = keras.Sequential(
        [keras.Input((2,)), layers.Dense(2, activation="sigmoid"), layers.Dense(1)]
    )
    model = keras_bmr.to_variational(model, num_examples=1)
    first, second = variational_layers(model)
    first.bias.assign([np.log(3.0), 0.0])
    first.prune("kernel", [[False, True], [False, True]])
    second.kernel.assign([[2.0], [5.0]])
    second.bias.assign([0.25])
    assert remove_dead_paths(model) == 1
    # sigmoid(log 3) = 3/4
    np.testing.assert_allclose(second.bias.numpy(), [0.25 + 2 * 0.75], rtol=1e-6)
    np.testing.assert_array_equal(second.mask("kernel").numpy(), [[False], [True]])


def test_cascade_reaches_through_all_layers():
    model = sparse_variational(lenet_300_100("tanh"), 1.1)
    first, second, third = variational_layers(model)
    keep = np.ones(third.mask("kernel").shape, bool)
    keep[5] = False
    third.prune("kernel", keep)
    keep = np.ones(second.mask("kernel").shape, bool)
    keep[7, [i for i in range(10) if i != 5]] = False
    second.prune("kernel", keep)
    check_output_unchanged(model)
    assert not second.mask("kernel").numpy()[:, 5].any()
    # Unit 7 of the first layer was read by unit 5 of the second alone.
    assert not first.mask("kernel").numpy()[:, 7].any()


def test_bayesian_bias_keeps_its_uncertain_constant():
    model = sparse_variational(lenet_300_100("sigmoid"), 0.2, bayesian_bias=True)
    _, second, third = variational_layers(model)
    has_fan_out = third.mask("kernel").numpy().any(axis=1)
    before = second.mask("kernel").numpy()[0] & has_fan_out
    assert before.any()
    check = inputs_for(model)
    expected = np.asarray(model(check))
    remove_dead_paths(model)
    np.testing.assert_allclose(np.asarray(model(check)), expected, atol=1e-5)
    np.testing.assert_array_equal(second.mask("kernel").numpy()[0], before)


def two_branches():
    inputs = keras.Input((6,))
    hidden = layers.Dense(8, activation="sigmoid")(inputs)
    outputs = layers.Add()([layers.Dense(3)(hidden), layers.Dense(3)(hidden)])
    return keras.Model(inputs, outputs)


def shared_layer():
    inputs = keras.Input((6,))
    shared = layers.Dense(6, activation="sigmoid")
    return keras.Model(inputs, layers.Dense(3)(shared(shared(inputs))))


def exposed_hidden_layer():
    inputs = keras.Input((6,))
    hidden = layers.Dense(8, activation="sigmoid")(inputs)
    outputs = layers.Dense(3)(hidden)
    return keras.Model(inputs, layers.Concatenate()([outputs, hidden]))


def softmax_between():
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="softmax"),
            layers.Dense(3),
        ]
    )


def unknown_layer():
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8),
            layers.LayerNormalization(),
            layers.Dense(3),
        ]
    )


def pooling_across_channels():
    return keras.Sequential(
        [
            keras.Input((6, 4)),
            layers.Dense(8),
            layers.MaxPooling1D(2, data_format="channels_first"),
            layers.Dense(3),
        ]
    )


def nested():
    inner = keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, activation="sigmoid"), layers.Dense(5)]
    )
    inputs = keras.Input((6,))
    return keras.Model(inputs, layers.Dense(3)(inner(inputs)))


@pytest.mark.parametrize(
    "build",
    [
        softmax_between,
        unknown_layer,
        pooling_across_channels,
    ],
)
def test_other_graphs_are_left_alone(build):
    model = sparse_variational(build(), 0.4)
    assert check_output_unchanged(model) == 0


def grouped_convolution():
    return keras.Sequential(
        [
            keras.Input((5, 5, 2)),
            layers.Conv2D(8, 3, activation="sigmoid"),
            layers.Conv2D(6, 2, groups=2),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )


def distributed_over_steps():
    return keras.Sequential(
        [
            keras.Input((5, 4)),
            layers.TimeDistributed(layers.Dense(6, activation="sigmoid")),
            layers.TimeDistributed(layers.Dense(5)),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


@pytest.mark.parametrize(
    "build",
    [
        two_branches,
        shared_layer,
        exposed_hidden_layer,
        nested,
        grouped_convolution,
        distributed_over_steps,
    ],
)
def test_graphs_are_followed(build):
    model = sparse_variational(build(), 0.3)
    assert check_output_unchanged(model) > 0


def test_a_sum_loses_the_channels_that_nothing_reads():
    inputs = keras.Input((6,))
    x = layers.Dense(8, activation="tanh")(inputs)
    x = layers.Add()([x, layers.Dense(8)(x)])
    model = keras.Model(inputs, layers.Dense(3)(x))
    model = sparse_variational(model, 1.1)
    first, second, third = variational_layers(model)
    keep = np.arange(8) > 2
    third.prune("kernel", np.broadcast_to(keep[:, None], (8, 3)))
    second.prune("kernel", np.broadcast_to((np.arange(8) != 1)[:, None], (8, 8)))
    check_output_unchanged(model)
    # Unit 2 of the first layer is read before the sum, unit 1 nowhere.
    kept = first.mask("kernel").numpy().any(axis=0)
    np.testing.assert_array_equal(kept, [False, False, True] + [True] * 5)


def test_skipped_layers_lose_nothing():
    model = sparse_variational(lenet_300_100("sigmoid"), 0.05)
    names = [layer.name for layer in variational_layers(model)]
    assert remove_dead_paths(model, skip=names) == 0
    with pytest.raises(ValueError, match="`skip` must be a list of names"):
        remove_dead_paths(model, skip=["absent"])


def test_mixed_precision_counts_units_exactly():
    policy = "mixed_bfloat16"
    model = keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            layers.Conv2D(300, 1, activation="relu", dtype=policy),
            layers.GlobalAveragePooling2D(dtype=policy),
            layers.Dense(3, dtype=policy),
        ]
    )
    model = keras_bmr.to_variational(model, num_examples=1)
    first, second = variational_layers(model)
    keep = np.ones((300, 3), bool)
    keep[[257, 299]] = False
    second.prune("kernel", keep)
    assert remove_dead_paths(model) == 2 * 2
    gone = ~first.mask("kernel").numpy().any(axis=(0, 1, 2))
    np.testing.assert_array_equal(np.flatnonzero(gone), [257, 299])


class Residual(keras_bmr.layers.DenseVariational):
    def call(self, inputs, training=None):
        return super().call(inputs, training=training) + inputs


def test_a_subclass_that_computes_something_else_is_left_alone():
    model = keras.Sequential(
        [
            keras.Input((8,)),
            Residual(8, num_examples=1),
            Residual(8, num_examples=1),
            keras_bmr.layers.DenseVariational(3, num_examples=1),
        ]
    )
    for layer in model.layers:
        # Nothing comes in and nothing goes out but what is passed by.
        layer.prune("kernel", np.arange(8)[:, None] > np.zeros(layer.kernel.shape[-1]))
        layer.bias.assign(np.ones(layer.bias.shape))
    model.layers[1].prune("kernel", np.zeros((8, 8), bool))
    x = inputs_for(model)
    before = model(x).numpy()
    assert remove_dead_paths(model) == 0
    np.testing.assert_array_equal(model(x), before)


def test_weights_that_are_not_finite_are_refused():
    model = sparse_variational(lenet_300_100("relu"), 0.05)
    kernel = variational_layers(model)[1].kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    before = model.get_weights()
    with pytest.raises(ValueError, match="dense.*kernel.*NaN or infinite"):
        remove_dead_paths(model)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_models_that_are_not_built_or_not_bayesian_are_refused():
    late = keras.Sequential([keras_bmr.layers.DenseVariational(2, name="late")])
    with pytest.raises(ValueError, match=r"not built yet.*\['late'\]"):
        remove_dead_paths(late)
    with pytest.raises(ValueError, match="no Bayesian layer"):
        remove_dead_paths(lenet_300_100("relu"))
