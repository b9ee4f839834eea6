"""Bayesian layers that are linear in one kernel: dense, convolutions, embedding."""

from typing import Any

import tensorflow as tf
from keras import ops
from tensorflow_probability import distributions as tfd

from keras_bmr.layers.estimators import ESTIMATORS
from keras_bmr.layers.variational import Variational
from keras_bmr.posteriors.sampling import is_sampling


class LinearVariational(Variational):
    """Mixin for a layer whose output is linear(inputs, kernel), bias, activation.

    Such a layer can choose among the estimators. A subclass says what the linear map
    is; everything else is here.
    """

    ESTIMATORS = tuple(ESTIMATORS)
    # Where flipout's signs vary, besides the batch axis.
    input_channel_axes: tuple[int, ...] = (-1,)
    output_channel_axes: tuple[int, ...] = (-1,)

    def linear(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """The linear map of the layer, without bias and activation.

        Args:
            inputs: Input of the layer.
            kernel: Value of the kernel, in the dtype of the inputs if they are
                floating.

        Returns:
            Output before bias and activation.
        """
        raise NotImplementedError

    def linear_of_squares(self, inputs: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
        """The variance of the output, given the variances of the kernel.

        Args:
            inputs: Input of the layer.
            variance: Variances of the kernel, whose dtype the result shall have.

        Returns:
            Variance of the output, with the shape of the output.
        """
        return self.linear(ops.square(ops.cast(inputs, variance.dtype)), variance)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the variables."""
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Calls the layer with drawn weights, or as its Keras parent at the means."""
        # An estimator is for gradients; `sampling` asks for one draw of the weights
        # that all examples share.
        if is_sampling() or not training:
            return super().call(inputs, training=training)
        seeds = dict(zip(self._random, self.next_seeds(len(self._random)), strict=True))
        drawn = {name: self.scaled_draw(name, seed) for name, seed in seeds.items()}
        estimator = ESTIMATORS[self.estimator]
        (kernel,) = self.RANDOM_WEIGHTS
        outputs = estimator(self, inputs, drawn[kernel], seeds[kernel])
        bias = getattr(self, "bias", None)
        if bias is not None:
            if "bias" in drawn:
                bias = ops.cast(
                    self.sample(drawn["bias"], seeds["bias"]), self.compute_dtype
                )
            outputs = ops.add(outputs, self.broadcast_bias(bias))
        activation = getattr(self, "activation", None)
        return outputs if activation is None else activation(outputs)

    def broadcast_bias(self, bias: Any) -> Any:
        """The bias in a shape that broadcasts to the output."""
        if getattr(self, "data_format", None) == "channels_first":
            return ops.reshape(bias, (1, -1) + (1,) * self.rank)
        return bias

    def moments(self, kernel: tfd.Distribution) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and variance of a posterior, see `Posterior.moments`."""
        return self._posterior_family.moments(kernel)

    def centre_and_deviation(
        self, kernel: tfd.Distribution, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """A draw from a posterior, see `Posterior.centre_and_deviation`."""
        return self._posterior_family.centre_and_deviation(kernel, seed)

    def sample(self, kernel: tfd.Distribution, seed: tf.Tensor) -> tf.Tensor:
        """A draw from a posterior, see `Posterior.sample`."""
        return self._posterior_family.sample(kernel, seed)
