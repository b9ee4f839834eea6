"""Curvature of weights that enter linearly: dense layers, convolutions."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_bmr.laplace.curvature.rule import CurvatureRule, Sums, second_moment
from keras_bmr.laplace.curvature.rules.squared_gradients import (
    sum_of_squared_gradients,
)


class LinearRule(CurvatureRule):
    """Rule of a kernel and a bias in outputs = inputs @ kernel + bias.

    Inputs are expanded to (batch, positions, groups, p), cotangents to (batch,
    positions, groups, q), so that the gradient of an example is the sum over positions
    of inputs' cotangents, of shape (groups, p, q). The diagonal is exact: positions are
    summed before squaring. The Kronecker block is the "expand" form, which takes
    positions as independent; groups share the mean of their input factors.

    Subclasses define `expand_inputs`, `expand_outputs` and `kernel_layout`.

    References:
        Eschenhagen et al., arXiv 2311.00636, equations 7 and 22.
    """

    def expand_inputs(self, layer: keras.layers.Layer, inputs: tf.Tensor) -> tf.Tensor:
        """Inputs of one call as (batch, positions, groups, p)."""
        raise NotImplementedError

    def expand_outputs(
        self, layer: keras.layers.Layer, cotangents: tf.Tensor
    ) -> tf.Tensor:
        """Cotangents of one call as (batch, positions, groups, q)."""
        raise NotImplementedError

    def kernel_layout(self, layer: keras.layers.Layer) -> tuple[tuple[int, ...], int]:
        """Axes of the kernel in the order (p, groups, q), and how many make up p."""
        raise NotImplementedError

    def kernel_gradient(
        self, layer: keras.layers.Layer, gradient: tf.Tensor
    ) -> tf.Tensor:
        """A tensor (..., groups, p, q) in the layout of the kernel, (..., *shape)."""
        kernel = self.weights(layer)["kernel"]
        axes, _ = self.kernel_layout(layer)
        batch = gradient.shape.rank - 3
        swapped = tf.transpose(gradient, [*range(batch), batch + 1, batch, batch + 2])
        ordered = [kernel.shape[axis] for axis in axes]
        shape = tf.concat([tf.shape(gradient)[:batch], ordered], 0)
        inverse = [batch + axes.index(axis) for axis in range(len(axes))]
        return tf.transpose(tf.reshape(swapped, shape), [*range(batch), *inverse])

    def bias_rows(
        self, layer: keras.layers.Layer, cotangents: tf.Tensor
    ) -> tf.Tensor | None:
        """Cotangents of one call as (batch, positions, size of the bias).

        None where these are the expanded cotangents, groups and q flattened.
        """
        return None

    # --- CurvatureRule ---

    def matrix_axes(
        self, layer: keras.layers.Layer, name: str
    ) -> tuple[tuple[int, ...], int]:
        """See `CurvatureRule.matrix_axes`."""
        if name == "kernel":
            return self.kernel_layout(layer)
        return super().matrix_axes(layer, name)

    def features(
        self, layer: keras.layers.Layer, inputs: Sequence[tf.Tensor]
    ) -> dict[str, Any]:
        """The inputs, and the expanded ones of all calls, which are more positions."""
        cast = [tf.cast(i, layer.variable_dtype) for i in inputs]
        # A graph computes only what is used.
        return {
            "inputs": cast,
            "expanded": _joined([self.expand_inputs(layer, i) for i in cast]),
        }

    def input_moment(
        self, layer: keras.layers.Layer, features: dict[str, Any]
    ) -> tf.Tensor:
        """The sum of outer products of the expanded inputs, shape (p, p)."""
        return _second_moment_of_last(features["expanded"])

    def _outputs(
        self, layer: keras.layers.Layer, cotangents: Sequence[tf.Tensor]
    ) -> tf.Tensor:
        dtype = layer.variable_dtype
        return _joined(
            [self.expand_outputs(layer, tf.cast(c, dtype)) for c in cotangents]
        )

    def _bias_rows(
        self, layer: keras.layers.Layer, cotangents: Sequence[tf.Tensor]
    ) -> tf.Tensor | None:
        dtype = layer.variable_dtype
        rows = [self.bias_rows(layer, tf.cast(c, dtype)) for c in cotangents]
        return None if rows[0] is None else _joined(rows)

    def _bias_gradient(
        self,
        layer: keras.layers.Layer,
        cotangents: Sequence[tf.Tensor],
        outputs: tf.Tensor,
    ) -> tf.Tensor:
        """Gradient of the bias of each example, flattened."""
        rows = self._bias_rows(layer, cotangents)
        return _sum_over_positions(_flattened(outputs) if rows is None else rows)

    def gradients(
        self,
        layer: keras.layers.Layer,
        features: Any,
        cotangents: Sequence[tf.Tensor],
    ) -> dict[str, tf.Tensor]:
        """See `CurvatureRule.gradients`."""
        outputs = self._outputs(layer, cotangents)
        kernel = tf.einsum("npgi,npgj->ngij", features["expanded"], outputs)
        found = {"kernel": self.kernel_gradient(layer, kernel)}
        bias = self.weights(layer).get("bias")
        if bias is not None:
            sums = self._bias_gradient(layer, cotangents, outputs)
            found["bias"] = tf.reshape(sums, (-1, *bias.shape))
        return found

    def diagonal_column(
        self,
        layer: keras.layers.Layer,
        features: Any,
        cotangents: Sequence[tf.Tensor],
    ) -> Sums:
        """See `CurvatureRule.diagonal_column`."""
        outputs = self._outputs(layer, cotangents)
        if features["expanded"].shape[1] == 1:
            # Of one position the square of the product is the product of squares, and
            # the columns can be summed before they meet the inputs.
            columns = {"squares": tf.square(outputs)}
        else:
            columns = {
                "kernel": sum_of_squared_gradients(features["expanded"], outputs)
            }
        if "bias" in self.weights(layer):
            sums = self._bias_gradient(layer, cotangents, outputs)
            columns["bias"] = tf.reduce_sum(tf.square(sums), 0)
        return columns

    def diagonal(
        self, layer: keras.layers.Layer, features: Any, columns: Sums
    ) -> dict[str, tf.Tensor]:
        """See `CurvatureRule.diagonal`."""
        kernel = columns.get("kernel")
        if kernel is None:
            kernel = tf.einsum(
                "npgi,npgj->gij", tf.square(features["expanded"]), columns["squares"]
            )
        diagonal = {"kernel": self.kernel_gradient(layer, kernel)}
        bias = self.weights(layer).get("bias")
        if bias is not None:
            diagonal["bias"] = tf.reshape(columns["bias"], bias.shape)
        return diagonal

    def kronecker_column(
        self,
        layer: keras.layers.Layer,
        features: Any,
        cotangents: Sequence[tf.Tensor],
    ) -> Sums:
        """See `CurvatureRule.kronecker_column`."""
        outputs = self._outputs(layer, cotangents)
        columns = {"output": _second_moment_of_last(_flattened(outputs))}
        if "bias" in self.weights(layer):
            rows = self._bias_rows(layer, cotangents)
            if rows is not None:
                columns["bias"] = _second_moment_of_last(rows)
        return columns

    def kronecker(
        self, layer: keras.layers.Layer, features: Any, columns: Sums
    ) -> dict[str, Mapping[str, tf.Tensor]]:
        """See `CurvatureRule.kronecker`."""
        # Not from the expanded inputs themselves, which may never be computed.
        batch = tf.cast(tf.shape(features["inputs"][0])[0], tf.float64)
        _, positions, groups, _ = features["expanded"].shape
        if positions is None:
            positions = tf.cast(tf.shape(features["expanded"])[1], tf.float64)
        sums = {
            "kernel": {
                "input": self.input_moment(layer, features),
                "count": batch * positions * groups,
                "output": columns["output"],
            }
        }
        if "bias" in self.weights(layer):
            sums["bias"] = {"output": columns.get("bias", columns["output"])}
        return sums


def _flattened(outputs: tf.Tensor) -> tf.Tensor:
    """(batch, positions, groups, q) as (batch, positions, groups * q)."""
    groups, q = outputs.shape[2:]
    return tf.reshape(outputs, (tf.shape(outputs)[0], -1, groups * q))


def _sum_over_positions(rows: tf.Tensor) -> tf.Tensor:
    """(batch, positions, q) summed over positions."""
    positions, q = rows.shape[1:]
    if positions is not None:
        # In two steps: sums over the first of two axes add up long rows at a time.
        half = max(d for d in range(1, math.isqrt(positions) + 1) if positions % d == 0)
        long = tf.reshape(rows, (-1, half, positions // half * q))
        rows = tf.reshape(tf.reduce_sum(long, 1), (-1, positions // half, q))
    return tf.reduce_sum(rows, 1)


def _second_moment_of_last(tensor: tf.Tensor) -> tf.Tensor:
    return second_moment(tf.reshape(tensor, (-1, tensor.shape[-1])))


def _joined(calls: Sequence[tf.Tensor]) -> tf.Tensor:
    return calls[0] if len(calls) == 1 else tf.concat(calls, 1)
