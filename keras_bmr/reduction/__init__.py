"""Bayesian model reduction of `tfd` distributions; importing registers all rules."""

from keras_bmr.reduction.model_reduction import (
    Reduction,
    RegisterModelReduction,
    model_reduction,
)
from keras_bmr.reduction.normal import reduce_normal

__all__ = [
    "Reduction",
    "RegisterModelReduction",
    "model_reduction",
    "reduce_normal",
]
