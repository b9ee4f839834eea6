"""Posterior and prior of each single weight, as model reduction asks for them."""

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_bmr.laplace.laplace_fit import LaplaceFit


class WeightPosteriors:
    """The part of `Laplace` that knows weights by layer and name."""

    prior_precisions: list[tf.Tensor]
    _names: list[tuple[keras.layers.Layer, str]]
    _variables: list[keras.Variable]

    def weights(self) -> list[tuple[keras.layers.Layer, str]]:
        """The weights with a posterior, as (layer, name), in the order of the model."""
        return list(self._names)

    @property
    def variables(self) -> list[keras.Variable]:
        """The variables of these weights."""
        return list(self._variables)

    def posterior(self, layer: keras.layers.Layer | str, name: str) -> tfd.Normal:
        """The posterior of a weight, entry by entry.

        Args:
            layer: The layer or its name.
            name: Name of the weight in its layer, for example "kernel".

        Returns:
            `tfd.Normal` of the weight's shape and dtype. Its scale is 1 / sqrt(P_kk):
            the spread of an entry while all others stay at the mode, which is what
            model reduction of single weights asks for. Of a Kronecker posterior it is
            less than the marginal spread; `predictive` draws from the full one.

        Raises:
            ValueError: If there is no such weight, or several layers have that name.
            RuntimeError: If `fit` was not called.
        """
        index = self._index(layer, name)
        fit = self._require_fit()
        precision = fit.posteriors[index].diagonal(
            self.prior_precisions[index], fit.curvature_scale(self._noise())
        )
        dtype = self._variables[index].dtype
        return tfd.Normal(
            tf.cast(fit.weights[index], dtype), tf.cast(precision**-0.5, dtype)
        )

    def prior(self, layer: keras.layers.Layer | str, name: str) -> tfd.Normal:
        """The prior of a weight under the current precision.

        Args:
            layer: The layer or its name.
            name: Name of the weight in its layer.

        Returns:
            `tfd.Normal` centred at 0, which broadcasts to the shape of the weight.

        Raises:
            ValueError: If there is no such weight, or several layers have that name.
        """
        index = self._index(layer, name)
        dtype = self._variables[index].dtype
        scale = tf.cast(self.prior_precisions[index] ** -0.5, dtype)
        return tfd.Normal(tf.zeros((), dtype), scale)

    def _index(self, layer: keras.layers.Layer | str, name: str) -> int:
        found = [
            index
            for index, (owner, weight) in enumerate(self._names)
            if weight == name and (layer is owner or layer == owner.name)
        ]
        if len(found) != 1:
            known = [f"{owner.name}/{weight}" for owner, weight in self._names]
            raise ValueError(
                f"Expected a layer and one of its weights out of {known}. Where layers "
                "of nested models share a name, pass the layer itself. Received: "
                f"layer={layer!r}, name={name!r}"
            )
        return found[0]

    def _noise(self) -> tf.Tensor:
        raise NotImplementedError

    def _require_fit(self) -> LaplaceFit:
        raise NotImplementedError
