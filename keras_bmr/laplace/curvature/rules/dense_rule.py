"""Curvature rules of dense layers."""

import keras
import tensorflow as tf

from keras_bmr.laplace.curvature.registry import register_curvature_rule
from keras_bmr.laplace.curvature.rules.linear_rule import LinearRule


@register_curvature_rule(keras.layers.Dense)
class DenseRule(LinearRule):
    """Rule of `keras.layers.Dense`; axes between batch and features are positions."""

    def expand_inputs(self, layer: keras.layers.Layer, inputs: tf.Tensor) -> tf.Tensor:
        """See `LinearRule.expand_inputs`."""
        return _positions(inputs)

    def expand_outputs(
        self, layer: keras.layers.Layer, cotangents: tf.Tensor
    ) -> tf.Tensor:
        """See `LinearRule.expand_outputs`."""
        return _positions(cotangents)

    def kernel_layout(self, layer: keras.layers.Layer) -> tuple[tuple[int, ...], int]:
        """See `LinearRule.kernel_layout`."""
        return (0, 1), 1


def _positions(tensor: tf.Tensor) -> tf.Tensor:
    if tensor.shape.rank == 2:
        return tensor[:, None, None, :]
    shape = tensor.shape
    positions = shape[1:-1].num_elements() or -1
    return tf.reshape(tensor, (tf.shape(tensor)[0], positions, 1, shape[-1]))
