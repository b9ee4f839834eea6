"""Bayesian attention."""

from typing import Any

import keras
import tensorflow as tf

from keras_bmr.layers.registry import register_variational
from keras_bmr.layers.variational import Variational

_PROJECTIONS = ("query", "key", "value", "gate", "output")


@register_variational(keras.layers.MultiHeadAttention)
class MultiHeadAttentionVariational(Variational, keras.layers.MultiHeadAttention):
    """`keras.layers.MultiHeadAttention` whose projections have posteriors.

    The random weights are "query_kernel", "key_kernel", "value_kernel",
    "output_kernel" and, with `use_gate=True`, "gate_kernel". One draw serves a batch.

    Args:
        num_heads: Positive integer, the number of heads.
        key_dim: Positive integer, the size of a head's query and key.
        **kwargs: Arguments of `keras.layers.MultiHeadAttention` and those of
            `keras_bmr.layers.Variational`.

    Example:
        >>> layer = keras_bmr.layers.MultiHeadAttentionVariational(
        ...     num_heads=2, key_dim=4, num_examples=60000
        ... )
        >>> x = keras.ops.ones((2, 5, 8))
        >>> layer(x, x, training=True).shape
        TensorShape([2, 5, 8])
    """

    RANDOM_WEIGHTS = {
        f"{name}_kernel": f"_{name}_dense.kernel" for name in _PROJECTIONS
    }
    BIASES = {f"{name}_bias": f"_{name}_dense.bias" for name in _PROJECTIONS}

    def build(
        self,
        query_shape: tuple[int | None, ...],
        value_shape: tuple[int | None, ...],
        key_shape: tuple[int | None, ...] | None = None,
    ) -> None:
        """Creates the variables."""
        super().build(query_shape, value_shape, key_shape)

    def call(
        self,
        query: tf.Tensor,
        value: tf.Tensor,
        key: tf.Tensor | None = None,
        query_mask: tf.Tensor | None = None,
        value_mask: tf.Tensor | None = None,
        key_mask: tf.Tensor | None = None,
        attention_mask: tf.Tensor | None = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
        use_causal_mask: bool = False,
    ) -> Any:
        """Applies the layer."""
        return super().call(
            query,
            value,
            key=key,
            query_mask=query_mask,
            value_mask=value_mask,
            key_mask=key_mask,
            attention_mask=attention_mask,
            return_attention_scores=return_attention_scores,
            training=training,
            use_causal_mask=use_causal_mask,
        )
