"""Rules of functions of one number, and of layers that do nothing outside training."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras.src.ops import core as core_operations
from keras.src.ops import math as math_operations
from keras.src.ops import nn as nn_operations
from keras.src.ops import numpy as numpy_operations

from keras_bmr.pruning.channels.activations import is_elementwise, is_homogeneous
from keras_bmr.pruning.channels.calls import Call
from keras_bmr.pruning.channels.labels import channel_axis
from keras_bmr.pruning.channels.passing_rules import (
    ChannelwiseRule,
    ElementwiseRule,
    FixedRule,
)
from keras_bmr.pruning.channels.registry import register_channel_rule
from keras_bmr.pruning.channels.rule import Recorder

layers = keras.layers

register_channel_rule(
    layers.ELU,
    *(
        getattr(nn_operations, name)
        for name in (
            "Celu Elu Gelu HardShrink HardSigmoid HardSilu HardTanh LogSigmoid Relu6 "
            "Selu Sigmoid Silu SoftShrink Softplus Softsign TanhShrink Threshold"
        ).split()
    ),
    *(
        getattr(numpy_operations, name)
        for name in (
            "Absolute Ceil Clip Cos Exp Expm1 Floor Log Log1p Negative Round Sign Sin "
            "Sqrt Square Tanh"
        ).split()
    ),
    math_operations.Erf,
    math_operations.Rsqrt,
)(ElementwiseRule)

register_channel_rule(
    layers.ActivityRegularization,
    layers.AlphaDropout,
    layers.Dropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    core_operations.Cast,
    core_operations.StopGradient,
)(ChannelwiseRule)

# Channels meet, or it is features of the input that come in.
register_channel_rule(
    layers.AdditiveAttention,
    layers.Attention,
    layers.CategoryEncoding,
    layers.Discretization,
    layers.Dot,
    layers.Masking,
    layers.Normalization,
    layers.Softmax,
    nn_operations.LogSoftmax,
    nn_operations.Softmax,
    numpy_operations.Einsum,
    numpy_operations.Matmul,
)(FixedRule)


@register_channel_rule(layers.Activation)
class ActivationRule(ElementwiseRule):
    """An activation; where it is not known to be element-wise, all channels stay."""

    def trace(
        self, call: Call, inputs: Sequence[np.ndarray], recorder: Recorder
    ) -> list[np.ndarray]:
        """See `ChannelRule.trace`."""
        if is_elementwise(call.operation.activation):
            return super().trace(call, inputs, recorder)
        return FixedRule().trace(call, inputs, recorder)

    def constants(self, call: Call, inputs: Sequence[np.ndarray], weights: Any) -> list:
        """See `ChannelRule.constants`."""
        if is_elementwise(call.operation.activation):
            return super().constants(call, inputs, weights)
        return FixedRule().constants(call, inputs, weights)

    def move(self, call: Call, array: np.ndarray) -> np.ndarray | None:
        """See `ChannelRule.move`."""
        return array if is_elementwise(call.operation.activation) else None

    def commutes(self, call: Call) -> bool:
        """See `ChannelRule.commutes`."""
        return is_homogeneous(call.operation.activation)


@register_channel_rule(
    layers.LeakyReLU, layers.ReLU, nn_operations.LeakyRelu, nn_operations.Relu
)
class RectifierRule(ElementwiseRule):
    """Commutes with positive factors where it has neither ceiling nor threshold."""

    def commutes(self, call: Call) -> bool:
        """See `ChannelRule.commutes`."""
        operation = call.operation
        return (
            getattr(operation, "max_value", None) is None
            and getattr(operation, "threshold", 0) == 0
        )


@register_channel_rule(layers.Rescaling)
class RescalingRule(ElementwiseRule):
    """Factors may be one for all or one per channel."""

    def config(
        self,
        call: Call,
        inputs: Sequence[np.ndarray],
        outputs: Sequence[np.ndarray],
    ) -> dict[str, Any]:
        """See `ChannelRule.config`."""
        (kept,) = outputs
        axis = channel_axis(kept)
        config = {}
        for name in ("scale", "offset"):
            value = np.asarray(getattr(call.operation, name), "float32")
            own = None if axis is None else axis - kept.ndim + value.ndim
            if own is not None and own >= 0 and value.shape[own] > 1:
                value = np.compress(kept.reshape(-1), value, axis=own)
                config[name] = value.tolist()
        return config

    def commutes(self, call: Call) -> bool:
        """See `ChannelRule.commutes`."""
        return not np.any(call.operation.offset)
