"""How many bits the posterior of a weight can resolve, and what fewer bits cost."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_bmr.export import converter, operators
from keras_bmr.export.bit_allocation import cheapest_formats
from keras_bmr.export.network import deterministic_network, input_specifications
from keras_bmr.export.precision_choice import PrecisionChoice
from keras_bmr.export.text_table import text_table
from keras_bmr.export.tflite_file import TFLiteFile
from keras_bmr.export.weight_evidence import grid_delta_f, resolved_bits
from keras_bmr.export.weight_formats import WEIGHT_FORMATS, RoundedWeight, round_weight
from keras_bmr.export.weight_posteriors import file_weights
from keras_bmr.pruning.posterior_weights import posterior_source

_ROUNDINGS = ("posterior", "evidence")


class WeightPrecision:
    """What the posterior says about the precision that the weights of a file need.

    A weight with posterior N(mu, s^2) that is rounded to t loses
    `log q(mu) / q(t) = (t - mu)^2 / (2 s^2)` nats of log posterior density. For
    rounding errors that are uniform on a grid with step h that is h^2 / (24 s^2) in the
    mean. So a grid with the step of the posterior's scale costs 1/24 nat per weight,
    a twelfth of what a draw from the posterior costs; finer grids resolve what the data
    did not.

    Weights are looked at as the file holds them: a normalisation behind a layer is
    folded into its kernel. Nothing is written and the model is not changed.

    Args:
        source: A Bayesian model, or another source of Normal posteriors, such as a
            fitted `Laplace`.
        rounding: Which neighbour on the grid is taken: "posterior", the more probable
            one, which for Normals is the nearest; or "evidence", that of the greater
            delta_f of a point mass, log q(t) / p(t), which lies farther from the
            prior's mean.

    Raises:
        TypeError: If a posterior or prior is not Normal.
        ValueError: If there is no posterior, the model cannot be converted, or an
            argument is invalid.

    Example:
        >>> precision = keras_bmr.export.WeightPrecision(model)
        >>> precision.summary()
        >>> choice = precision.choose(max_bytes=80_000)
        >>> keras_bmr.export.export_precision(choice, "model.tflite")

    References:
        Bennett. Spectra of quantized signals. Bell System Technical Journal 27 (1948)
        (uniform rounding errors, of variance h^2 / 12).
        Hinton, van Camp. Keeping neural networks simple by minimizing the description
        length of the weights. COLT 1993 (a weight is worth as many bits as its
        posterior is narrower than its prior).
    """

    def __init__(self, source: Any, rounding: str = "posterior") -> None:
        if rounding not in _ROUNDINGS:
            raise ValueError(
                f"Invalid value for `rounding`, expected one of {_ROUNDINGS}. "
                f"Received: rounding={rounding!r}"
            )
        self._rounding = rounding
        self._model = posterior_source(source).model
        network = deterministic_network(self._model)
        function = converter.trace(network, input_specifications(network, 1), 1)
        self._content = converter.convert(function)
        operators.check_operators(operators.operator_names(self._content))
        self._weights, missing = file_weights(
            source, network, TFLiteFile(self._content)
        )
        self._missing = [weight.label for weight in missing]
        if not self._weights:
            raise ValueError(
                "Expected at least one weight with a posterior that is a constant of "
                "its own in the converted file, as kernels of dense layers and "
                f"convolutions are. Received: {', '.join(self._missing)}"
            )
        self._rounded: dict[tuple[int, str], RoundedWeight] = {}

    @property
    def model(self) -> keras.Model:
        """The model that has the weights."""
        return self._model

    @property
    def weight_labels(self) -> tuple[str, ...]:
        """The weights that a file can hold in other formats, as "layer/weight".

        Layers of nested models that have the same name stand there with the names of
        the models around them: "model/layer/weight".
        """
        return tuple(dict.fromkeys(weight.label for weight in self._weights))

    def bits(
        self, layer: str, weight: str | None = None, max_loss: float = 1 / 24
    ) -> np.ndarray:
        """The number of bits that the posterior resolves, channel by channel.

        `log2(2 R / h + 1)`, the bits that count the points of a symmetric grid from -R
        to R, the largest weight of the channel, with the step h = sqrt(24 max_loss /
        mean(1 / s^2)), at which uniform rounding errors cost `max_loss` nats per
        weight. Pruned weights do not count.

        Args:
            layer: Name of the layer.
            weight: Name of the weight; None stands for the layer's first.
            max_loss: Nats per weight. The default makes h the scale of the posterior.

        Returns:
            Array of shape `(channels,)`; 0 where all weights of a channel are pruned.

        Raises:
            ValueError: If there is no such weight, or `max_loss` is not positive.
        """
        if not max_loss > 0 or math.isinf(max_loss):
            raise ValueError(
                "`max_loss` must be a positive number of nats per weight. Received: "
                f"max_loss={max_loss!r}"
            )
        return resolved_bits(self._weights[self._find(layer, weight)[0]], max_loss)

    def loss(self, layer: str, weight_format: str, weight: str | None = None) -> float:
        """Nats of log posterior density lost by storing a weight in a format.

        Args:
            layer: Name of the layer.
            weight_format: "int4", "int8", "int16", "float16" or "float32".
            weight: Name of the weight; None stands for the layer's first.

        Returns:
            The sum over the weights of the layer of log q(mu) / q(t), with the values
            t that the file would have.

        Raises:
            ValueError: If there is no such weight or format.
        """
        first = self._find(layer, weight)[0]
        return float(np.sum(self._round(first, weight_format).loss))

    def delta_f(
        self, layer: str, weight_format: str, weight: str | None = None
    ) -> float:
        """Log Bayes factor of a prior on the grid of a format against the prior.

        The grid's masses are in proportion to the prior's density
        (`keras_bmr.distributions.DiscreteNormal`), and the weights stay uncertain on
        it. It is near 0 for steps up to two posterior scales. For float16, whose
        values are not equally spaced, the grid is that around each weight.

        Args:
            layer: Name of the layer.
            weight_format: As in `loss`.
            weight: Name of the weight; None stands for the layer's first.

        Returns:
            The sum over the weights that are not pruned, in nats.

        Raises:
            ValueError: If there is no such weight or format.
        """
        rounded = self._round(self._find(layer, weight)[0], weight_format)
        return grid_delta_f(rounded)

    def summary(
        self,
        formats: Sequence[str] = tuple(WEIGHT_FORMATS)[:-1],
        print_fn: Callable[[str], Any] = print,
    ) -> None:
        """Prints what each weight needs, and its loss and delta_f by format.

        Args:
            formats: Those to show.
            print_fn: Called with each line.
        """
        rows = [("weight", "kept", "bits", *(f"loss {name}" for name in formats))]
        rows[0] += tuple(f"delta_f {name}" for name in formats)
        for label in self.weight_labels:
            layer, name = label.rsplit("/", 1)
            found = self._weights[self._find(layer, name)[0]]
            bits = resolved_bits(found, 1 / 24)
            rows.append(
                (
                    label,
                    f"{np.count_nonzero(found.keep):,}",
                    f"{bits.min():.1f}-{bits.max():.1f}",
                    *(_nats(self.loss(layer, item, name)) for item in formats),
                    *(_nats(self.delta_f(layer, item, name)) for item in formats),
                )
            )
        for line in text_table(rows):
            print_fn(line)
        for label in self._missing:
            print_fn(f"{label}: no constant of its own in the file, stays float32")

    def choose(
        self, max_bytes: int, formats: Sequence[str] = tuple(WEIGHT_FORMATS)
    ) -> PrecisionChoice:
        """Chooses a format for each weight so that the file has at most some bytes.

        From the fewest bytes on, the change that saves most nats per byte comes first.

        Args:
            max_bytes: Bytes of the TFLite file for one example per call.
            formats: Those to choose from.

        Returns:
            The choice.

        Raises:
            ValueError: If even the smallest formats do not fit, or a format is unknown.
        """
        for name in formats:
            self._check_format(name)
        labels = self.weight_labels
        positions = [self._find(*label.rsplit("/", 1)) for label in labels]
        options = [
            {
                name: (
                    sum(self._round(p, name).num_bytes for p in group),
                    sum(float(np.sum(self._round(p, name).loss)) for p in group),
                )
                for name in formats
            }
            for group in positions
        ]
        budget = max_bytes - self._fixed_bytes()
        while True:
            # What the structure of the file takes is estimated, hence the second look.
            chosen = cheapest_formats(options, budget)
            is_last = chosen is None
            chosen = chosen or cheapest_formats(options, 0, or_smallest=True)
            choice = self.assign(dict(zip(labels, chosen, strict=True)))
            num_bytes = len(choice.encode(self._content))
            if num_bytes <= max_bytes:
                return choice
            if is_last:
                break
            budget -= num_bytes - max_bytes
        raise ValueError(
            "The weights do not fit into the file in any of the formats. Expected "
            f"max_bytes of at least {num_bytes}. Received: max_bytes={max_bytes}, "
            f"formats={list(formats)}"
        )

    def assign(
        self, formats: Mapping[str, str], default: str = "float32"
    ) -> PrecisionChoice:
        """Takes formats of the caller's own choice.

        Args:
            formats: Formats by the name of the layer, or by "layer/weight".
            default: Format of the others.

        Returns:
            The choice.

        Raises:
            ValueError: If a weight or format is unknown.
        """
        by_label = dict.fromkeys(self.weight_labels, default)
        for key, name in formats.items():
            self._check_format(name)
            parts = key.rsplit("/", 1) if key in by_label else [key]
            for position in self._find(*parts):
                by_label[self._weights[position].label] = name
        self._check_format(default)
        return PrecisionChoice(
            model=self._model,
            rounded=tuple(
                self._round(position, by_label[weight.label])
                for position, weight in enumerate(self._weights)
            ),
        )

    def _fixed_bytes(self) -> int:
        """Bytes of the file besides the weights in question."""
        return len(self._content) - sum(item.mean.nbytes for item in self._weights)

    def _check_format(self, name: str) -> None:
        if name not in WEIGHT_FORMATS:
            raise ValueError(
                f"Expected one of the formats {list(WEIGHT_FORMATS)}. Received: "
                f"{name!r}"
            )

    def _round(self, position: int, name: str) -> RoundedWeight:
        self._check_format(name)
        key = position, name
        if key not in self._rounded:
            self._rounded[key] = round_weight(
                self._weights[position], WEIGHT_FORMATS[name], self._rounding
            )
        return self._rounded[key]

    def _find(self, layer: str, name: str | None = None) -> list[int]:
        """Positions of the constants of a weight."""
        of_layer = [
            position
            for position, weight in enumerate(self._weights)
            if weight.layer == layer and name in (None, weight.name)
        ]
        if not of_layer:
            raise ValueError(
                "Expected a layer, and one of its weights, that the file can hold in "
                f"another format: {list(self.weight_labels)}. Received: "
                f"layer={layer!r}, weight={name!r}"
            )
        label = self._weights[of_layer[0]].label
        return [p for p in of_layer if self._weights[p].label == label]


def _nats(value: float) -> str:
    """Four digits, and nothing of what is as good as zero."""
    return f"{value:.4g}" if abs(value) >= 1e-4 else "0"


def choose_precision(
    source: Any, max_bytes: int, formats: Sequence[str] = tuple(WEIGHT_FORMATS)
) -> PrecisionChoice:
    """Chooses the format of each layer's weights for a number of bytes.

    Shorthand of `WeightPrecision(source).choose(max_bytes, formats)`.

    Args:
        source: A Bayesian model, or another source of Normal posteriors.
        max_bytes: Bytes of the TFLite file.
        formats: Those to choose from.

    Returns:
        The choice, for `export_precision`.

    Raises:
        TypeError: If a posterior or prior is not Normal.
        ValueError: If even the smallest formats do not fit, or an argument is invalid.

    Example:
        >>> choice = keras_bmr.export.choose_precision(model, max_bytes=80_000)
        >>> choice.summary()
    """
    return WeightPrecision(source).choose(max_bytes, formats)
