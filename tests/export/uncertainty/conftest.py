import keras
import numpy as np
import pytest

import keras_bmr
from keras_bmr.layers import variational_layers


@pytest.fixture
def randomised():
    """Gives the posteriors of a model means and scales as after training."""

    def randomise(model, scale=0.1, sparsity=0.0):
        rng = np.random.default_rng(3)
        for layer in variational_layers(model):
            for name in layer.random_weight_names:
                weight = layer._random_weight(name)
                scales = scale * rng.uniform(0.5, 1.5, weight.location.shape)
                log_scale = weight.posterior_state["log_scale"]
                gain = getattr(layer._posterior_family, "gain", 1.0)
                log_scale.assign(np.log(scales) / gain)
                if sparsity:
                    layer.prune(name, rng.random(weight.location.shape) >= sparsity)
        return model

    return randomise


@pytest.fixture
def bayesian(randomised):
    """A Bayesian model of a stack of layers."""

    def build(shape, *layers, scale=0.1, **options):
        network = keras.Sequential([keras.Input(shape), *layers])
        model = keras_bmr.to_variational(network, num_examples=100, **options)
        return randomised(model, scale)

    return build


@pytest.fixture
def normal():
    def draw(*shape, seed=1):
        return np.random.default_rng(seed).normal(size=shape).astype("float32")

    return draw
