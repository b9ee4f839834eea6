"""Distributions that TensorFlow Probability lacks; importing registers their KLs."""

from keras_bmr.distributions import (
    log_normal_gamma,
    truncated_log_normal_divergence,
)
from keras_bmr.distributions.continuous_spike_and_slab import ContinuousSpikeAndSlab
from keras_bmr.distributions.discrete_normal import DiscreteNormal, log_grid_sum
from keras_bmr.distributions.grid import Grid
from keras_bmr.distributions.log_scale_normal import LogScaleNormal
from keras_bmr.distributions.log_uniform import LogUniform
from keras_bmr.distributions.numerics import log_normal_mass
from keras_bmr.distributions.regularized_horseshoe import (
    RegularizedHorseshoe,
    regularized_log_scale,
)
from keras_bmr.distributions.spike_and_slab import SpikeAndSlab
from keras_bmr.distributions.truncated_log_normal import TruncatedLogNormal

__all__ = [
    "ContinuousSpikeAndSlab",
    "DiscreteNormal",
    "Grid",
    "LogScaleNormal",
    "LogUniform",
    "RegularizedHorseshoe",
    "SpikeAndSlab",
    "TruncatedLogNormal",
    "log_grid_sum",
    "log_normal_gamma",
    "log_normal_mass",
    "regularized_log_scale",
    "truncated_log_normal_divergence",
]
