"""The interface of a posterior family."""

from collections.abc import Callable, Mapping

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd


class Posterior:
    """Family of variational posteriors of one weight tensor.

    An instance holds settings only and may serve many weights; the variables
    live in the layer, which passes them to each method. The location of the
    posterior is the variable of the Keras layer itself (its kernel, say).
    """

    def add_weights(
        self, add_weight: Callable[..., keras.Variable], shape: tuple[int, ...]
    ) -> dict[str, keras.Variable]:
        """Creates the variables that the family needs besides the location.

        Args:
            add_weight: As `keras.layers.Layer.add_weight`; it prefixes names with
                that of the weight.
            shape: Shape of the weight.

        Returns:
            The variables by name.
        """
        raise NotImplementedError

    def distribution(
        self, location: tf.Tensor, state: Mapping[str, keras.Variable]
    ) -> tfd.Distribution:
        """The posterior at the current values.

        Args:
            location: Value of the location variable.
            state: The variables of `add_weights`.

        Returns:
            A `tfd` distribution whose batch shape is that of the weight.
        """
        raise NotImplementedError

    def sample(self, distribution: tfd.Distribution, seed: tf.Tensor) -> tf.Tensor:
        """Draws the weight once, reparameterised.

        Args:
            distribution: What `distribution` or `rescale` returned.
            seed: Integer tensor of shape (2,).

        Returns:
            Tensor with the shape of the weight.
        """
        raise NotImplementedError

    def moments(self, distribution: tfd.Distribution) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and variance of every weight.

        Args:
            distribution: What `distribution` or `rescale` returned.

        Returns:
            The mean and the variance, each with the shape of the weight.
        """
        return distribution.mean(), distribution.variance()

    def rescale(
        self,
        distribution: tfd.Distribution,
        scale: tf.Tensor | None,
        mask: tf.Tensor,
    ) -> tfd.Distribution:
        """The distribution of `scale * w` where `mask` holds and of 0 elsewhere.

        Args:
            distribution: What `distribution` returned, of `w`.
            scale: Positive factor, broadcast to the weight; None stands for 1.
            mask: Boolean tensor with the shape of the weight.

        Returns:
            A distribution of the same family.
        """
        raise NotImplementedError

    def assign(
        self,
        distribution: tfd.Distribution,
        location: keras.Variable,
        state: Mapping[str, keras.Variable],
        mask: tf.Tensor,
    ) -> None:
        """Writes a distribution of this family into the variables.

        Args:
            distribution: For example a reduced posterior.
            location: The location variable.
            state: The variables of `add_weights`.
            mask: Boolean tensor; where it is False the location becomes 0 and the
                variables of `state` stay as they are.

        Raises:
            ValueError: If `distribution` is of another family.
        """
        raise NotImplementedError
