import keras
import numpy as np
import pytest
from tensorflow_probability import distributions as tfd

import keras_bmr
from keras_bmr.layers import variational_layers


def assign_random_posteriors(model, seed=0):
    """Posteriors of which some clearly can be spared and some cannot."""
    generator = np.random.default_rng(seed)
    for layer in variational_layers(model):
        for name in layer.random_weight_names:
            shape = layer.mask(name).shape
            loc = generator.normal(scale=0.6, size=shape)
            scale = np.exp(generator.uniform(np.log(0.02), np.log(0.6), shape))
            layer.assign_posterior(
                name, tfd.Normal(loc.astype("float32"), scale.astype("float32"))
            )


@pytest.fixture
def dense_model():
    """Two dense layers of 10 x 8 and 8 x 3 weights with a fixed prior N(0, 1)."""
    model = keras.Sequential(
        [
            keras.Input((10,)),
            keras.layers.Dense(8, activation="relu", name="hidden"),
            keras.layers.Dense(3, name="output"),
        ]
    )
    model = keras_bmr.to_variational(
        model, num_examples=50, prior=keras_bmr.priors.Normal(1.0)
    )
    assign_random_posteriors(model)
    return model


class Posteriors:
    """Normals around the weights of a model, as a Laplace approximation has them."""

    def __init__(self, model, prior_precision=2.0):
        self.model = model
        self.prior_precision = prior_precision
        generator = np.random.default_rng(0)
        self.precisions = {
            (layer.name, name): prior_precision
            + np.exp(generator.normal(2, 2, getattr(layer, name).shape))
            for layer, name in self.weights()
        }

    def weights(self):
        return [
            (layer, name) for layer in self.model.layers for name in ("kernel", "bias")
        ]

    def posterior(self, layer, name):
        precision = self.precisions[layer.name, name]
        loc = getattr(layer, name).value
        return tfd.Normal(loc, (precision**-0.5).astype("float32"))

    def prior(self, layer, name):
        return tfd.Normal(np.float32(0), np.float32(self.prior_precision**-0.5))


@pytest.fixture
def posteriors_of():
    return Posteriors
