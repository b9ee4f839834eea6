"""Hierarchical prior with a regularised-horseshoe scale per unit."""

from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_bmr.argument_checks import require_positive
from keras_bmr.distributions import regularized_log_scale
from keras_bmr.posteriors.sampling import fold_in
from keras_bmr.priors.half_cauchy_normal import (
    HalfCauchyScales,
    draw,
    half_cauchy_divergence,
    half_log_ratio,
)
from keras_bmr.priors.log_normal_variables import (
    add_log_normal,
    gamma_divergence,
    log_normal,
)

_NUM_NODES = 20


@keras.saving.register_keras_serializable(package="keras_bmr")
class RegularizedHorseshoe(HalfCauchyScales):
    """The prior w_i = s_i v_i, v ~ N(0, 1), with a horseshoe scale s_i per unit.

        s_i^2 = psi_i / (u_i + psi_i / c^2),  psi_i = t^2 a_i,  t^2 = t0^2 z0 / z1
        z0, z1, u_i, a_i ~ Gamma(1/2, 1),  c^-2 ~ Gamma(concentration, rate)

    That is, a half-Cauchy scale for the tensor times one for each unit, bounded by
    the slab c. Units that the data do not ask for shrink towards zero together with
    all of their weights. The posteriors of the Gamma variables are log-normal and
    trained with the weights, their divergences are exact, and the parametrisation is
    non-centred: the posterior of the layer is that of `v`. Scales are computed from
    their logarithms alone, so that none of them can overflow or become NaN where it
    is tiny. They start just below 1, not at t0, where gradients would vanish.

    At inference the network uses E[s_i].

    Args:
        global_scale: Positive float t0, the median of the global scale.
        slab_concentration: Positive float, the shape of the slab's precision.
        slab_rate: Positive float, its rate (inverse scale).
        axis: Negative integer, the axis of the weight whose entries are the units:
            -1 for the outputs of dense layers and convolutions, -2 for their inputs,
            or the channels of a depthwise convolution. A weight without that axis,
            such as a bias for -2, has one scale.

    Raises:
        ValueError: If a number is not positive and finite, or `axis` is no negative
            integer.

    Example:
        >>> features = keras_bmr.priors.RegularizedHorseshoe(axis=-2)
        >>> keras_bmr.layers.DenseVariational(10, prior=features)

    References:
        Markovic, Friston and Kiebel, Bayesian sparsification for deep neural
        networks with Bayesian model reduction, arXiv 2309.12095 (the tiered network).
        Piironen and Vehtari, arXiv 1707.01694, section 2.3.
    """

    def __init__(
        self,
        global_scale: float = 0.01,
        slab_concentration: float = 2.0,
        slab_rate: float = 6.0,
        axis: int = -1,
    ) -> None:
        super().__init__(global_scale)
        require_positive("slab_concentration", slab_concentration)
        require_positive("slab_rate", slab_rate)
        if isinstance(axis, bool) or not isinstance(axis, int) or axis >= 0:
            raise ValueError(
                "`axis` must be a negative integer, counted from the end, since "
                f"weights of several ranks share a prior. Received: axis={axis!r}"
            )
        self.slab_concentration = float(slab_concentration)
        self.slab_rate = float(slab_rate)
        self.axis = axis

    def _scale_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the scales, which broadcasts to that of the weight."""
        own = len(shape) + self.axis
        return tuple(size if axis == own else 1 for axis, size in enumerate(shape))

    def add_weights(
        self, add_weight: Callable[..., keras.Variable], shape: tuple[int, ...]
    ) -> dict[str, keras.Variable]:
        """See `Prior.add_weights`."""
        units = self._scale_shape(tuple(shape))
        mean_precision = self.slab_concentration / self.slab_rate
        return {
            **add_log_normal(add_weight, "global_numerator", (), 1.0),
            **add_log_normal(add_weight, "global_denominator", (), 1.0),
            **add_log_normal(add_weight, "local_numerator", units, 1.0),
            # Here a scale of 1 instead of t0 costs least, a few nats.
            **add_log_normal(
                add_weight, "local_denominator", units, self.global_scale**2
            ),
            **add_log_normal(add_weight, "slab_precision", (), mean_precision),
        }

    def scale_divergence(
        self, state: Mapping[str, keras.Variable], mask: tf.Tensor
    ) -> tf.Tensor:
        """See `Prior.scale_divergence`; units without weights left have no share."""
        local = half_cauchy_divergence(state, "local")
        others = [i for i, size in enumerate(local.shape) if size == 1]
        kept = tf.reduce_any(mask, axis=others, keepdims=True)
        slab = gamma_divergence(
            log_normal(state, "slab_precision"), self.slab_concentration, self.slab_rate
        )
        return (
            half_cauchy_divergence(state, "global")
            + slab
            + tf.reduce_sum(tf.where(kept, local, tf.zeros((), local.dtype)))
        )

    def _unbounded_log_scale(self, state: Mapping[str, keras.Variable]) -> tfd.Normal:
        """The posteriors of log sqrt(psi_i / u_i), each for itself."""
        global_part = self.global_log_scale(state)
        local = self._local_log_scale(state)
        return tfd.Normal(
            global_part.loc + local.loc,
            tf.sqrt(tf.square(global_part.scale) + tf.square(local.scale)),
        )

    def _local_log_scale(self, state: Mapping[str, keras.Variable]) -> tfd.Normal:
        return half_log_ratio(
            log_normal(state, "local_numerator"), log_normal(state, "local_denominator")
        )

    def _slab_log_scale(self, state: Mapping[str, keras.Variable]) -> tfd.Normal:
        precision = log_normal(state, "slab_precision")
        return tfd.Normal(-0.5 * precision.loc, 0.5 * precision.scale)

    def sample_scale(
        self,
        state: Mapping[str, keras.Variable],
        seed: tf.Tensor,
        sample_shape: Sequence[int] = (),
    ) -> tf.Tensor:
        """See `Prior.sample_scale`."""
        local = self._local_log_scale(state)
        # The global scale and the slab are the same for all units of a draw.
        common = (*sample_shape, *[1] * len(local.loc.shape))
        global_part, slab = (
            tf.reshape(draw(distribution, fold_in(seed, i), sample_shape), common)
            for i, distribution in enumerate(
                (self.global_log_scale(state), self._slab_log_scale(state))
            )
        )
        own = draw(local, fold_in(seed, 2), sample_shape)
        return tf.exp(regularized_log_scale(global_part + own, slab))

    def expected_scale(self, state: Mapping[str, keras.Variable]) -> tf.Tensor:
        """See `Prior.expected_scale`; by Gauss-Hermite quadrature."""
        scale = self._unbounded_log_scale(state)
        slab = self._slab_log_scale(state)
        nodes, weights = np.polynomial.hermite_e.hermegauss(_NUM_NODES)
        weights = weights / weights.sum()
        first, second = (grid.ravel() for grid in np.meshgrid(nodes, nodes))
        dtype = scale.dtype
        values = tf.exp(
            regularized_log_scale(
                scale.loc[..., tf.newaxis]
                + scale.scale[..., tf.newaxis] * tf.constant(first, dtype),
                slab.loc + slab.scale * tf.constant(second, dtype),
            )
        )
        product = tf.constant(np.outer(weights, weights).ravel(), dtype)
        return tf.reduce_sum(values * product, axis=-1)

    def get_config(self) -> dict[str, float]:
        """See `Prior.get_config`."""
        return {
            **super().get_config(),
            "slab_concentration": self.slab_concentration,
            "slab_rate": self.slab_rate,
            "axis": self.axis,
        }
