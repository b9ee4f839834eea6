"""Where a TFLite file rounds activations, and to which grid."""

import keras

from keras_bmr.export.quantization_aware.activation import FakeQuantization
from keras_bmr.export.quantization_aware.rewriting import Graph
from keras_bmr.export.quantization_aware.substitutes import is_fused_activation
from keras_bmr.export.quantization_aware.weights import quantization_aware_class
from keras_bmr.pruning.channels.calls import Call

layers = keras.layers

# The grids that TFLite's quantisation specification prescribes for outputs.
_FIXED_RANGES = {
    keras.activations.sigmoid: (0.0, 255 / 256),
    keras.activations.softmax: (0.0, 255 / 256),
    keras.activations.tanh: (-1.0, 127 / 128),
}
# Their outputs are on the grid of their inputs: they choose, move or repeat values, or
# do nothing outside of training. TFLite's average pooling keeps the grid as well.
_SAME_GRID = (
    layers.ActivityRegularization,
    layers.AlphaDropout,
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Dropout,
    layers.Flatten,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.Identity,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.Permute,
    layers.RepeatVector,
    layers.Reshape,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.UpSampling1D,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
)


def quantizer_behind(
    graph: Graph, call: Call, momentum: float, name: str
) -> FakeQuantization | None:
    """The quantiser of what a call makes.

    Args:
        graph: Graph of a network in canonical form.
        call: A call in it.
        momentum: See `FakeQuantization`.
        name: Name for the quantiser.

    Returns:
        A new layer; None if the output stays on the grid of the input, or the kernel
        applies an activation before it rounds.
    """
    operation = call.operation
    if type(operation) in _SAME_GRID:
        return None
    if type(operation) is layers.UpSampling2D and operation.interpolation == "nearest":
        return None
    reader = graph.sole_reader(call)
    applies_activations = (
        type(operation) is layers.Add
        or quantization_aware_class(type(operation)) is not None
        and operation.activation is keras.activations.linear
    )
    if applies_activations and reader and is_fused_activation(reader.operation):
        return None
    activation = getattr(operation, "activation", None)
    if type(operation) is layers.Softmax:
        activation = keras.activations.softmax
    fixed_range = _FIXED_RANGES.get(activation) if callable(activation) else None
    return FakeQuantization(momentum, fixed_range, name=name)
