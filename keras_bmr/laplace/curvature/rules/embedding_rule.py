"""Curvature rule of `keras.layers.Embedding`."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_bmr.laplace.curvature.registry import register_curvature_rule
from keras_bmr.laplace.curvature.rule import CurvatureRule, Sums, second_moment


@register_curvature_rule(keras.layers.Embedding)
class EmbeddingRule(CurvatureRule):
    """Rule of `keras.layers.Embedding`, a dense layer with one-hot inputs.

    No one-hot vector is ever made. The input factor of the Kronecker block is
    diagonal: the share of each index among all positions.
    """

    WEIGHTS = ("embeddings",)

    def features(
        self, layer: keras.layers.Layer, inputs: Sequence[tf.Tensor]
    ) -> tf.Tensor:
        """Indices of shape (batch, positions)."""
        flat = [tf.reshape(tf.cast(i, tf.int32), (tf.shape(i)[0], -1)) for i in inputs]
        return tf.concat(flat, 1)

    def _rows(
        self, layer: keras.layers.Layer, cotangents: Sequence[tf.Tensor]
    ) -> tf.Tensor:
        """Cotangents of shape (batch, positions, output_dim)."""
        size = layer.output_dim
        return tf.concat(
            [
                tf.reshape(
                    tf.cast(c, layer.variable_dtype),
                    (tf.shape(c)[0], -1, size),
                )
                for c in cotangents
            ],
            1,
        )

    def _scattered(
        self, layer: keras.layers.Layer, indices: tf.Tensor, rows: tf.Tensor
    ) -> tf.Tensor:
        flat = tf.reshape(rows, (-1, rows.shape[-1]))
        return tf.math.unsorted_segment_sum(
            flat, tf.reshape(indices, [-1]), layer.input_dim
        )

    def gradients(
        self,
        layer: keras.layers.Layer,
        features: Any,
        cotangents: Sequence[tf.Tensor],
    ) -> dict[str, tf.Tensor]:
        """See `CurvatureRule.gradients`."""
        rows = self._rows(layer, cotangents)
        batch, size = tf.shape(features)[0], layer.input_dim
        # One table per example, one below the other.
        shifted = features + size * tf.range(batch)[:, None]
        flat = tf.reshape(rows, (-1, layer.output_dim))
        table = tf.math.unsorted_segment_sum(
            flat, tf.reshape(shifted, [-1]), batch * size
        )
        return {"embeddings": tf.reshape(table, (batch, size, layer.output_dim))}

    def diagonal_column(
        self,
        layer: keras.layers.Layer,
        features: Any,
        cotangents: Sequence[tf.Tensor],
    ) -> Sums:
        """See `CurvatureRule.diagonal_column`."""
        rows = self._rows(layer, cotangents)
        # The square of a sum over the positions with one index is the sum over them
        # of each cotangent times the sum.
        same = tf.cast(features[:, :, None] == features[:, None, :], rows.dtype)
        return {"products": rows * tf.matmul(same, rows)}

    def diagonal(
        self, layer: keras.layers.Layer, features: Any, columns: Sums
    ) -> dict[str, tf.Tensor]:
        """See `CurvatureRule.diagonal`."""
        return {"embeddings": self._scattered(layer, features, columns["products"])}

    def matrix_axes(
        self, layer: keras.layers.Layer, name: str
    ) -> tuple[tuple[int, ...], int]:
        """See `CurvatureRule.matrix_axes`."""
        return (0, 1), 1

    def kronecker_size(self, layer: keras.layers.Layer, name: str) -> int:
        """See `CurvatureRule.kronecker_size`; the input factor is diagonal."""
        return layer.input_dim + layer.output_dim**2

    def kronecker_column(
        self,
        layer: keras.layers.Layer,
        features: Any,
        cotangents: Sequence[tf.Tensor],
    ) -> Sums:
        """See `CurvatureRule.kronecker_column`."""
        rows = self._rows(layer, cotangents)
        return {"output": second_moment(tf.reshape(rows, (-1, layer.output_dim)))}

    def kronecker(
        self, layer: keras.layers.Layer, features: Any, columns: Sums
    ) -> dict[str, Mapping[str, tf.Tensor]]:
        """See `CurvatureRule.kronecker`."""
        ones = tf.ones((tf.size(features), 1), columns["output"].dtype)
        counts = self._scattered(layer, features, ones)[:, 0]
        return {
            "embeddings": {
                "input": counts,
                "count": tf.cast(tf.size(features), tf.float64),
                "output": columns["output"],
            }
        }
