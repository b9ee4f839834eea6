"""Keras layers whose weights have posteriors."""

from keras_bmr.layers.attention import (
    MultiHeadAttentionVariational,
)
from keras_bmr.layers.batch_statistics import (
    refresh_batch_statistics,
)
from keras_bmr.layers.conversion import (
    to_deterministic,
    to_variational,
)
from keras_bmr.layers.convolution import (
    Conv1DVariational,
    Conv2DVariational,
    Conv3DVariational,
)
from keras_bmr.layers.dense import (
    DenseVariational,
)
from keras_bmr.layers.depthwise_convolution import (
    DepthwiseConv1DVariational,
    DepthwiseConv2DVariational,
)
from keras_bmr.layers.einsum_dense import (
    EinsumDenseVariational,
)
from keras_bmr.layers.embedding import (
    EmbeddingVariational,
)
from keras_bmr.layers.linear import (
    LinearVariational,
)
from keras_bmr.layers.multiplicative_noise import (
    MultiplicativeNoise,
)
from keras_bmr.layers.noise_gates import (
    add_noise_gates,
)
from keras_bmr.layers.normalization import (
    BatchNormalizationVariational,
    LayerNormalizationVariational,
)
from keras_bmr.layers.recurrent import (
    GRUVariational,
    LSTMVariational,
    SimpleRNNVariational,
)
from keras_bmr.layers.registry import (
    register_variational,
)
from keras_bmr.layers.separable_convolution import (
    SeparableConv1DVariational,
    SeparableConv2DVariational,
)
from keras_bmr.layers.transposed_convolution import (
    Conv1DTransposeVariational,
    Conv2DTransposeVariational,
    Conv3DTransposeVariational,
)
from keras_bmr.layers.traversal import (
    variational_layers,
)
from keras_bmr.layers.variational import (
    Variational,
)

__all__ = [
    "BatchNormalizationVariational",
    "Conv1DTransposeVariational",
    "Conv1DVariational",
    "Conv2DTransposeVariational",
    "Conv2DVariational",
    "Conv3DTransposeVariational",
    "Conv3DVariational",
    "DenseVariational",
    "DepthwiseConv1DVariational",
    "DepthwiseConv2DVariational",
    "EinsumDenseVariational",
    "EmbeddingVariational",
    "GRUVariational",
    "LSTMVariational",
    "LayerNormalizationVariational",
    "LinearVariational",
    "MultiHeadAttentionVariational",
    "MultiplicativeNoise",
    "SeparableConv1DVariational",
    "SeparableConv2DVariational",
    "SimpleRNNVariational",
    "Variational",
    "add_noise_gates",
    "refresh_batch_statistics",
    "register_variational",
    "to_deterministic",
    "to_variational",
    "variational_layers",
]
