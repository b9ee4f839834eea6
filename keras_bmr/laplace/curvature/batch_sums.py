"""The curvature of one batch, as sums that can be added up."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import keras
import tensorflow as tf

from keras_bmr.laplace.curvature.likelihoods import Likelihood
from keras_bmr.laplace.curvature.pooling import indexed_max_pooling
from keras_bmr.laplace.curvature.recording import recorded_calls
from keras_bmr.laplace.curvature.weights import RuledLayer

CURVATURES = ("ggn", "ggn_mc", "empirical_fisher")
STRUCTURES = ("diagonal", "kronecker")


def batch_sums(
    model: keras.Model,
    likelihood: Likelihood,
    layers: Sequence[RuledLayer],
    curvature: str,
    structure: str,
) -> Callable[[Any, tf.Tensor, tf.Tensor], tuple[list[dict[str, Any]], tf.Tensor]]:
    """A function of a batch that computes its share of the curvature.

    The model runs forward once; each column of the root of the loss Hessian is then
    propagated back to the pre-activations, in a loop, so that memory is that of one
    pass and no gradient of the weights of the whole batch is computed.

    Args:
        model: A built Keras model.
        likelihood: The likelihood of its outputs.
        layers: The layers that shall have a curvature.
        curvature: One of `CURVATURES`.
        structure: One of `STRUCTURES`.

    Returns:
        Function of (x, targets as from `prepare_targets`, uniform noise as
        `Likelihood.sample_residual` takes it) that
        returns, per layer, the sums of the rule by name of the weight, and the log
        likelihood of the batch.

    References:
        Schraudolph, Fast curvature matrix-vector products, Neural Computation 14, 2002;
        Dangel et al., arXiv 1912.10985.
    """

    def sums(
        x: Any, targets: tf.Tensor, noise: tf.Tensor
    ) -> tuple[list[dict[str, Any]], tf.Tensor]:
        tape = tf.GradientTape(persistent=True, watch_accessed_variables=False)
        pooling = indexed_max_pooling(model) if curvature == "ggn" else nullcontext()
        with tape, pooling, recorded_calls([r.layer for r in layers], tape) as records:
            predictors, mask = predictors_of(model, likelihood, x)
        rows = tf.reshape(predictors, (-1, predictors.shape[-1]))
        # Padding is no data, as in Keras' losses.
        counts = 1.0 if mask is None else tf.cast(tf.reshape(mask, (-1, 1)), rows.dtype)
        targets, noise = tf.cast(targets, rows.dtype), tf.cast(noise, rows.dtype)
        features = [
            ruled.rule.features(ruled.layer, calls.inputs)
            for ruled, calls in zip(layers, records, strict=True)
        ]
        outputs = [calls.outputs for calls in records]
        single = {
            "ggn": None,
            "ggn_mc": lambda: likelihood.sample_residual(rows, noise),
            "empirical_fisher": lambda: likelihood.residual(targets, rows),
        }[curvature]

        def column_of(rows_cotangent: tf.Tensor) -> list[dict[str, Any]]:
            cotangents = tape.gradient(
                predictors,
                outputs,
                tf.reshape(rows_cotangent * counts, tf.shape(predictors)),
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            # Gradients of broadcasting operations forget it where batches vary.
            tf.nest.map_structure(
                lambda cotangent, output: cotangent.set_shape(output.shape),
                cotangents,
                outputs,
            )
            return [
                getattr(ruled.rule, f"{structure}_column")(ruled.layer, own, cotangent)
                for ruled, own, cotangent in zip(
                    layers, features, cotangents, strict=True
                )
            ]

        if single is None:
            columns = _sum_over_root(likelihood, predictors, rows, column_of)
        else:
            columns = column_of(single())
        finished = [
            getattr(ruled.rule, structure)(ruled.layer, own, column)
            for ruled, own, column in zip(layers, features, columns, strict=True)
        ]
        wanted = [
            {name: found[name] for name in ruled.variables}
            for ruled, found in zip(layers, finished, strict=True)
        ]
        values = likelihood.log_likelihood(targets, rows)[:, None] * counts
        return wanted, tf.reduce_sum(tf.cast(values, tf.float64))

    return sums


def outputs_of(model: keras.Model, x: Any) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Outputs for a batch, at least in single precision, and what of them counts.

    Args:
        model: A built Keras model.
        x: Inputs.

    Returns:
        Tensor of shape (batch, ..., d), and the mask of Keras, of shape (batch, ...):
        False where the output stems from padding; None if there is none.

    Raises:
        ValueError: If the model has several outputs, or one without an axis of
            predictors.
    """
    outputs = model(x, training=False)
    if not tf.is_tensor(outputs) or outputs.shape.rank < 2:
        raise ValueError(
            f"Model '{model.name}' must have one output of shape (batch, ..., "
            "outputs); make a `keras.Model` of the output wanted. Received: outputs of "
            f"shapes {keras.tree.map_structure(lambda o: tuple(o.shape), outputs)}"
        )
    mask = getattr(outputs, "_keras_mask", None)
    if outputs.dtype in (tf.float16, tf.bfloat16):
        outputs = tf.cast(outputs, tf.float32)
    return outputs, mask


def predictors_of(
    model: keras.Model, likelihood: Likelihood, x: Any
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Logits or predicted values of a batch, and what of them counts.

    Args:
        model: A built Keras model.
        likelihood: The likelihood of its outputs.
        x: Inputs.

    Returns:
        Tensor of shape (batch, ..., d), and the mask as of `outputs_of`.

    Raises:
        ValueError: See `outputs_of`.
    """
    outputs, mask = outputs_of(model, x)
    return likelihood.to_predictors(outputs), mask


def _sum_over_root(
    likelihood: Likelihood,
    predictors: tf.Tensor,
    rows: tf.Tensor,
    column_of: Callable[[tf.Tensor], Any],
) -> Any:
    """Sums over the columns of the loss Hessian, position by position."""
    num_columns = likelihood.num_root_columns(rows.shape[-1])
    batch = tf.shape(predictors)[0]
    num_positions = tf.shape(rows)[0] // batch
    one_position = predictors.shape.rank == 2

    def contribution(index: tf.Tensor) -> Any:
        column = likelihood.root_column(rows, index % num_columns)
        if not one_position:
            here = tf.one_hot(index // num_columns, num_positions, dtype=rows.dtype)
            column *= tf.tile(here, [batch])[:, None]
        return column_of(column)

    def add(index: tf.Tensor, total: Any) -> tuple[tf.Tensor, Any]:
        added = tf.nest.map_structure(tf.add, total, contribution(index))
        return index + 1, added

    # The first outside of the loop, for the shapes of the sums.
    first = contribution(tf.constant(0))
    if one_position and num_columns == 1:
        return first
    total_columns = num_columns * num_positions
    _, total = tf.while_loop(
        lambda index, _: index < total_columns,
        add,
        (tf.constant(1), first),
        parallel_iterations=1,
    )
    return total
