"""Bayesian layers, model reduction and export for Keras 3."""

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "keras_bmr needs Keras on the TensorFlow backend, since its distributions are "
        "those of TensorFlow Probability. Received: "
        f"keras.backend.backend()={keras.backend.backend()!r}. Set the environment "
        "variable KERAS_BACKEND=tensorflow before importing keras."
    )

from keras_bmr import (  # noqa: E402
    callbacks,
    distributions,
    export,
    laplace,
    layers,
    objectives,
    posteriors,
    priors,
    pruning,
    reduction,
)
from keras_bmr.export import ExportReport, export_tflite  # noqa: E402
from keras_bmr.layers import to_deterministic, to_variational  # noqa: E402
from keras_bmr.objectives import predictive, set_num_examples  # noqa: E402
from keras_bmr.pruning import (  # noqa: E402
    ModelReduction,
    inclusion_probabilities,
    reduce_model,
    shrink,
    sparsity,
)

__version__ = "0.1.0"

__all__ = [
    "ExportReport",
    "ModelReduction",
    "callbacks",
    "distributions",
    "export",
    "export_tflite",
    "inclusion_probabilities",
    "laplace",
    "layers",
    "objectives",
    "posteriors",
    "predictive",
    "priors",
    "pruning",
    "reduce_model",
    "reduction",
    "set_num_examples",
    "shrink",
    "sparsity",
    "to_deterministic",
    "to_variational",
]
