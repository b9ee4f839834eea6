"""Curvature rules of normalisations: a scale and an offset per channel."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_bmr.laplace.curvature.registry import register_curvature_rule
from keras_bmr.laplace.curvature.rule import CurvatureRule


@register_curvature_rule(
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.GroupNormalization,
)
class NormalizationRule(CurvatureRule):
    """Rule of gamma and beta in outputs = gamma * normalised inputs + beta.

    Batch normalisation is taken with its moving statistics, as outside of training.
    The diagonal is exact, and so are the Kronecker blocks: one full matrix per vector.
    """

    WEIGHTS = ("gamma", "beta")

    def axes(self, layer: keras.layers.Layer) -> tuple[int, ...]:
        """Axes of the inputs along which gamma and beta vary."""
        axis = layer.axis
        return tuple(axis) if isinstance(axis, list | tuple) else (axis,)

    def features(
        self, layer: keras.layers.Layer, inputs: Sequence[tf.Tensor]
    ) -> list[tf.Tensor]:
        """The normalised inputs of each call."""
        # What the layer itself gives with gamma 1 and beta 0.
        constants = {"gamma": tf.ones, "beta": tf.zeros}
        substitutes = [
            (variable, constants[name](variable.shape, variable.dtype))
            for name, variable in self.weights(layer).items()
        ]
        with keras.StatelessScope(state_mapping=substitutes):
            return [tf.convert_to_tensor(layer.call(i)) for i in inputs]

    def gradients(
        self,
        layer: keras.layers.Layer,
        features: Any,
        cotangents: Sequence[tf.Tensor],
    ) -> dict[str, tf.Tensor]:
        """See `CurvatureRule.gradients`."""
        dtype = layer.variable_dtype
        rank = features[0].shape.rank
        kept = sorted(axis % rank for axis in self.axes(layer))
        summed = [axis for axis in range(1, rank) if axis not in kept]
        rows = [tf.cast(c, dtype) for c in cotangents]
        normalised = [tf.cast(f, dtype) for f in features]
        found = {
            "gamma": [c * f for c, f in zip(rows, normalised, strict=True)],
            "beta": rows,
        }
        return {
            name: tf.add_n([tf.reduce_sum(call, summed) for call in found[name]])
            for name in self.weights(layer)
        }
