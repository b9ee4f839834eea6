"""What a curvature rule says about the weights of a layer."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_bmr.layers.variable_paths import variable_at

# Sums that are added over columns of the loss Hessian, batches, or both, by name.
Sums = dict[str, Any]


class CurvatureRule:
    """How the curvature in a layer's weights follows from inputs and cotangents.

    The layer is run once per batch. Its inputs and its pre-activations (what it hands
    to its `activation`; its outputs, if it has none) are recorded, and cotangents are
    propagated back to the pre-activations, one column of the root of the loss Hessian
    after the other. A column contributes the square of the gradient of each example.

    A subclass has to define `gradients`. The other methods are cheaper ways to the
    same sums, or say how a Kronecker block is laid out; by default the Kronecker block
    of a weight is its whole curvature matrix.

    Inputs and cotangents come as lists with one entry per call of the layer, since a
    layer may be shared; an example's gradient is the sum over the calls.

    Attributes:
        WEIGHTS: Paths of the variables that the rule covers; missing ones are passed
            over.
    """

    WEIGHTS: Sequence[str] = ("kernel", "bias")

    def weights(self, layer: keras.layers.Layer) -> dict[str, keras.Variable]:
        """The variables that the rule covers, by name.

        Args:
            layer: A built layer.

        Returns:
            Variables by path.
        """
        found = {path: variable_at(layer, path) for path in self.WEIGHTS}
        return {path: v for path, v in found.items() if isinstance(v, keras.Variable)}

    def features(self, layer: keras.layers.Layer, inputs: Sequence[tf.Tensor]) -> Any:
        """What the other methods need of the inputs; computed once per batch.

        Args:
            layer: The layer.
            inputs: First argument of each call, shape (batch, ...).

        Returns:
            Tensors, in any structure.
        """
        return list(inputs)

    def gradients(
        self,
        layer: keras.layers.Layer,
        features: Any,
        cotangents: Sequence[tf.Tensor],
    ) -> dict[str, tf.Tensor]:
        """Gradient of each example.

        Args:
            layer: The layer.
            features: What `features` returned.
            cotangents: Gradient of a scalar of each example in the pre-activations of
                each call, shape (batch, ...).

        Returns:
            Tensors of shape (batch, *weight.shape) by the names of `weights`.
        """
        raise NotImplementedError

    # --- The diagonal ---

    def diagonal_column(
        self,
        layer: keras.layers.Layer,
        features: Any,
        cotangents: Sequence[tf.Tensor],
    ) -> Sums:
        """What one column adds to the diagonal of a batch.

        Args:
            layer: The layer.
            features: What `features` returned.
            cotangents: As for `gradients`.

        Returns:
            Tensors that are summed over the columns and passed to `diagonal`.
        """
        gradients = self.gradients(layer, features, cotangents)
        return {name: tf.reduce_sum(g * g, 0) for name, g in gradients.items()}

    def diagonal(
        self, layer: keras.layers.Layer, features: Any, columns: Sums
    ) -> dict[str, tf.Tensor]:
        """The diagonal of the curvature, summed over a batch.

        Args:
            layer: The layer.
            features: What `features` returned.
            columns: What `diagonal_column` returned, summed over the columns.

        Returns:
            Tensors with the shapes of the weights, by name.
        """
        return columns

    # --- The Kronecker factors ---

    def matrix_axes(
        self, layer: keras.layers.Layer, name: str
    ) -> tuple[tuple[int, ...], int]:
        """How a weight is laid out as a (p, q) matrix for its Kronecker block.

        Args:
            layer: The layer.
            name: Name of the weight.

        Returns:
            Order of all axes of the weight, and how many of the first make up p.
        """
        return tuple(range(len(self.weights(layer)[name].shape))), 0

    def kronecker_size(self, layer: keras.layers.Layer, name: str) -> int:
        """Numbers in the Kronecker factors of a weight.

        Args:
            layer: The layer.
            name: Name of the weight.

        Returns:
            p * p + q * q.
        """
        axes, num_inputs = self.matrix_axes(layer, name)
        shape = self.weights(layer)[name].shape
        p = math.prod(shape[axis] for axis in axes[:num_inputs])
        q = math.prod(shape[axis] for axis in axes[num_inputs:])
        return p * p + q * q

    def kronecker_column(
        self,
        layer: keras.layers.Layer,
        features: Any,
        cotangents: Sequence[tf.Tensor],
    ) -> Sums:
        """What one column adds to the output factors of a batch.

        Args:
            layer: The layer.
            features: What `features` returned.
            cotangents: As for `gradients`.

        Returns:
            Tensors that are summed over the columns and passed to `kronecker`.
        """
        gradients = self.gradients(layer, features, cotangents)
        return {
            name: second_moment(
                tf.reshape(g, (tf.shape(g)[0], g.shape[1:].num_elements()))
            )
            for name, g in gradients.items()
        }

    def kronecker(
        self, layer: keras.layers.Layer, features: Any, columns: Sums
    ) -> dict[str, Mapping[str, tf.Tensor]]:
        """The sums that make up the Kronecker factors, of a batch.

        Args:
            layer: The layer.
            features: What `features` returned.
            columns: What `kronecker_column` returned, summed over the columns.

        Returns:
            By name of the weight a dict with "output", the sum of second moments of
            shape (q, q), and, where there is an input factor, "input", the same of
            shape (p, p) or (p,), and "count", the number of inputs in that sum.
        """
        return {name: {"output": moment} for name, moment in columns.items()}


def second_moment(rows: tf.Tensor) -> tf.Tensor:
    """The sum of outer products of the rows of an (n, d) matrix, shape (d, d)."""
    return tf.matmul(rows, rows, transpose_a=True)
