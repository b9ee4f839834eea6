"""Curvature against dense matrices made of Jacobians."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bmr.laplace.curvature import (
    curvature_weights,
    fit_curvature,
)

L = keras.layers
SPARSE = keras.losses.SparseCategoricalCrossentropy
ONE_HOT = keras.losses.CategoricalCrossentropy
BINARY = keras.losses.BinaryCrossentropy
SQUARED = keras.losses.MeanSquaredError


def sequential(shape, *layers, dtype="float64"):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *layers])


def residual():
    inputs = keras.Input((4, 4, 2), dtype="float64")
    x = L.Conv2D(3, 3, padding="same")(inputs)
    y = L.Conv2D(3, 3, padding="same", activation="relu")(L.BatchNormalization()(x))
    x = L.Add()([x, y])
    return keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling2D()(x)))


def shared():
    inputs = keras.Input((4,), dtype="float64")
    layer = L.Dense(4, activation="tanh")
    return keras.Model(inputs, L.Dense(3)(layer(layer(inputs))))


def transformer():
    inputs = keras.Input((5,), dtype="int32")
    x = L.Embedding(6, 4)(inputs)
    x = x + L.MultiHeadAttention(2, 3)(L.LayerNormalization()(x), x)
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling1D()(x)))


def probabilities():
    inner = sequential((3,), L.Dense(4, activation="tanh"), L.Dense(3))
    return keras.Sequential([keras.Input((3,), dtype="float64"), inner, L.Softmax()])


# name: (model, loss, kind of targets). Names say what is special.
CASES = {
    "strides": (
        lambda: sequential(
            (7, 6, 2),
            L.Conv2D(3, 3, strides=2, padding="same"),
            L.Flatten(),
            L.Dense(2),
        ),
        SPARSE(from_logits=True),
    ),
    "max pooling": (
        lambda: sequential(
            (6, 6, 2),
            L.Conv2D(3, 2, activation="relu"),
            L.MaxPooling2D(3, strides=2, padding="same"),
            L.Conv2D(4, 2),
            L.MaxPooling2D(),
            L.Flatten(),
            L.Dense(3),
        ),
        SPARSE(from_logits=True),
    ),
    "dilation and groups": (
        lambda: sequential(
            (6, 6, 4),
            L.Conv2D(4, 2, dilation_rate=2, groups=2),
            L.Flatten(),
            L.Dense(2),
        ),
        SPARSE(from_logits=True),
    ),
    "causal": (
        lambda: sequential(
            (6, 2), L.Conv1D(3, 3, padding="causal"), L.Flatten(), L.Dense(2)
        ),
        ONE_HOT(from_logits=True),
    ),
    "volume": (
        lambda: sequential((3, 4, 3, 1), L.Conv3D(2, 2), L.Flatten(), L.Dense(2)),
        SQUARED(),
    ),
    "depthwise": (
        lambda: sequential(
            (5, 4, 2),
            L.DepthwiseConv2D(3, depth_multiplier=2, activation="relu"),
            L.Flatten(),
            L.Dense(2),
        ),
        SPARSE(from_logits=True),
    ),
    "einsum with groups": (
        lambda: sequential(
            (3, 2, 4),
            L.EinsumDense("abcd,cde->abce", (3, 2, 3), bias_axes="ce"),
            L.Activation("tanh"),
            L.EinsumDense("...cd,de->...ce", (2, 3), bias_axes="c"),
            L.Flatten(),
            L.Dense(2),
        ),
        SPARSE(from_logits=True),
    ),
    "residual and batch normalisation": (residual, ONE_HOT(from_logits=True)),
    "shared layer": (shared, SPARSE(from_logits=True)),
    "transformer": (transformer, SPARSE(from_logits=True)),
    "softmax in a nested model": (probabilities, SPARSE()),
    "sigmoid": (
        lambda: sequential((3,), L.Dense(4, "tanh"), L.Dense(2, "sigmoid")),
        BINARY(),
    ),
    "labels of a sequence": (
        lambda: sequential(
            (4, 2), L.Dense(3, "tanh"), L.LayerNormalization(), L.Dense(3)
        ),
        SPARSE(from_logits=True),
    ),
}
NUM_EXAMPLES = 5


@pytest.fixture(scope="module", params=CASES, ids=lambda name: name.replace(" ", "-"))
def case(request):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    keras.utils.set_random_seed(1)
    build, loss = CASES[request.param]
    model = build()
    keras.config.set_dtype_policy(policy)
    generator = np.random.default_rng(0)
    for variable in model.weights:
        spread = generator.normal(size=variable.shape) * 0.4
        if "variance" in variable.path:
            spread = np.exp(spread)
        elif variable.path.endswith(("bias", "beta", "moving_mean")):
            pass
        else:
            spread = spread + np.asarray(variable)
        variable.assign(spread)
    shape = (NUM_EXAMPLES, *model.input_shape[1:])
    if model.inputs[0].dtype == "int32":
        x = generator.integers(0, 4, shape)
    else:
        x = generator.normal(size=shape)
    outputs = np.asarray(model(x))
    if isinstance(loss, SQUARED):
        y = generator.normal(size=outputs.shape)
    elif isinstance(loss, BINARY):
        y = generator.integers(0, 2, outputs.shape)
    else:
        y = generator.integers(0, outputs.shape[-1], outputs.shape[:-1])
        if isinstance(loss, ONE_HOT):
            y = np.eye(outputs.shape[-1])[y]
    return model, loss, x, y, *dense_matrices(model, loss, x, y)


def dense_matrices(model, loss, x, y):
    """Full GGN and empirical Fisher over all weights, and the log likelihood."""
    variables = [variable.value for _, _, variable in curvature_weights(model)]
    ggn, fisher, log_likelihood = 0, 0, 0
    for xi, yi in zip(x, y, strict=True):
        with tf.GradientTape(persistent=True) as tape:
            outputs = model(xi[None], training=False)[0]
            # Keras averages over the last axis where outputs are independent.
            factor = (
                outputs.shape[-1] / (2 if isinstance(loss, SQUARED) else 1)
                if isinstance(loss, SQUARED | BINARY)
                else 1
            )
            cost = factor * tf.reduce_sum(loss.call(yi[None], outputs[None]))
        units = np.eye(outputs.shape.num_elements())
        rows = [
            flat(tape.gradient(outputs, variables, unit.reshape(outputs.shape)))
            for unit in units
        ]
        jacobian = np.stack(rows)
        gradient = flat(tape.gradient(cost, variables))[None]
        log_likelihood -= float(cost)
        if isinstance(loss, SQUARED):
            log_likelihood -= 0.5 * outputs.shape[-1] * np.log(2 * np.pi)
        ggn = ggn + jacobian.T @ output_hessian(loss, outputs.numpy()) @ jacobian
        fisher = fisher + gradient.T @ gradient
    return ggn, fisher, log_likelihood


def flat(gradients):
    # Those of an embedding come as slices.
    return np.concatenate([np.ravel(tf.convert_to_tensor(g)) for g in gradients])


def output_hessian(loss, outputs):
    """Fisher information in the outputs, block diagonal over positions."""
    rows = outputs.reshape(-1, outputs.shape[-1])
    blocks = []
    for row in rows:
        if isinstance(loss, SQUARED):
            block = np.eye(len(row))
        elif isinstance(loss, BINARY):
            block = np.diag(1 / (row * (1 - row)))
        elif loss.from_logits:
            p = np.exp(row) / np.exp(row).sum()
            block = np.diag(p) - np.outer(p, p)
        else:
            block = np.diag(1 / row)
        blocks.append(block)
    size = rows.shape[1]
    full = np.zeros((rows.size, rows.size))
    for i, block in enumerate(blocks):
        full[i * size : (i + 1) * size, i * size : (i + 1) * size] = block
    return full


@pytest.mark.parametrize("curvature", ["ggn", "empirical_fisher"])
def test_diagonal_is_exact(case, curvature):
    model, loss, x, y, ggn, fisher, log_likelihood = case
    dense = ggn if curvature == "ggn" else fisher
    result = fit_curvature(
        model, loss, (x, y), curvature=curvature, structure="diagonal", batch_size=2
    )
    found = np.concatenate([block.diagonal.numpy().ravel() for block in result.blocks])
    np.testing.assert_allclose(found, np.diag(dense), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(result.log_likelihood, log_likelihood, rtol=1e-6)
    weights = curvature_weights(model)
    assert [(b.layer, b.name) for b in result.blocks] == [w[:2] for w in weights]
