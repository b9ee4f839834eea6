"""The Normal distribution on a grid, as of weights that are stored in few bits."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from keras_bmr.distributions.log_uniform import common_dtype

tfd = tfp.distributions

# Scale in grid steps from which on the sum over the frequencies takes over: there its
# third term and the eighth neighbour of the other sum are below 1e-16 of the first.
_WIDE = 0.75
_NUM_NEIGHBOURS, _NUM_FREQUENCIES = 8, 2
# A Normal of this scale in grid steps is constant, to 1e-19, when summed on the grid.
_SMOOTH = 1.5
_WINDOW = 14


def log_grid_sum(
    loc: tf.Tensor | float,
    scale: tf.Tensor | float,
    step: tf.Tensor | float,
    offset: tf.Tensor | float = 0.0,
) -> tf.Tensor:
    """Returns log(h sum_k N(t_k; loc, scale^2)) over the grid t_k = offset + k h.

    The trapezoidal rule for an integral that is 1: zero, exponentially closely, for
    steps of a scale or two, and large where a coarse grid has a point near `loc`. The
    sum runs over the nearest points where the Normal is narrow; where it is wide, over
    frequencies by Poisson's formula, `1 + 2 sum_n exp(-2 (pi n r)^2) cos(2 pi n f)`
    with r = scale / h and f h the distance of `loc` to a point.

    Args:
        loc: Tensor, mean of the Normal.
        scale: Tensor, its standard deviation, positive.
        step: Tensor, distance h of the points, positive.
        offset: Tensor, one of the points. All broadcast.

    Returns:
        Tensor of the broadcast shape.

    Example:
    >>> print(log_grid_sum(0.5, 0.1, np.float32([0.1, 0.3, 1.0])).numpy().round(3))
    [  0.     -0.118 -10.423]

    References:
        Trefethen, Weideman. The exponentially convergent trapezoidal rule. SIAM
        Review 56 (2014), section 2 (Poisson summation).
    """
    dtype = common_dtype(loc, scale, step, offset)
    loc, scale, step, offset = (
        tf.convert_to_tensor(value, dtype) for value in (loc, scale, step, offset)
    )
    width = scale / step
    position = (loc - offset) / step
    distance = position - tf.round(position)
    # Each sum gets harmless values where the other one counts: no nan in gradients.
    is_narrow = width < _WIDE
    narrow = tf.where(is_narrow, width, _WIDE)
    # The nearest point's term, which is the largest, is taken out of the sum.
    rest = tf.zeros_like(narrow * distance)
    for k in range(1, _NUM_NEIGHBOURS):
        for side in (-2 * k, 2 * k):
            rest += tf.exp(-0.5 * (k * k + side * distance) / narrow / narrow)
    direct = (
        tf.math.log1p(rest)
        - 0.5 * tf.square(distance / narrow)
        - tf.math.log(narrow)
        - 0.5 * math.log(2 * math.pi)
    )
    wide = tf.where(is_narrow, _WIDE, width)
    ripple = tf.zeros_like(wide * distance)
    for n in range(1, _NUM_FREQUENCIES + 1):
        damping = tf.exp(-2 * tf.square(math.pi * n * wide))
        ripple += 2 * damping * tf.cos(2 * math.pi * n * distance)
    return tf.where(is_narrow, direct, tf.math.log1p(ripple))


class DiscreteNormal(tfd.Distribution):
    """A Normal restricted to an infinite grid: the discrete Gaussian.

        P(t_k) proportional to exp(-(t_k - loc)^2 / (2 scale^2)), t_k = offset + k step

    for all integers k. As a prior it says that weights live on a grid, with the masses
    in proportion to the density of a Normal prior. `loc` need not be a point.

    Args:
        loc: Tensor, location of the Normal; the mean is near it but not equal.
        scale: Tensor, scale of the Normal, positive.
        step: Tensor, distance of neighbouring points, positive.
        offset: Tensor, one of the points. All broadcast.
        validate_args: Whether to check the arguments of methods.
        allow_nan_stats: Whether statistics may be NaN rather than raise.
        name: Name of the distribution.

    Raises:
        ValueError: If a scale or step is not positive.

    Example:
    >>> weight = DiscreteNormal(loc=0.3, scale=0.1, step=0.25)
    >>> print(weight.mode().numpy(), weight.prob([0.0, 0.25, 0.5]).numpy().round(3))
    0.25 [0.011 0.858 0.132]

    References:
        Canonne, Kamath, Steinke. The discrete Gaussian for differential privacy.
        arXiv:2004.00010, definition 1.
        Peikert. An efficient and parallel Gaussian sampler for lattices. CRYPTO 2010,
        theorem 3.1 (sampling by a continuous and a narrow discrete Gaussian).
    """

    def __init__(
        self,
        loc: tf.Tensor | float,
        scale: tf.Tensor | float,
        step: tf.Tensor | float,
        offset: tf.Tensor | float = 0.0,
        validate_args: bool = False,
        allow_nan_stats: bool = True,
        name: str = "DiscreteNormal",
    ) -> None:
        parameters = dict(locals())
        with tf.name_scope(name) as name:
            dtype = common_dtype(loc, scale, step, offset)
            self._loc = tf.convert_to_tensor(loc, dtype)
            self._scale = tf.convert_to_tensor(scale, dtype)
            self._step = tf.convert_to_tensor(step, dtype)
            self._offset = tf.convert_to_tensor(offset, dtype)
            check_steps(scale=self._scale, step=self._step)
            super().__init__(
                dtype=dtype,
                reparameterization_type=tfd.NOT_REPARAMETERIZED,
                validate_args=validate_args,
                allow_nan_stats=allow_nan_stats,
                parameters=parameters,
                name=name,
            )

    @classmethod
    def _parameter_properties(cls, dtype: tf.DType, num_classes: None = None) -> dict:
        properties = tfp.util.ParameterProperties
        return {name: properties() for name in ("loc", "scale", "step", "offset")}

    @property
    def loc(self) -> tf.Tensor:
        """Location of the Normal."""
        return self._loc

    @property
    def scale(self) -> tf.Tensor:
        """Scale of the Normal."""
        return self._scale

    @property
    def step(self) -> tf.Tensor:
        """Distance of neighbouring points."""
        return self._step

    @property
    def offset(self) -> tf.Tensor:
        """One of the points."""
        return self._offset

    def log_grid_sum(self) -> tf.Tensor:
        """The logarithm of `step` times the sum of the Normal's density."""
        return log_grid_sum(self._loc, self._scale, self._step, self._offset)

    def _event_shape(self) -> tf.TensorShape:
        return tf.TensorShape([])

    def _event_shape_tensor(self) -> tf.Tensor:
        return tf.constant([], tf.int32)

    def _nearest(self, value: tf.Tensor) -> tf.Tensor:
        position = tf.round((value - self._offset) / self._step)
        return self._offset + position * self._step

    def _log_prob(self, value: tf.Tensor) -> tf.Tensor:
        nearest = self._nearest(value)
        epsilon = np.finfo(self.dtype.as_numpy_dtype).eps
        on_grid = tf.abs(value - nearest) <= 4 * epsilon * tf.abs(value)
        density = tfd.Normal(self._loc, self._scale).log_prob(value)
        log_mass = density + tf.math.log(self._step) - self.log_grid_sum()
        return tf.where(on_grid, log_mass, -math.inf)

    def _sample_n(self, n: tf.Tensor, seed: tf.Tensor = None) -> tf.Tensor:
        wide_seed, narrow_seed = tfp.random.split_seed(seed, salt=self.name)
        shape = tf.concat([[n], self.batch_shape_tensor()], axis=0)
        # A wide one: continuous noise first, then a grid point at random around it.
        narrow = tf.minimum(self._scale, _SMOOTH * self._step)
        rest = tf.sqrt(tf.maximum(tf.square(self._scale) - tf.square(narrow), 0.0))
        center = self._loc + rest * tf.random.stateless_normal(
            shape, wide_seed, dtype=self.dtype, alg="philox"
        )
        ticks = tf.range(-_WINDOW, _WINDOW + 1, dtype=self.dtype)
        points = (
            self._nearest(center)[..., tf.newaxis] + ticks * self._step[..., tf.newaxis]
        )
        offset = (points - center[..., tf.newaxis]) / narrow[..., tf.newaxis]
        chosen = tfd.Categorical(logits=-0.5 * tf.square(offset)).sample(
            seed=narrow_seed
        )
        return tf.gather(points, chosen, axis=-1, batch_dims=chosen.shape.rank)

    def _mode(self) -> tf.Tensor:
        return self._nearest(self._loc) + tf.zeros_like(self._scale)


def check_steps(**parameters: tf.Tensor) -> None:
    """Raises unless the parameters, where known, are positive and finite."""
    if not tf.executing_eagerly():
        return
    for name, value in parameters.items():
        if not bool(tf.reduce_all((value > 0) & tf.math.is_finite(value))):
            raise ValueError(
                f"`{name}` must be positive and finite. Received: {name}="
                f"{value.numpy()}"
            )
