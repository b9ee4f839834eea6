import keras
import numpy as np
import pytest

import keras_bmr
from keras_bmr import priors
from keras_bmr.distributions import SpikeAndSlab

PROBABILITIES = np.array(
    [[0.9, 0.2, 0.1], [0.4, 0.4, 0.3], [0.01, 0.02, 0.6], [1e-9, 1e-9, 1e-9]]
)


def spike_and_slab_network(**options):
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3, activation="relu", name="hidden"),
            keras.layers.Dense(2, name="output"),
        ]
    )
    return keras_bmr.to_variational(
        network,
        num_examples=10,
        posterior="spike_and_slab",
        prior=priors.SpikeAndSlab(**options),
    )


@pytest.fixture
def inclusion():
    model = spike_and_slab_network(warmup_steps=0)
    loc = np.full((4, 3), 0.5, "float32")
    model.layers[0].assign_posterior(
        "kernel", SpikeAndSlab(PROBABILITIES.astype("float32"), loc, loc / 5)
    )
    return keras_bmr.inclusion_probabilities(model)


def test_weights_nodes_and_features(inclusion):
    assert inclusion.layers == ["hidden", "output"]
    np.testing.assert_allclose(inclusion.weights(), PROBABILITIES, rtol=1e-5)
    np.testing.assert_array_equal(inclusion.weights("output", "kernel"), 1.0)
    np.testing.assert_allclose(
        inclusion.nodes(), 1 - np.prod(1 - PROBABILITIES, axis=0), rtol=1e-5
    )
    # 3e-9 is lost in single precision unless logarithms are added.
    np.testing.assert_allclose(
        inclusion.features("hidden"), 1 - np.prod(1 - PROBABILITIES, axis=1), rtol=1e-5
    )


def test_a_feature_is_selected_by_one_probable_weight(inclusion):
    # Together the weights of feature 1 are probable, each of them is not.
    assert inclusion.features()[1] > 0.7
    assert inclusion.selected_features().tolist() == [True, False, True, False]


def test_plot_shows_features_and_weights(inclusion, tmp_path):
    figure = inclusion.plot(tmp_path / "inclusion.png")
    assert (tmp_path / "inclusion.png").stat().st_size > 1000
    of_features, of_weights = figure.axes
    heights = {
        round(bar.get_x() + bar.get_width() / 2): bar.get_height()
        for bar in of_features.patches
    }
    np.testing.assert_allclose(
        [heights[k] for k in range(4)], inclusion.features(), rtol=1e-6
    )
    assert [line.get_label() for line in of_weights.lines[:2]] == inclusion.layers


def test_unknown_layers_and_weights_are_refused(inclusion):
    with pytest.raises(ValueError, match=r"\['hidden', 'output'\].*Received: 'other'"):
        inclusion.weights("other")
    with pytest.raises(ValueError, match=r"\['kernel'\].*name='scale'"):
        inclusion.weights("hidden", "scale")


def test_nodes_are_those_of_dense_layers_and_convolutions():
    network = keras.Sequential([keras.Input((4,)), keras.layers.Embedding(5, 3)])
    model = keras_bmr.to_variational(
        network,
        num_examples=10,
        posterior="spike_and_slab",
        prior=priors.SpikeAndSlab(warmup_steps=0),
    )
    inclusion = keras_bmr.inclusion_probabilities(model)
    assert inclusion.weights().shape == (5, 3)
    with pytest.raises(ValueError, match="its `weights` have probabilities, too"):
        inclusion.nodes()


def test_in_the_warm_up_nothing_is_known():
    model = spike_and_slab_network(warmup_steps=3)
    with pytest.raises(ValueError, match="hidden/kernel.*warm-up is not over"):
        keras_bmr.inclusion_probabilities(model)
    model.compile("adam", "mse")
    model.fit(np.ones((8, 4)), np.ones((8, 2)), batch_size=2, verbose=0)
    assert keras_bmr.inclusion_probabilities(model).weights().shape == (4, 3)


def test_other_posteriors_have_none(dense_model):
    with pytest.raises(ValueError, match='posterior="spike_and_slab"'):
        keras_bmr.inclusion_probabilities(dense_model)
