"""Bayesian model reduction of `tfd` distributions; importing registers all rules."""

from keras_bmr.reduction import (
    grid,
    independent,
    multivariate_normal,
    normal,
    savage_dickey,
    truncated_log_normal,
)
from keras_bmr.reduction.model_reduction import (
    Reduction,
    RegisterModelReduction,
    model_reduction,
)
from keras_bmr.reduction.monte_carlo import MonteCarloEstimate, monte_carlo_delta_f

__all__ = [
    "MonteCarloEstimate",
    "Reduction",
    "RegisterModelReduction",
    "grid",
    "independent",
    "model_reduction",
    "monte_carlo_delta_f",
    "multivariate_normal",
    "normal",
    "savage_dickey",
    "truncated_log_normal",
]
