"""The values of a layer's weights, and which of them are zero for good."""

import keras
import numpy as np

from keras_bmr.layers import Variational
from keras_bmr.layers.variable_paths import variable_at


class LayerWeights:
    """The weights of one layer by the path of their variable, such as "cell.kernel".

    Args:
        layer: A built layer.
    """

    def __init__(self, layer: keras.layers.Layer) -> None:
        self.layer = layer
        self._random = random_weights(layer)
        self._nonzero: dict[str, np.ndarray] = {}

    def value(self, path: str) -> np.ndarray:
        """A weight as it is outside training.

        Args:
            path: Path of the variable.

        Returns:
            Float64 array; of a Bayesian weight the posterior mean.
        """
        name = self._random.get(path)
        if name is None:
            value = variable_at(self.layer, path)
        else:
            value = self.layer.posterior_means()[name]
        return np.asarray(keras.ops.cast(value, "float32"), "float64")

    def nonzero(self, path: str) -> np.ndarray:
        """Which entries are there.

        Args:
            path: Path of the variable.

        Returns:
            Boolean array; of a Bayesian weight its mask.
        """
        if path not in self._nonzero:
            name = self._random.get(path)
            self._nonzero[path] = (
                self.value(path) != 0 if name is None else self.layer.mask(name).numpy()
            )
        return self._nonzero[path]

    def is_random(self, path: str) -> bool:
        """Whether a weight has a posterior.

        Args:
            path: Path of the variable.

        Returns:
            True if it has.
        """
        return path in self._random

    def has(self, path: str) -> bool:
        """Whether the layer has a weight.

        Args:
            path: Path of the variable.

        Returns:
            True if it has.
        """
        return variable_at(self.layer, path) is not None


def random_weights(layer: keras.layers.Layer) -> dict[str, str]:
    """Names of the weights that have a posterior.

    Args:
        layer: A built layer.

    Returns:
        The names, as in `random_weight_names`, by the path of the variable.
    """
    if not isinstance(layer, Variational):
        return {}
    paths = {**layer.RANDOM_WEIGHTS, **layer.BIASES}
    return {paths[name]: name for name in layer.random_weight_names}
