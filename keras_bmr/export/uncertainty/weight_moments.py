"""Mean and variance of the weights of a layer."""

import keras
import numpy as np
import tensorflow as tf

from keras_bmr.layers import LinearVariational, Variational
from keras_bmr.layers.registry import variational_class
from keras_bmr.layers.variable_paths import variable_at


class WeightMoments:
    """The weights of one layer of a deterministic network and their posteriors.

    Args:
        layer: The plain Keras layer; an operation has no weights.
        original: The layer of the Bayesian model that it stands for.

    Attributes:
        linear_layer: A Bayesian layer that has the linear map of the layer; None if
            the layer is not linear in one kernel.

    Raises:
        ValueError: If a posterior has an infinite or undefined variance.
    """

    def __init__(self, layer: keras.Operation, original: keras.Operation) -> None:
        self._layer = layer
        self._posteriors: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.linear_layer = _linear_layer(layer, original)
        if not isinstance(original, Variational):
            return
        means = original.posterior_means()
        variances = {name: original.posterior(name).variance() for name in means}
        for name, mean in means.items():
            variance = np.asarray(variances[name], "float32")
            if not np.all(np.isfinite(variance)):
                raise ValueError(
                    f"Weight '{name}' of layer '{original.name}' has a posterior "
                    f"without a finite variance, {original.posterior(name)!r}."
                )
            self._posteriors[name] = np.asarray(mean, "float32"), variance

    @property
    def are_certain(self) -> bool:
        """Whether no weight of the layer has a posterior."""
        return not self._posteriors

    def moments(self, name: str) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Mean and variance of a weight.

        Args:
            name: Name of the weight, such as "kernel".

        Returns:
            Arrays of the weight's shape, the variance None if the weight is certain;
            (None, None) if the layer has no such weight.
        """
        if name in self._posteriors:
            return self._posteriors[name]
        variable = variable_at(self._layer, name)
        if variable is None:
            return None, None
        # A value, also while a function is traced.
        with tf.init_scope():
            return np.asarray(variable.value, "float32"), None


def _linear_layer(
    layer: keras.Operation, original: keras.Operation
) -> LinearVariational | None:
    if isinstance(original, LinearVariational):
        return original
    variational = variational_class(type(layer))
    if variational is None or not issubclass(variational, LinearVariational):
        return None
    # The Bayesian class knows the linear map; the config is all that takes.
    return variational.from_config(layer.get_config())
