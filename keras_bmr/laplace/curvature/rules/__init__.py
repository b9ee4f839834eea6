"""Curvature rules of Keras layers; importing this registers them."""

from keras_bmr.laplace.curvature.rules import (
    convolution_rule,
    dense_rule,
    einsum_dense_rule,
    embedding_rule,
    normalization_rule,
)

__all__ = [
    "convolution_rule",
    "dense_rule",
    "einsum_dense_rule",
    "embedding_rule",
    "normalization_rule",
]
