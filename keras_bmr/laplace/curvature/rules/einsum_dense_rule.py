"""Curvature rule of `keras.layers.EinsumDense`, and so of attention projections."""

import dataclasses
import math
import string

import keras
import tensorflow as tf

from keras_bmr.laplace.curvature.registry import register_curvature_rule
from keras_bmr.laplace.curvature.rules.linear_rule import LinearRule


@dataclasses.dataclass(frozen=True)
class _Labels:
    """The letters of an einsum, one per axis; that of the examples is left out."""

    inputs: str
    kernel: str
    outputs: str

    @property
    def contracted(self) -> str:
        return "".join(x for x in self.kernel if x not in self.outputs)

    @property
    def groups(self) -> str:
        return "".join(x for x in self.kernel if x in self.inputs and x in self.outputs)

    @property
    def produced(self) -> str:
        return "".join(x for x in self.kernel if x not in self.inputs)

    @property
    def positions(self) -> str:
        return "".join(x for x in self.inputs if x not in self.kernel)


@register_curvature_rule(keras.layers.EinsumDense)
class EinsumDenseRule(LinearRule):
    """Rule of `keras.layers.EinsumDense`.

    Axes of the inputs that the kernel lacks are positions, except for the first, the
    examples; axes that inputs, kernel and outputs have are groups, each with a kernel
    of its own.
    """

    def expand_inputs(self, layer: keras.layers.Layer, inputs: tf.Tensor) -> tf.Tensor:
        """See `LinearRule.expand_inputs`."""
        labels = _labels(layer, inputs.shape.rank - 1)
        parts = (labels.positions, labels.groups, labels.contracted)
        return _arranged(inputs, labels.inputs, parts)

    def expand_outputs(
        self, layer: keras.layers.Layer, cotangents: tf.Tensor
    ) -> tf.Tensor:
        """See `LinearRule.expand_outputs`."""
        labels = _labels_of_outputs(layer, cotangents)
        parts = (labels.positions, labels.groups, labels.produced)
        return _arranged(cotangents, labels.outputs, parts)

    def kernel_layout(self, layer: keras.layers.Layer) -> tuple[tuple[int, ...], int]:
        """See `LinearRule.kernel_layout`."""
        inputs, kernel, outputs = _terms(layer)
        labels = _Labels(inputs, kernel, outputs)
        ordered = labels.contracted + labels.groups + labels.produced
        return tuple(map(kernel.index, ordered)), len(labels.contracted)

    def bias_rows(
        self, layer: keras.layers.Layer, cotangents: tf.Tensor
    ) -> tf.Tensor | None:
        """See `LinearRule.bias_rows`."""
        labels = _labels_of_outputs(layer, cotangents)
        # The bias broadcasts to the last axes of the outputs.
        shape = layer.bias.shape
        own = [size > 1 for size in shape]
        last = labels.outputs[len(labels.outputs) - len(shape) :]
        biased = "".join(x for x, has_bias in zip(last, own, strict=True) if has_bias)
        if biased == labels.groups + labels.produced:
            return None
        others = "".join(x for x in labels.outputs if x not in biased)
        return _arranged(cotangents, labels.outputs, (others, biased))


def _terms(layer: keras.layers.Layer) -> list[str]:
    """Inputs, kernel and outputs of the equation, without ellipses."""
    terms = layer.equation.replace("...", "").replace(" ", "").replace("->", ",")
    return terms.split(",")


def _labels(layer: keras.layers.Layer, num_input_axes: int) -> _Labels:
    inputs, kernel, outputs = _terms(layer)
    free = (x for x in string.ascii_letters if x not in inputs + kernel + outputs)
    if not layer.equation.startswith("..."):
        # The first axis of the inputs is that of the examples.
        if outputs[0] != inputs[0] or inputs[0] in kernel:
            raise ValueError(
                f"Layer '{layer.name}' must keep the axis of the examples first in an "
                f"einsum without it in the kernel. Received: {layer.equation!r}"
            )
        inputs, outputs = inputs[1:], outputs[1:]
    missing = "".join(next(free) for _ in range(num_input_axes - len(inputs)))
    if layer.equation.startswith("..."):
        inputs, outputs = missing + inputs, missing + outputs
    else:
        inputs, outputs = inputs + missing, outputs + missing
    summed = [x for x in inputs if x not in kernel and x not in outputs]
    if summed or num_input_axes < len(inputs):
        raise ValueError(
            f"Layer '{layer.name}' sums inputs over axes {summed} that its kernel "
            f"lacks, which has no curvature rule. Received: {layer.equation!r}"
        )
    return _Labels(inputs, kernel, outputs)


def _labels_of_outputs(layer: keras.layers.Layer, outputs: tf.Tensor) -> _Labels:
    inputs, _, given = _terms(layer)
    return _labels(layer, outputs.shape.rank - 1 + len(inputs) - len(given))


def _arranged(tensor: tf.Tensor, labels: str, parts: tuple[str, ...]) -> tf.Tensor:
    """Shape (batch, one axis per part), each made of the axes in the part."""
    order = [1 + labels.index(x) for x in "".join(parts)]
    # Positions, the first part, may be unknown.
    sizes = [
        math.prod(tensor.shape[1 + labels.index(x)] for x in part) for part in parts[1:]
    ]
    transposed = tf.transpose(tensor, [0, *order])
    known = [tensor.shape[1 + labels.index(x)] for x in parts[0]]
    positions = -1 if None in known else math.prod(known)
    return tf.reshape(transposed, (tf.shape(tensor)[0], positions, *sizes))
