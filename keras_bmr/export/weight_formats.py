"""The formats in which a file stores weights, and rounding to them by the posterior."""

import dataclasses

import numpy as np

from keras_bmr.export.weight_posteriors import FileWeight

# Ranges that are tried for few bits, as shares of the largest weight of a channel: to
# cut off a weight of a wide posterior costs less than a coarse grid for all others.
_RANGES = tuple(np.linspace(1.0, 0.4, 13))
# Of a tensor and of the operator that widens it, when they are added to a file.
_STRUCTURE_BYTES = 256


@dataclasses.dataclass(frozen=True)
class WeightFormat:
    """How weights are stored.

    Attributes:
        name: What the user calls it.
        tensor_type: What TFLite calls it.
        bits: Per weight.
        largest_code: Of the integers, which are symmetric about zero; None for floats.
        per_channel: Whether each channel has a scale of its own. TFLite widens int16
            with a single scale only.
    """

    name: str
    tensor_type: str
    bits: int
    largest_code: int | None = None
    per_channel: bool = False


WEIGHT_FORMATS = {
    item.name: item
    for item in (
        WeightFormat("int4", "INT4", 4, 7, per_channel=True),
        WeightFormat("int8", "INT8", 8, 127, per_channel=True),
        WeightFormat("int16", "INT16", 16, 32767),
        WeightFormat("float16", "FLOAT16", 16),
        WeightFormat("float32", "FLOAT32", 32),
    )
}


@dataclasses.dataclass(frozen=True)
class RoundedWeight:
    """A weight rounded to a format.

    Attributes:
        weight: What was rounded.
        format: The format.
        codes: What is stored, in the shape of the constant.
        scale: Factor of integer codes, one or one per channel; None for floats.
        values: What the codes stand for, float32.
        loss: Nats of log posterior density lost against the means, per channel.
    """

    weight: FileWeight
    format: WeightFormat
    codes: np.ndarray
    scale: np.ndarray | None
    values: np.ndarray
    loss: np.ndarray

    @property
    def num_bytes(self) -> int:
        """Bytes in the file, scales and zero points (8 bytes each) included."""
        num_bytes = -(-self.codes.size * self.format.bits // 8)
        if self.format.name != "float32":
            num_bytes += _STRUCTURE_BYTES
        return num_bytes + (0 if self.scale is None else 12 * self.scale.size)

    @property
    def step(self) -> np.ndarray:
        """Distance of the grid's points, which floats have nearby only."""
        if self.scale is not None:
            return self.scale.astype(np.float64)
        dtype = np.dtype(self.format.name)
        return np.abs(np.spacing(self.codes.astype(dtype))).astype(np.float64)


def round_weight(
    weight: FileWeight, weight_format: WeightFormat, rounding: str = "posterior"
) -> RoundedWeight:
    """Rounds the posterior mean of a weight to a format.

    Pruned weights stay exactly zero.

    Args:
        weight: The weight.
        weight_format: The format.
        rounding: Which of the two neighbours on the grid is taken: "posterior" for the
            one of the greater posterior density, for Normals the nearest; "evidence"
            for the one of the greater delta_f of a point mass, log q(t) / p(t), whose
            maximum is farther from the prior's mean than the posterior's.

    Returns:
        Codes, values and what they cost.
    """
    if weight_format.largest_code is None:
        dtype = np.dtype(weight_format.name)
        with np.errstate(over="ignore"):
            codes = weight.mean.astype(dtype)
        values = codes.astype(np.float32)
        return RoundedWeight(
            weight, weight_format, codes, None, values, _loss(weight, values)
        )
    axes = weight.channel_axes if weight_format.per_channel else None
    largest = np.max(np.abs(weight.mean), axis=axes, keepdims=True)
    # A channel without any weight has any scale.
    largest = np.where(largest > 0, largest, 1.0)
    ranges = _RANGES if weight_format.per_channel else _RANGES[:1]
    best = None
    for share in ranges:
        # Codes are multiplied by the scale that the file has.
        scale = (share * largest / weight_format.largest_code).astype(np.float32)
        codes = _round(weight, scale, weight_format.largest_code, rounding)
        values = scale * codes.astype(np.float32)
        loss = _loss(weight, values)
        if best is None:
            best = [codes, scale, values, loss]
            continue
        shape = [1] * codes.ndim
        shape[weight.constant.channel_axis] = -1
        better = (loss < best[3]).reshape(shape)
        best = [
            np.where(better, new, old)
            for new, old in zip((codes, scale, values), best, strict=False)
        ] + [np.minimum(loss, best[3])]
    codes, scale, values, loss = best
    dtype = np.int16 if weight_format.bits == 16 else np.int8
    return RoundedWeight(
        weight, weight_format, codes.astype(dtype), scale, values, loss
    )


def _round(
    weight: FileWeight, scale: np.ndarray, largest_code: int, rounding: str
) -> np.ndarray:
    """The codes of the neighbours that are chosen."""
    position = weight.mean / scale.astype(np.float64)
    if rounding == "posterior":
        codes = np.rint(position)
    else:
        lower = np.floor(position)
        evidence = [
            _log_evidence(weight, scale * code) for code in (lower, lower + 1.0)
        ]
        codes = np.where(evidence[1] > evidence[0], lower + 1.0, lower)
    codes = np.clip(codes, -largest_code, largest_code)
    return np.where(weight.keep, codes, 0.0)


def _log_evidence(weight: FileWeight, point: np.ndarray) -> np.ndarray:
    """Logarithm of q(t) / p(t), up to what does not depend on t."""
    deviation = (point - weight.mean) / weight.scale
    prior_deviation = (point - weight.prior_loc) / weight.prior_scale
    return 0.5 * (np.square(prior_deviation) - np.square(deviation))


def _loss(weight: FileWeight, values: np.ndarray) -> np.ndarray:
    """Sums log q(mean) / q(value) over each channel."""
    scale = np.where(weight.keep, weight.scale, 1.0)
    deviation = np.where(weight.keep, (values - weight.mean) / scale, 0.0)
    return 0.5 * np.sum(
        np.square(deviation, dtype=np.float64), axis=weight.channel_axes
    )
