"""How many bits the posterior of a weight can resolve, and what fewer bits cost."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_bmr.argument_checks import require_integer, require_positive
from keras_bmr.export.bit_allocation import cheapest_formats
from keras_bmr.export.precision_choice import PrecisionChoice
from keras_bmr.export.precision_table import precision_table
from keras_bmr.export.rounded_weights import RoundedWeights, check_format
from keras_bmr.export.weight_evidence import grid_delta_f, resolved_bits
from keras_bmr.export.weight_formats import WEIGHT_FORMATS

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
        self._weights = RoundedWeights(source, rounding)

    @property
    def model(self) -> keras.Model:
        """The model that has the weights."""
        return self._weights.model

    @property
    def weight_labels(self) -> tuple[str, ...]:
        """The weights that a file can hold in other formats, as "layer/weight".

        Layers of nested models that have the same name stand there with the names of
        the models around them: "model/layer/weight".
        """
        return self._weights.labels

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
        require_positive("max_loss", max_loss)
        return resolved_bits(self._weights.find(layer, weight)[0], max_loss)

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
        first = self._weights.find(layer, weight)[0]
        return float(np.sum(self._weights.round(first, weight_format).loss))

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
        first = self._weights.find(layer, weight)[0]
        return grid_delta_f(self._weights.round(first, weight_format))

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
        for line in precision_table(self._weights, formats):
            print_fn(line)

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
            ValueError: If even the smallest formats do not fit, a format is unknown, or
                `max_bytes` is no positive integer.
        """
        require_integer("max_bytes", max_bytes, at_least=1)
        # Sums overflow in NumPy's short integers.
        max_bytes = int(max_bytes)
        for name in formats:
            check_format(name)
        labels, content = self.weight_labels, self._weights.content
        options = [
            {name: self._weights.bytes_and_loss(label, name) for name in formats}
            for label in labels
        ]
        budget = max_bytes - (len(content) - self._weights.num_bytes)
        while True:
            # What the structure of the file takes is estimated, hence the second look.
            chosen = cheapest_formats(options, budget)
            is_last = chosen is None
            chosen = chosen or cheapest_formats(options, 0, or_smallest=True)
            choice = self.assign(dict(zip(labels, chosen, strict=True)))
            num_bytes = len(choice.encode(content))
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
            check_format(name)
            parts = key.rsplit("/", 1) if key in by_label else [key]
            by_label[self._weights.find(*parts)[0].label] = name
        check_format(default)
        return PrecisionChoice(self.model, self._weights.in_formats(by_label))


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
