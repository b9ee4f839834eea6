"""What runs during `model.fit`."""

from keras_bmr.callbacks.bayes_factor_pruning import BayesFactorPruning
from keras_bmr.callbacks.continuous_reduction import ContinuousReduction
from keras_bmr.callbacks.kl_annealing import KLAnnealing
from keras_bmr.callbacks.marginal_likelihood import MarginalLikelihood
from keras_bmr.callbacks.model_reduction_callback import ModelReductionCallback
from keras_bmr.callbacks.reduction_schedule import ReductionSchedule

__all__ = [
    "BayesFactorPruning",
    "ContinuousReduction",
    "KLAnnealing",
    "MarginalLikelihood",
    "ModelReductionCallback",
    "ReductionSchedule",
]
