"""Noise gates: a random factor for every unit or channel."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_bmr import posteriors
from keras_bmr.layers.variational import Variational
from keras_bmr.posteriors.sampling import is_sampling


@keras.saving.register_keras_serializable(package="keras_bmr")
class MultiplicativeNoise(Variational, keras.layers.Layer):
    """Multiplies every unit or channel by a random factor theta, its gate.

    In training each example has a draw of its own, which all positions of a channel
    share; inside of `keras_bmr.posteriors.sampling` all examples share one draw, and
    otherwise the factor is E[theta]. Where the data do not need a channel, the KL
    divergence lets the noise grow until the channel is worth nothing. Model reduction
    finds such gates; a pruned gate is exactly 0.

    The random weight is called "noise". Its location variable is that of log(theta).

    Args:
        axis: Axis of the units or channels, not that of the batch.
        posterior: "truncated_log_normal", or a
            `keras_bmr.posteriors.TruncatedLogNormal`.
        prior: Prior, "log_uniform" on the interval of the posterior.
        num_examples: Number of training examples; usually set for the whole model
            by `keras_bmr.set_num_examples`.
        seed: Integer seed of the noise. Two layers with the same seed draw the same
            noise; None takes a new one.
        **kwargs: Arguments of `keras.layers.Layer`, for example `name`.

    Raises:
        ValueError: If an argument is invalid.

    Example:
        >>> layer = keras_bmr.layers.MultiplicativeNoise(num_examples=60000)
        >>> layer(keras.ops.ones((2, 4)), training=True).shape
        TensorShape([2, 4])

    References:
        Neklyudov, Molchanov, Ashukha and Vetrov, Structured Bayesian pruning via
        log-normal multiplicative noise, arXiv 1705.07283, section 3.
    """

    RANDOM_WEIGHTS = {"noise": "noise"}
    BIASES = {}

    def __init__(
        self,
        axis: int = -1,
        posterior: Any = "truncated_log_normal",
        prior: Any = "log_uniform",
        num_examples: int | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            posterior=posterior,
            prior=prior,
            num_examples=num_examples,
            seed=seed,
            **kwargs,
        )
        if not isinstance(self._posterior_family, posteriors.TruncatedLogNormal):
            raise ValueError(
                "`posterior` must be 'truncated_log_normal' or an instance of "
                "`keras_bmr.posteriors.TruncatedLogNormal`: a gate is a positive "
                f"factor. Received: posterior={posterior!r}"
            )
        if not isinstance(axis, int | np.integer) or isinstance(axis, bool) or not axis:
            raise ValueError(
                "`axis` must be the integer axis of the units or channels, and not 0, "
                f"that of the batch. Received: axis={axis!r}"
            )
        self.axis = int(axis)
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the variables."""
        rank = len(input_shape)
        if not -rank < self.axis < rank or input_shape[self.axis] is None:
            raise ValueError(
                f"Axis {self.axis} of the input of layer '{self.name}' must be one of "
                "its axes besides that of the batch, and have a known size. Received: "
                f"input_shape={tuple(input_shape)}"
            )
        axis = self.axis % rank
        num_channels = input_shape[axis]
        self.input_spec = keras.layers.InputSpec(ndim=rank, axes={axis: num_channels})
        self.noise = self.add_weight(
            name="noise",
            shape=(num_channels,),
            initializer="zeros",
            trainable=True,
            autocast=False,
        )
        self.closed = self.add_weight(
            name="closed",
            shape=(num_channels,),
            initializer="zeros",
            trainable=False,
            dtype="bool",
        )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Multiplies by drawn factors, or by their means."""
        if self.draws_weights(training):
            (seed,) = self.next_seeds(1)
            num_draws = () if is_sampling() else ops.shape(inputs)[:1]
            factor = self._posterior_family.sample(
                self.scaled_draw("noise", seed), seed, num_draws
            )
            # Zero in value, yet the gradient goes on: without it a closed gate could
            # never learn that it should open.
            closed = self.closed.value
            factor = tf.where(closed, factor - tf.stop_gradient(factor), factor)
        else:
            factor = self.posterior_means()["noise"]
        shape = [1] * len(inputs.shape)
        shape[0] = -1
        shape[self.axis] = factor.shape[-1]
        factor = ops.reshape(ops.cast(factor, self.compute_dtype), shape)
        return inputs * factor

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """The shape of the input."""
        return input_shape

    def close(self, closed: Any) -> None:
        """Sets gates to 0 for the time being; they keep their posteriors.

        A closed gate lets nothing pass, in training neither, but its posterior is
        trained on: the KL divergence counts, and the loss tells the gate what opening
        it would do. `prune` closes a gate for good.

        Args:
            closed: Boolean array of shape (channels,), True for the gates to close;
                all others open.

        Raises:
            ValueError: If the layer is not built or `closed` has another shape.
        """
        shape = tuple(self.mask("noise").shape)
        closed = np.asarray(closed, bool)
        if closed.shape != shape:
            raise ValueError(
                f"`closed` must have one entry per gate of layer '{self.name}', shape "
                f"{shape}. Received: closed.shape={closed.shape}"
            )
        self.closed.assign(closed)

    def posterior_means(self) -> dict[str, tf.Tensor]:
        """The expected factors, 0 where a gate is pruned or closed."""
        (mean,) = super().posterior_means().values()
        return {"noise": tf.where(self.closed.value, tf.zeros((), mean.dtype), mean)}

    def drawn_weights(self) -> dict[str, tf.Tensor]:
        """One draw of the factors, 0 where a gate is pruned or closed."""
        (factor,) = super().drawn_weights().values()
        return {"noise": tf.where(self.closed.value, tf.zeros_like(factor), factor)}

    def deterministic_layer(self) -> keras.layers.Layer:
        """The Keras layer that multiplies by the expected factors."""
        factors = self.posterior_means()["noise"].numpy()
        num_axes_behind = self.input_spec.ndim - 1 - next(iter(self.input_spec.axes))
        factors = factors.reshape(-1, *(1,) * num_axes_behind)
        return keras.layers.Rescaling(factors.tolist(), **self.parent_config())

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        config = {**super().get_config(), "axis": self.axis}
        # What a layer with one weight and one way of drawing it has no choice of.
        del config["estimator"], config["bayesian_bias"]
        return config
