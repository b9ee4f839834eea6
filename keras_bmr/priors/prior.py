"""The interface of a prior."""

from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_bmr.posteriors.posterior import Posterior


class Prior:
    """Prior of one weight tensor.

    An instance holds settings only and may serve many weights; variables, if the
    prior learns any, live in the layer, which passes them to each method.

    A prior may be hierarchical, w = c * v with a positive random scale `c`, one for
    the whole tensor or one per unit. Posterior and prior are then those of the
    standardised weight `v`; `sample_scale`, `expected_scale` and `scale_divergence`
    speak of `c`.

    Attributes:
        spike: Kind of the spike of a prior with an inclusion rate; the posterior
            must be of the same kind.
    """

    spike: str | None = None

    def check_posterior(self, posterior: Posterior) -> None:
        """Checks that a family of posteriors can stand under this prior.

        Args:
            posterior: The family.

        Raises:
            ValueError: If only one of the two has a spike, or they have different
                ones.
        """
        if posterior.spike != self.spike:
            raise ValueError(
                f"A {type(posterior).__name__} posterior cannot stand under a "
                f"{type(self).__name__} prior: the divergence needs a spike in both or "
                "in neither. Leave `prior` out, or give "
                f"prior='{posterior.default_prior}'. Received: "
                f"posterior.spike={posterior.spike!r}, prior.spike={self.spike!r}"
            )

    def add_weights(
        self, add_weight: Callable[..., keras.Variable], shape: tuple[int, ...]
    ) -> dict[str, keras.Variable]:
        """Creates the variables that the prior learns.

        Args:
            add_weight: As `keras.layers.Layer.add_weight`; it prefixes names with
                that of the weight.
            shape: Shape of the weight.

        Returns:
            The variables by name; none by default.
        """
        del add_weight, shape
        return {}

    def distribution(
        self,
        posterior: tfd.Distribution,
        state: Mapping[str, keras.Variable],
        mask: tf.Tensor,
    ) -> tfd.Distribution:
        """The prior at the current values.

        Args:
            posterior: The posterior of the (standardised) weight; priors chosen by
                empirical Bayes depend on it.
            state: The variables of `add_weights`.
            mask: Boolean tensor with the shape of the weight, False where pruned.

        Returns:
            A `tfd` distribution that broadcasts to the shape of the weight.
        """
        raise NotImplementedError

    def divergence(
        self,
        posterior: tfd.Distribution,
        state: Mapping[str, keras.Variable],
        mask: tf.Tensor,
    ) -> tf.Tensor:
        """KL(posterior || prior) in nats, summed over the weights that are left.

        Args:
            posterior: The posterior of the (standardised) weight.
            state: The variables of `add_weights`.
            mask: Boolean tensor with the shape of the weight, False where pruned.

        Returns:
            Scalar tensor; that of a random scale is part of it.
        """
        prior = self.distribution(posterior, state, mask)
        divergence = masked_sum(tfd.kl_divergence(posterior, prior), mask)
        of_scale = self.scale_divergence(state, mask)
        return divergence if of_scale is None else divergence + of_scale

    def scale_divergence(
        self, state: Mapping[str, keras.Variable], mask: tf.Tensor
    ) -> tf.Tensor | None:
        """KL of the random scale of a hierarchical prior, in nats.

        Args:
            state: The variables of `add_weights`.
            mask: Boolean tensor with the shape of the weight, False where pruned.

        Returns:
            Scalar tensor; None if the prior has no such scale.
        """
        del state, mask
        return None

    def update(
        self,
        posterior: tfd.Distribution,
        state: Mapping[str, keras.Variable],
        mask: tf.Tensor,
    ) -> None:
        """Sets variables whose optimum has a closed form; nothing by default.

        Called after every step of the optimiser.

        Args:
            posterior: The posterior of the (standardised) weight.
            state: The variables of `add_weights`.
            mask: Boolean tensor with the shape of the weight, False where pruned.
        """
        del posterior, state, mask

    def sample_scale(
        self,
        state: Mapping[str, keras.Variable],
        seed: tf.Tensor,
        sample_shape: Sequence[int] = (),
    ) -> tf.Tensor | None:
        """Draws the random scale of a hierarchical prior.

        Args:
            state: The variables of `add_weights`.
            seed: Integer tensor of shape (2,).
            sample_shape: Shape of independent draws; one draw by default.

        Returns:
            Positive tensor, the shape of the draws followed by one that broadcasts to
            the weight; None if the prior has no such scale.
        """
        del state, seed, sample_shape
        return None

    def expected_scale(self, state: Mapping[str, keras.Variable]) -> tf.Tensor | None:
        """Posterior mean of the random scale of a hierarchical prior.

        Args:
            state: The variables of `add_weights`.

        Returns:
            Positive tensor that broadcasts to the weight; None if the prior has no
            such scale.
        """
        del state
        return None

    def get_config(self) -> dict[str, float]:
        """The arguments of the constructor.

        Returns:
            Dictionary for `from_config`.
        """
        return {}

    @classmethod
    def from_config(cls, config: dict[str, float]) -> "Prior":
        """Builds the prior from its config.

        Args:
            config: What `get_config` returned.

        Returns:
            The prior.
        """
        return cls(**config)


def masked_sum(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Sums the entries where the mask holds.

    Args:
        values: Floating tensor.
        mask: Boolean tensor of the same shape.

    Returns:
        Scalar tensor.
    """
    kept = tf.where(mask, values, tf.zeros((), values.dtype))
    rows = tf.reshape(kept, (-1, kept.shape[-1] if kept.shape.rank else 1))
    # On a CPU XLA adds up a reduction one number after the other, together with all
    # that is fused into it; a product with ones is vectorised.
    return tf.reduce_sum(tf.linalg.matvec(rows, tf.ones(rows.shape[-1:], rows.dtype)))
