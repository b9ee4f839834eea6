"""The interface of a posterior family."""

from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd


class Posterior:
    """Family of variational posteriors of one weight tensor.

    An instance holds settings only and may serve many weights; the variables
    live in the layer, which passes them to each method. The location of the
    posterior is the variable of the Keras layer itself (its kernel, say).

    Attributes:
        pruned_location: What the location variable holds where a weight is pruned.
        spike: Kind of the spike of a family with inclusion probabilities; the prior
            must be of the same kind.
        default_prior: Name of the prior unless another one is asked for.
    """

    pruned_location: float = 0.0
    spike: str | None = None
    default_prior: str = "empirical_bayes_normal"

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

    def sample(
        self,
        distribution: tfd.Distribution,
        seed: tf.Tensor,
        sample_shape: Sequence[int] | tf.Tensor = (),
    ) -> tf.Tensor:
        """Draws the weight, reparameterised.

        Args:
            distribution: What `distribution` or `rescale` returned.
            seed: Integer tensor of shape (2,).
            sample_shape: Shape of independent draws; one draw by default.

        Returns:
            Tensor with the shape of the draws, followed by that of the weight.
        """
        raise NotImplementedError

    def centre_and_deviation(
        self, distribution: tfd.Distribution, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Draws the weight once as the sum of a centre and a symmetric deviation.

        The sign of the deviation can be flipped without changing the distribution of
        the sum, which is what flipout needs. The centre may be random.

        Args:
            distribution: What `distribution` or `rescale` returned.
            seed: Integer tensor of shape (2,).

        Returns:
            The centre and the deviation, each with the shape of the weight.
        """
        mean, _ = self.moments(distribution)
        return mean, self.sample(distribution, seed) - mean

    def update(
        self,
        location: tf.Tensor,
        state: Mapping[str, keras.Variable],
        prior: tfd.Distribution,
    ) -> None:
        """Sets variables whose optimum has a closed form; nothing by default.

        Called after every step of the optimiser, before the prior's `update`.

        Args:
            location: Value of the location variable.
            state: The variables of `add_weights`.
            prior: The prior of the (standardised) weight.
        """
        del location, state, prior

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
            mask: Boolean tensor; where it is False the location becomes
                `pruned_location` and the variables of `state` stay as they are.

        Raises:
            ValueError: If `distribution` is of another family.
        """
        raise NotImplementedError

    def assign_mean(
        self,
        mean: tf.Tensor,
        location: keras.Variable,
        state: Mapping[str, keras.Variable],
    ) -> None:
        """Moves the posterior to a given mean; its spread stays as it is.

        Args:
            mean: Tensor with the shape and dtype of the location.
            location: The location variable.
            state: The variables of `add_weights`.

        Raises:
            ValueError: If the family has no member of that mean.
        """
        del state
        location.assign(mean)
