"""A format for each weight of a file, chosen by what it costs in nats and bytes."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_bmr.export.network import deterministic_network
from keras_bmr.export.text_table import text_table
from keras_bmr.export.tflite_file import TFLiteFile
from keras_bmr.export.weight_formats import RoundedWeight
from keras_bmr.layers.cloning import within
from keras_bmr.layers.conversion import copy_model
from keras_bmr.layers.pruned_weights import weight_variable


@dataclasses.dataclass(frozen=True)
class PrecisionChoice:
    """The formats in which a file shall store weights, and the rounded weights.

    `WeightPrecision.choose` and `WeightPrecision.assign` make it.

    Attributes:
        model: The model that has the weights.
        rounded: Each weight in its format.
    """

    model: keras.Model
    rounded: tuple[RoundedWeight, ...]

    @property
    def formats(self) -> dict[str, str]:
        """The name of the format of each weight, by "layer/weight"."""
        return {item.weight.label: item.format.name for item in self.rounded}

    @property
    def loss(self) -> float:
        """Nats of log posterior density lost by all rounding."""
        return float(sum(np.sum(item.loss) for item in self.rounded))

    def summary(self, print_fn: Callable[[str], Any] = print) -> None:
        """Prints a table of the weights.

        Args:
            print_fn: Called with each line.
        """
        rows = [("weight", "format", "bytes", "loss (nats)", "per weight")]
        for item in self.rounded:
            num_kept = max(np.count_nonzero(item.weight.keep), 1)
            loss = float(np.sum(item.loss))
            rows.append(
                (
                    item.weight.label,
                    item.format.name,
                    f"{item.num_bytes:,}",
                    f"{loss:.4g}",
                    f"{loss / num_kept:.2g}",
                )
            )
        num_bytes = sum(item.num_bytes for item in self.rounded)
        rows.append(("Total", "", f"{num_bytes:,}", f"{self.loss:.4g}", ""))
        for line in text_table(rows):
            print_fn(line)

    def network(self) -> keras.Model:
        """The deterministic network with the values that the file will have.

        Returns:
            A new model of ordinary layers; the model is not changed.
        """
        network = deterministic_network(self.model)
        if network is self.model:
            network = copy_model(network)
        layers = list(within(network))
        for item in self.rounded:
            variable = weight_variable(
                layers[item.weight.layer_index], item.weight.name
            )
            variable.assign(item.weight.in_keras(item.values, tuple(variable.shape)))
        return network

    def encode(self, content: bytes) -> bytes:
        """Stores the weights of a file in the chosen formats.

        Args:
            content: The dense float32 file of the model's network.

        Returns:
            The new content.

        Raises:
            ValueError: If the file has other weights than those that were rounded.
        """
        file = TFLiteFile(content)
        constants = [(constant, file.values(constant)) for constant in file.weights()]
        for item in self.rounded:
            found = [
                constant
                for constant, values in constants
                if values.shape == item.weight.mean.shape
                and np.allclose(values, item.weight.mean, rtol=1e-5, atol=0)
            ]
            if not found:
                raise ValueError(
                    "The model has changed since its weights were rounded, or is "
                    "another one. Make a new `WeightPrecision` of it. Received: other "
                    f"values of {item.weight.label}"
                )
            constants = [pair for pair in constants if pair[0] is not found[0]]
            if item.format.name != "float32":
                file.store_quantized(
                    found[0], item.format.tensor_type, item.codes, item.scale
                )
        return file.to_bytes()
