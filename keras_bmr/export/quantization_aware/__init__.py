"""Training of a model with the rounding of its int8 file."""

from keras_bmr.export.quantization_aware import layers
from keras_bmr.export.quantization_aware.activation import FakeQuantization
from keras_bmr.export.quantization_aware.conversion import (
    is_quantization_aware,
    to_quantization_aware,
)
from keras_bmr.export.quantization_aware.weights import (
    QuantizationAware,
    fake_quantize_weights,
    register_quantization_aware,
)

__all__ = [
    "FakeQuantization",
    "QuantizationAware",
    "fake_quantize_weights",
    "is_quantization_aware",
    "layers",
    "register_quantization_aware",
    "to_quantization_aware",
]
