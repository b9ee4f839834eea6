"""The weights of a model as its file has them, found by label and rounded on demand."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_bmr.export import converter, operators
from keras_bmr.export.network import deterministic_network, input_specifications
from keras_bmr.export.tflite_file import TFLiteFile
from keras_bmr.export.weight_formats import WEIGHT_FORMATS, RoundedWeight, round_weight
from keras_bmr.export.weight_posteriors import FileWeight, file_weights
from keras_bmr.pruning.posterior_weights import posterior_source


class RoundedWeights:
    """Weights with posteriors that are constants of a file, in any format.

    Args:
        source: As for `WeightPrecision`.
        rounding: As for `round_weight`.

    Attributes:
        model: The model that has the weights.
        content: The dense float32 file of its network, for one example per call.
        missing: Labels of weights that are no constant of their own there.

    Raises:
        TypeError: If a posterior or prior is not Normal.
        ValueError: If there is no such weight, or the model cannot be converted.
    """

    def __init__(self, source: Any, rounding: str) -> None:
        self.model: keras.Model = posterior_source(source).model
        network = deterministic_network(self.model)
        function = converter.trace(network, input_specifications(network, 1), 1)
        self.content = converter.convert(function)
        operators.check_operators(operators.operator_names(self.content))
        self._weights, missing = file_weights(source, network, TFLiteFile(self.content))
        self.missing = [weight.label for weight in missing]
        if not self._weights:
            raise ValueError(
                "Expected at least one weight with a posterior that is a constant of "
                "its own in the converted file, as kernels of dense layers and "
                f"convolutions are. Received: {', '.join(self.missing)}"
            )
        self._rounding = rounding
        self._rounded: dict[tuple[int, str], RoundedWeight] = {}

    @property
    def labels(self) -> tuple[str, ...]:
        """The weights, each once, as "layer/weight"."""
        return tuple(dict.fromkeys(weight.label for weight in self._weights))

    @property
    def num_bytes(self) -> int:
        """Bytes of the weights in `content`."""
        return sum(weight.mean.nbytes for weight in self._weights)

    def find(self, layer: str, name: str | None = None) -> list[FileWeight]:
        """The constants of a weight.

        Args:
            layer: Name of the layer.
            name: Name of the weight; None stands for the layer's first.

        Raises:
            ValueError: If there is no such weight.
        """
        of_layer = [
            weight
            for weight in self._weights
            if weight.layer == layer and name in (None, weight.name)
        ]
        if not of_layer:
            raise ValueError(
                "Expected a layer, and one of its weights, that the file can hold in "
                f"another format: {list(self.labels)}. Received: "
                f"layer={layer!r}, weight={name!r}"
            )
        return self.labelled(of_layer[0].label)

    def labelled(self, label: str) -> list[FileWeight]:
        """The constants of a weight.

        Args:
            label: One of `labels`.
        """
        return [weight for weight in self._weights if weight.label == label]

    def round(self, weight: FileWeight, weight_format: str) -> RoundedWeight:
        """A weight in a format, computed once.

        Args:
            weight: One of the weights.
            weight_format: Name of the format.

        Raises:
            ValueError: If there is no such format.
        """
        check_format(weight_format)
        key = id(weight), weight_format
        if key not in self._rounded:
            self._rounded[key] = round_weight(
                weight, WEIGHT_FORMATS[weight_format], self._rounding
            )
        return self._rounded[key]

    def bytes_and_loss(self, label: str, weight_format: str) -> tuple[int, float]:
        """What a weight costs in a format, in all constants that hold it.

        Args:
            label: One of `labels`.
            weight_format: Name of the format.

        Returns:
            Bytes of the file, and nats of log posterior density.
        """
        rounded = [self.round(weight, weight_format) for weight in self.labelled(label)]
        loss = sum(float(np.sum(item.loss)) for item in rounded)
        return sum(item.num_bytes for item in rounded), loss

    def in_formats(self, formats: Mapping[str, str]) -> tuple[RoundedWeight, ...]:
        """All weights in formats.

        Args:
            formats: Names of formats by label.
        """
        return tuple(
            self.round(weight, formats[weight.label]) for weight in self._weights
        )


def check_format(name: str) -> None:
    """Refuses names of formats that there are not.

    Args:
        name: The name.

    Raises:
        ValueError: If there is no such format.
    """
    if name not in WEIGHT_FORMATS:
        raise ValueError(
            f"Expected one of the formats {list(WEIGHT_FORMATS)}. Received: {name!r}"
        )
