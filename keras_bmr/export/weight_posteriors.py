"""The posteriors of weights in the form in which a TFLite file holds the weights."""

import dataclasses
from typing import Any

import keras
import numpy as np
from tensorflow_probability import distributions as tfd

from keras_bmr.export.tflite_file import TFLiteFile, WeightConstant
from keras_bmr.layers.cloning import within
from keras_bmr.pruning.counterparts import counterparts
from keras_bmr.pruning.posterior_weights import PosteriorWeight, posterior_weights

# Converters fold factors into weights in float32.
_FOLDING_TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class FileWeight:
    """A weight with a Normal posterior, as one constant of a file holds it.

    All arrays have the axes of the constant, or broadcast to them. A normalisation
    behind the layer is folded into them.

    Attributes:
        layer: Name of the layer.
        layer_index: Its position among the layers of the model and of its copies.
        name: Name of the weight there.
        constant: Where it is in the file.
        mean: Posterior mean, 0 where pruned; float32.
        scale: Posterior standard deviation.
        prior_loc: Mean of the prior.
        prior_scale: Standard deviation of the prior.
        keep: Boolean, False where pruned.
        factor: What the converter has multiplied the channels of the weight by.
    """

    layer: str
    layer_index: int
    name: str
    constant: WeightConstant
    mean: np.ndarray
    scale: np.ndarray
    prior_loc: np.ndarray
    prior_scale: np.ndarray
    keep: np.ndarray
    factor: np.ndarray

    @property
    def label(self) -> str:
        """How messages speak of the weight."""
        return f"{self.layer}/{self.name}"

    @property
    def channel_axes(self) -> tuple[int, ...]:
        """The axes along which the weights of one channel lie."""
        channel = self.constant.channel_axis
        return tuple(axis for axis in range(self.mean.ndim) if axis != channel)

    def in_keras(self, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Values of the constant as the Keras layer has them.

        Args:
            values: Array in the shape of the constant.
            shape: Shape of the weight in Keras.
        """
        folded = self.factor != 0
        factor = np.where(folded, self.factor, 1.0)
        # What the converter multiplied by zero is lost, and does not matter.
        values = np.where(folded, values / factor, 0.0)
        return _keras_layout(self.constant.operator, values, shape)


def file_weights(
    source: Any, network: keras.Model, file: TFLiteFile
) -> tuple[list[FileWeight], list[PosteriorWeight]]:
    """Finds the weights that have posteriors among the constants of a file.

    Args:
        source: A Bayesian model or another source of posteriors.
        network: The deterministic network of its model.
        file: The dense float32 file of the network.

    Returns:
        The weights that are constants of the file, and those that are not: a converter
        may split or merge them.

    Raises:
        TypeError: If a posterior or prior is not Normal.
    """
    constants = [(constant, file.values(constant)) for constant in file.weights()]
    weights = posterior_weights(source)
    model = weights[0].source.model
    index_of = {id(layer): index for index, layer in enumerate(within(model))}
    inside = counterparts(weights, model, network)
    found, missing = [], []
    taken: set[WeightConstant] = set()
    for weight, counterpart in zip(weights, inside, strict=True):
        _check_normal(weight)
        kernel = np.asarray(counterpart.variable, np.float32)
        matches = [
            (constant, values.shape, factor)
            for constant, values in constants
            if constant not in taken
            and (factor := _folded_factor(constant, values, kernel)) is not None
        ]
        if not matches:
            missing.append(weight)
        taken |= {constant for constant, _, _ in matches}
        found += [
            _file_weight(weight, index_of[id(weight.layer)], kernel, *match)
            for match in matches
        ]
    return found, missing


def _check_normal(weight: PosteriorWeight) -> None:
    for kind in ("posterior", "prior"):
        distribution = getattr(weight, kind)()
        if not isinstance(distribution, tfd.Normal):
            raise TypeError(
                "Expected Normal posteriors and priors, whose widths say how exactly a "
                f"weight is known. Received: a {kind} of type "
                f"{type(distribution).__name__} for {weight.label}"
            )


def _file_weight(
    weight: PosteriorWeight,
    layer_index: int,
    kernel: np.ndarray,
    constant: WeightConstant,
    shape: tuple[int, ...],
    factor: np.ndarray,
) -> FileWeight:
    posterior, prior = weight.posterior(), weight.prior()

    def placed(value: Any) -> np.ndarray:
        value = np.broadcast_to(np.asarray(value), kernel.shape)
        return _file_layout(constant.operator, value, shape)

    size = np.abs(factor)
    return FileWeight(
        layer=weight.layer.name,
        layer_index=layer_index,
        name=weight.name,
        constant=constant,
        mean=(factor * placed(kernel)).astype(np.float32),
        scale=size * placed(posterior.stddev()),
        prior_loc=factor * placed(prior.mean()),
        prior_scale=size * placed(prior.stddev()),
        keep=placed(weight.alive()) & (factor != 0),
        factor=factor,
    )


def _folded_factor(
    constant: WeightConstant, values: np.ndarray, kernel: np.ndarray
) -> np.ndarray | None:
    """The factors of the channels if a constant is a kernel times them, else None."""
    if values.size != kernel.size:
        return None
    kernel = _file_layout(constant.operator, kernel, values.shape).astype(np.float64)
    axes = tuple(axis for axis in range(values.ndim) if axis != constant.channel_axis)
    energy = np.sum(kernel * kernel, axis=axes, keepdims=True)
    factor = np.sum(kernel * values, axis=axes, keepdims=True)
    # A channel of zeros may have been multiplied by anything.
    factor = np.where(energy > 0, factor / np.where(energy > 0, energy, 1.0), 1.0)
    # Nothing is folded in most cases; rounding shall not make it look so.
    factor = np.where(np.abs(factor - 1) < _FOLDING_TOLERANCE, 1.0, factor)
    allowed = _FOLDING_TOLERANCE * np.max(np.abs(values), axis=axes, keepdims=True)
    return factor if np.all(np.abs(values - factor * kernel) <= allowed) else None


def _file_layout(
    operator: str, kernel: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """A Keras kernel with the axes of the constant of an operator."""
    if operator == "FULLY_CONNECTED":
        return kernel.reshape(-1, shape[0]).T
    if operator == "CONV_2D":
        return kernel.reshape(*shape[1:], shape[0]).transpose(3, 0, 1, 2)
    if operator == "TRANSPOSE_CONV":
        kernel = kernel.reshape(shape[1], shape[2], shape[0], shape[3])
        return kernel.transpose(2, 0, 1, 3)
    return kernel.reshape(shape)


def _keras_layout(
    operator: str, values: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """The inverse of `_file_layout`."""
    if operator == "FULLY_CONNECTED":
        values = values.T
    elif operator == "CONV_2D":
        values = values.transpose(1, 2, 3, 0)
    elif operator == "TRANSPOSE_CONV":
        values = values.transpose(1, 2, 0, 3)
    return values.reshape(shape)
