"""Activations that train on the grid of TFLite's int8 tensors."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

# A tensor that is always zero has no range, and kernels refuse scales near zero.
_MIN_WIDTH = 1e-6
_WIDTH_OF_ZEROS = 1.0


@keras.saving.register_keras_serializable(package="keras_bmr")
class FakeQuantization(keras.layers.Layer):
    """Rounds its input to the 256 values that an int8 tensor of a TFLite file has.

    The range of the grid follows the range of the input in training, as a moving
    average of the smallest and largest value of a batch; outside of training it stays
    as it is. It always contains zero, which is a point of the grid. The gradient goes
    straight through within the range and is zero outside (Jacob et al., 2018,
    "Quantization and training of neural networks for efficient
    integer-arithmetic-only inference", arXiv 1712.05877, section 3.1).

    Args:
        momentum: Share of the range that a training step keeps, from 0 to 1.
        fixed_range: Pair of the smallest and largest value of a grid that does not
            move, for tensors whose grid TFLite prescribes. None for one that does.
        name: Name of the layer.
        **kwargs: Arguments of `keras.layers.Layer`. The layer computes in float32.

    Raises:
        ValueError: If an argument is invalid.

    Example:
        >>> outputs = FakeQuantization(fixed_range=(0.0, 1.0))(inputs)
    """

    def __init__(
        self,
        momentum: float = 0.99,
        fixed_range: tuple[float, float] | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **{**kwargs, "dtype": "float32"})
        check_momentum(momentum)
        if fixed_range is not None:
            low, high = fixed_range
            if not low <= 0.0 <= high or low == high:
                raise ValueError(
                    "`fixed_range` must be a pair low <= 0 <= high of two different "
                    f"numbers. Received: fixed_range={fixed_range!r}"
                )
            fixed_range = (float(low), float(high))
        self.momentum = float(momentum)
        self.fixed_range = fixed_range
        self._observes = False

    def build(self, input_shape: tuple) -> None:
        """Makes the variables `low` and `high`."""
        del input_shape
        low, high = self.fixed_range or (0.0, 0.0)
        for name, value in (("low", low), ("high", high)):
            variable = self.add_weight(
                name=name,
                shape=(),
                initializer=keras.initializers.Constant(value),
                trainable=False,
                aggregation="mean",
            )
            setattr(self, name, variable)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Returns the nearest points of the grid."""
        if self.fixed_range is None and self._observes:
            low, high = _range(inputs)
            self.low.assign(tf.minimum(self.low.value, low))
            self.high.assign(tf.maximum(self.high.value, high))
            return inputs
        if self.fixed_range is None and training and self.trainable:
            for variable, value in zip(
                (self.low, self.high), _range(inputs), strict=True
            ):
                step = (1.0 - self.momentum) * (value - variable.value)
                variable.assign_add(tf.stop_gradient(step))
        low, high = self.low.value, self.high.value
        high = tf.where(high - low < _MIN_WIDTH, low + _WIDTH_OF_ZEROS, high)
        return tf.quantization.fake_quant_with_min_max_vars(inputs, low, high)

    def scale(self) -> float:
        """The distance between two points of the grid."""
        width = float(self.high.value - self.low.value)
        return (_WIDTH_OF_ZEROS if width < _MIN_WIDTH else width) / 255.0

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """The shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "fixed_range": self.fixed_range,
        }


def check_momentum(momentum: float) -> None:
    """Checks the share of a range that a training step keeps.

    Args:
        momentum: What was given.

    Raises:
        ValueError: If it is no number from 0 to 1.
    """
    is_number = isinstance(momentum, (int, float)) and not isinstance(momentum, bool)
    if not is_number or not 0.0 <= momentum <= 1.0:
        raise ValueError(
            "`momentum` must be a number from 0 to 1, the share of a range that a "
            f"training step keeps. Received: momentum={momentum!r}"
        )


@contextlib.contextmanager
def observing(quantizers: list[FakeQuantization]) -> Iterator[None]:
    """Lets quantisers pass their inputs on and widen their ranges to hold them.

    Args:
        quantizers: The layers. The model must be called eagerly.

    Yields:
        Nothing.
    """
    for quantizer in quantizers:
        quantizer._observes = True
    try:
        yield
    finally:
        for quantizer in quantizers:
            quantizer._observes = False


def _range(inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The smallest and largest value, with zero between them."""
    inputs = tf.stop_gradient(inputs)
    low = tf.minimum(tf.reduce_min(inputs), 0.0)
    return low, tf.maximum(tf.reduce_max(inputs), 0.0)
