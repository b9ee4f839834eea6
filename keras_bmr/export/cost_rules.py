"""How many multiply-accumulates a call of each layer class takes."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras

Shape = tuple[int, ...]
_RULES: dict[type, Callable] = {}


@dataclasses.dataclass(frozen=True)
class LayerCall:
    """The shapes of one call of a layer, batch axis included.

    Attributes:
        arguments: Shapes of the tensors in the order of the layer's `call`, by the
            name of the argument; a structure of tensors is a structure of shapes.
        output: Shape of the output, or a structure of shapes.
    """

    arguments: dict[str, Any]
    output: Any

    @property
    def input(self) -> Any:
        """The shape, or structure of shapes, of the first argument."""
        return next(iter(self.arguments.values()))


def register_cost_rule(*layer_classes: type) -> Callable[[Callable], Callable]:
    """Decorator: makes the multiply-accumulates of layer classes known.

    Args:
        *layer_classes: Keras layer classes; a subclass may compute something else
            than its parent and needs a rule of its own.

    Returns:
        The decorator of a function `rule(layer, call)` that takes the layer and the
        `LayerCall` and returns the number as an integer. The layers inside of a layer
        with a rule are part of that number.

    Raises:
        ValueError: If a class has a rule already.

    Example:
        >>> @keras_bmr.export.register_cost_rule(MyDense)
        ... def my_dense(layer, call):
        ...     return call.input[0] * layer.kernel.shape[0] * layer.kernel.shape[1]
    """

    def register(rule: Callable) -> Callable:
        for layer_class in layer_classes:
            if layer_class in _RULES:
                raise ValueError(
                    f"{layer_class.__name__} already has a cost rule, "
                    f"`{_RULES[layer_class].__name__}`."
                )
        _RULES.update(dict.fromkeys(layer_classes, rule))
        return rule

    return register


def cost_rule(layer: keras.layers.Layer) -> Callable | None:
    """The rule of exactly the class of a layer, or None."""
    return _RULES.get(type(layer))


def known_classes() -> list[str]:
    """The names of the classes that have a rule."""
    return sorted(layer_class.__name__ for layer_class in _RULES)


@register_cost_rule(
    keras.layers.BatchNormalization,
    keras.layers.Embedding,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.Normalization,
    keras.layers.PReLU,
    keras.layers.RMSNormalization,
)
def _look_up_or_scale(layer: keras.layers.Layer, call: LayerCall) -> int:
    # Scales, shifts and biases do not count, as is usual: there are few of them and
    # converters fold most into the kernels.
    return 0


@register_cost_rule(keras.layers.Dense)
def _dense(layer: keras.layers.Dense, call: LayerCall) -> int:
    return math.prod(call.output) * call.input[-1]


@register_cost_rule(keras.layers.EinsumDense)
def _einsum_dense(layer: keras.layers.EinsumDense, call: LayerCall) -> int:
    inputs, rest = layer.equation.replace(" ", "").split(",")
    kernel, _ = rest.split("->")
    # One product for each value of all labels together: those of the kernel, and
    # those of the input that the kernel lacks.
    leading, _, trailing = inputs.partition("...")
    num_ellipsis = len(call.input) - len(leading) - len(trailing)
    labels = [*leading, *[""] * num_ellipsis, *trailing]
    free = [
        size
        for size, label in zip(call.input, labels, strict=True)
        if not label or label not in kernel
    ]
    return math.prod(free) * math.prod(layer.kernel.shape)


@register_cost_rule(keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
def _convolution(layer: keras.layers.Layer, call: LayerCall) -> int:
    # The kernel's shape has the input channels of one group.
    return math.prod(call.output) * math.prod(layer.kernel.shape[:-1])


@register_cost_rule(
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
def _transposed_convolution(layer: keras.layers.Layer, call: LayerCall) -> int:
    return _num_positions(layer, call.input) * math.prod(layer.kernel.shape)


@register_cost_rule(keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
def _depthwise_convolution(layer: keras.layers.Layer, call: LayerCall) -> int:
    return _num_positions(layer, call.output) * math.prod(layer.kernel.shape)


@register_cost_rule(keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
def _separable_convolution(layer: keras.layers.Layer, call: LayerCall) -> int:
    kernels = (layer.depthwise_kernel, layer.pointwise_kernel)
    # The strides belong to the depthwise half.
    num_products = sum(math.prod(kernel.shape) for kernel in kernels)
    return _num_positions(layer, call.output) * num_products


@register_cost_rule(keras.layers.SimpleRNN, keras.layers.GRU, keras.layers.LSTM)
def _recurrent(layer: keras.layers.Layer, call: LayerCall) -> int:
    batch, num_steps = call.input[:2]
    kernels = (layer.cell.kernel, layer.cell.recurrent_kernel)
    return batch * num_steps * sum(math.prod(kernel.shape) for kernel in kernels)


@register_cost_rule(
    keras.layers.ConvLSTM1D, keras.layers.ConvLSTM2D, keras.layers.ConvLSTM3D
)
def _convolutional_recurrent(layer: keras.layers.Layer, call: LayerCall) -> int:
    rank = len(layer.cell.kernel.shape)
    # Without the time axis, which only some outputs have.
    output = (call.output[0], *call.output[-(rank - 1) :])
    kernels = (layer.cell.kernel, layer.cell.recurrent_kernel)
    num_products = sum(math.prod(kernel.shape) for kernel in kernels)
    return call.input[1] * _num_positions(layer, output) * num_products


@register_cost_rule(keras.layers.MultiHeadAttention)
def _multi_head_attention(
    layer: keras.layers.MultiHeadAttention, call: LayerCall
) -> int:
    query, value = call.arguments["query"], call.arguments["value"]
    key = call.arguments.get("key") or value
    products = [
        math.prod(shape[:-1]) * math.prod(dense.kernel.shape)
        for shape, dense in (
            (query, layer._query_dense),
            (key, layer._key_dense),
            (value, layer._value_dense),
            (query, layer._output_dense),
        )
    ]
    attended = math.prod(key[axis] for axis in layer.attention_axes)
    scores = math.prod(query[:-1]) * layer.num_heads * attended
    return sum(products) + scores * (layer.key_dim + layer.value_dim)


@register_cost_rule(keras.layers.GroupQueryAttention)
def _group_query_attention(
    layer: keras.layers.GroupQueryAttention, call: LayerCall
) -> int:
    query, value = call.arguments["query"], call.arguments["value"]
    key = call.arguments.get("key") or value
    kernels = [
        (query, layer._query_dense),
        (key, layer._key_dense),
        (value, layer._value_dense),
        (query, layer._output_dense),
    ]
    if getattr(layer, "use_gate", False):
        kernels.append((query, layer._gate_dense))
    products = [
        math.prod(shape[:-1]) * math.prod(dense.kernel.shape)
        for shape, dense in kernels
    ]
    scores = math.prod(query[:-1]) * layer.num_query_heads * key[1]
    return sum(products) + 2 * scores * layer.head_dim


@register_cost_rule(keras.layers.Attention, keras.layers.AdditiveAttention)
def _attention(layer: keras.layers.Layer, call: LayerCall) -> int:
    query, value = call.input[:2]
    # Scores and their weighted sum, for the additive one after a broadcast sum.
    return math.prod(query[:-1]) * value[1] * (query[-1] + value[-1])


@register_cost_rule(keras.layers.Dot)
def _dot(layer: keras.layers.Dot, call: LayerCall) -> int:
    first, _ = call.input
    axis = layer.axes if isinstance(layer.axes, int) else layer.axes[0]
    return math.prod(call.output) * first[axis]


def _num_positions(layer: keras.layers.Layer, shape: Shape) -> int:
    """The number of examples times that of places, channels left out."""
    channels_first = layer.data_format == "channels_first"
    places = shape[2:] if channels_first else shape[1:-1]
    return shape[0] * math.prod(places)
