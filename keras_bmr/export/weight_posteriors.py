"""The posteriors of weights in the form in which a TFLite file holds the weights."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from tensorflow_probability import distributions as tfd

from keras_bmr.export.constant_matching import (
    ConstantMatch,
    match_constants,
    to_file_layout,
    to_keras_layout,
)
from keras_bmr.export.tflite_file import TFLiteFile, WeightConstant
from keras_bmr.layers.cloning import within
from keras_bmr.pruning.channels.calls import call_graph, has_graph
from keras_bmr.pruning.counterparts import counterparts
from keras_bmr.pruning.posterior_weights import PosteriorWeight, posterior_weights


@dataclasses.dataclass(frozen=True)
class FileWeight:
    """A weight with a Normal posterior, as one constant of a file holds it.

    All arrays have the axes of the constant, or broadcast to them. A normalisation
    behind the layer is folded into them.

    Attributes:
        layer: Name of the layer; where others have the same, with the names of the
            models around it before it, "model/layer".
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
        return to_keras_layout(self.constant.operator, values, shape)


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
        ValueError: If two layers cannot be told apart by their names.
    """
    weights = posterior_weights(source)
    for weight in weights:
        _check_normal(weight)
    model = weights[0].source.model
    index_of = {id(layer): index for index, layer in enumerate(within(model))}
    names = _distinct_names(model, [weight.layer for weight in weights])
    inside = counterparts(weights, model, network)
    kernels = [np.asarray(item.variable, np.float32) for item in inside]
    random = {id(item.variable) for item in inside}
    matches = match_constants(
        kernels,
        _numbers_of_calls(network, [item.layer for item in inside]),
        [np.asarray(v, np.float32) for v in network.weights if id(v) not in random],
        [(constant, file.values(constant)) for constant in file.weights()],
    )
    found = [
        _file_weight(
            weight,
            names[id(weight.layer)],
            index_of[id(weight.layer)],
            kernel,
            match,
        )
        for weight, kernel, of_weight in zip(weights, kernels, matches, strict=True)
        for match in of_weight
    ]
    pairs = zip(weights, matches, strict=True)
    return found, [weight for weight, of_weight in pairs if not of_weight]


def _distinct_names(
    model: keras.Model, layers: Sequence[keras.layers.Layer]
) -> dict[int, str]:
    """Names by the id of the layer, with those of models around it if need be."""
    paths: dict[int, str] = {}

    def walk(around: keras.layers.Layer, path: str) -> None:
        for layer in around._flatten_layers(include_self=False, recursive=False):
            if id(layer) not in paths:
                paths[id(layer)] = path + layer.name
                walk(layer, f"{path}{layer.name}/")

    walk(model, "")
    distinct = {id(layer): layer.name for layer in layers}
    counts = collections.Counter(distinct.values())
    names = {
        key: name if counts[name] == 1 else paths[key] for key, name in distinct.items()
    }
    if len(set(names.values())) < len(names):
        raise ValueError(
            "Layers with posteriors are told apart by their names and those of the "
            "models around them. Expected different ones, give the layers other names. "
            f"Received: {sorted(names.values())}"
        )
    return names


def _numbers_of_calls(
    network: keras.Model, layers: Sequence[keras.layers.Layer]
) -> list[int]:
    """How often each layer is called; layers within others count as called once."""
    calls = call_graph(network).calls if has_graph(network) else []
    counts = collections.Counter(id(call.operation) for call in calls)
    return [max(counts[id(layer)], 1) for layer in layers]


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
    layer_name: str,
    layer_index: int,
    kernel: np.ndarray,
    match: ConstantMatch,
) -> FileWeight:
    posterior, prior = weight.posterior(), weight.prior()
    constant, shape, factor = match

    def placed(value: Any) -> np.ndarray:
        value = np.broadcast_to(np.asarray(value), kernel.shape)
        return to_file_layout(constant.operator, value, shape)

    size = np.abs(factor)
    return FileWeight(
        layer=layer_name,
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
