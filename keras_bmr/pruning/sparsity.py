"""The share of a model's weights that are zero."""

from collections.abc import Iterator

import keras
import numpy as np

from keras_bmr.layers.traversal import (
    require_variational_layers,
    variational_layers,
)
from keras_bmr.pruning.prunable_weight import ordinary_kernels


def sparsity(model: keras.Model) -> float:
    """The share of prunable weights that are zero. It changes nothing.

    In a Bayesian model prunable is what has a posterior, and zero what its mask
    prunes. In an ordinary Keras model prunable are the kernels that would get a
    posterior in `to_variational`, and zero is what is exactly zero.

    Args:
        model: A built Keras model.

    Returns:
        Share in [0, 1].

    Raises:
        ValueError: If the model has no prunable weight, or Bayesian layers that are
            not built.

    Example:
        >>> keras_bmr.sparsity(reduced)
        0.9
    """
    num_zeros = num_weights = 0
    for nonzero in _nonzero_masks(model):
        num_weights += nonzero.size
        num_zeros += nonzero.size - np.count_nonzero(nonzero)
    if num_weights == 0:
        raise ValueError(
            f"Model '{model.name}' has no prunable weight: no Bayesian layer, and no "
            "built Keras layer that one could stand for."
        )
    return float(num_zeros / num_weights)


def _nonzero_masks(model: keras.Model) -> Iterator[np.ndarray]:
    """Yields a boolean array for each prunable weight, False for zeros."""
    if variational_layers(model):
        for layer in require_variational_layers(model):
            for name in layer.random_weight_names:
                yield layer.mask(name).numpy()
        return
    for weight in ordinary_kernels(model):
        yield weight.variable.numpy() != 0
