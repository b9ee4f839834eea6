"""What a Bayesian model is trained for, and how its predictions are judged."""

from keras_bmr.objectives.calibration import (
    accuracy,
    expected_calibration_error,
    negative_log_likelihood,
)
from keras_bmr.objectives.kl_weight import kl_factor, set_kl_factor, set_num_examples
from keras_bmr.objectives.log_likelihood import LogLikelihood
from keras_bmr.objectives.predictive import (
    PredictiveMoments,
    predictive,
    predictive_moments,
)

__all__ = [
    "LogLikelihood",
    "PredictiveMoments",
    "accuracy",
    "expected_calibration_error",
    "kl_factor",
    "negative_log_likelihood",
    "predictive",
    "predictive_moments",
    "set_kl_factor",
    "set_num_examples",
]
