"""The Keras layers with weights that TFLite computes in int8."""

import keras

from keras_bmr.export.quantization_aware.weights import (
    QuantizationAware,
    register_quantization_aware,
)

layers = keras.layers


@register_quantization_aware(layers.Dense)
class DenseQuantizationAware(QuantizationAware, layers.Dense):
    """A Dense layer whose kernel trains on TFLite's int8 grid."""

    CHANNEL_AXES = (-1,)


@register_quantization_aware(layers.Conv1D)
class Conv1DQuantizationAware(QuantizationAware, layers.Conv1D):
    """A Conv1D layer whose kernel trains on TFLite's int8 grid."""

    CHANNEL_AXES = (-1,)


@register_quantization_aware(layers.Conv2D)
class Conv2DQuantizationAware(QuantizationAware, layers.Conv2D):
    """A Conv2D layer whose kernel trains on TFLite's int8 grid."""

    CHANNEL_AXES = (-1,)


@register_quantization_aware(layers.DepthwiseConv1D)
class DepthwiseConv1DQuantizationAware(QuantizationAware, layers.DepthwiseConv1D):
    """A DepthwiseConv1D layer whose kernel trains on TFLite's int8 grid."""

    CHANNEL_AXES = (-2, -1)


@register_quantization_aware(layers.DepthwiseConv2D)
class DepthwiseConv2DQuantizationAware(QuantizationAware, layers.DepthwiseConv2D):
    """A DepthwiseConv2D layer whose kernel trains on TFLite's int8 grid."""

    CHANNEL_AXES = (-2, -1)


@register_quantization_aware(layers.Conv1DTranspose)
class Conv1DTransposeQuantizationAware(QuantizationAware, layers.Conv1DTranspose):
    """A Conv1DTranspose layer whose kernel trains on TFLite's int8 grid."""

    CHANNEL_AXES = (-2,)


@register_quantization_aware(layers.Conv2DTranspose)
class Conv2DTransposeQuantizationAware(QuantizationAware, layers.Conv2DTranspose):
    """A Conv2DTranspose layer whose kernel trains on TFLite's int8 grid."""

    CHANNEL_AXES = (-2,)
