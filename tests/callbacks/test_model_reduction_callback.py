import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

import keras_bmr
from keras_bmr.callbacks import ModelReductionCallback, ReductionSchedule
from keras_bmr.layers import variational_layers


@pytest.fixture
def data():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(64, 12)).astype("float32")
    return x, (x[:, 0] > 0).astype("int32")


@pytest.fixture
def model():
    network = keras.Sequential(
        [
            keras.Input((12,)),
            keras.layers.Dense(20, activation="relu", name="hidden"),
            keras.layers.Dense(2, name="output"),
        ]
    )
    model = keras_bmr.to_variational(network, num_examples=64)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss=loss)
    return model


def test_sparsity_follows_the_schedule_and_holds(model, data):
    schedule = ReductionSchedule(0.8, start=2, every=2, share=0.5)
    history = model.fit(
        *data, epochs=9, verbose=0, callbacks=[ModelReductionCallback(schedule)]
    ).history
    # Removal of dead paths may prune more, never less.
    planned = [0, 0.5, 0.5, 0.75, 0.75, 0.8, 0.8, 0.8, 0.8]
    assert len(history["sparsity"]) == 9
    num_weights = 12 * 20 + 20 * 2
    for reached, target in zip(history["sparsity"], planned, strict=True):
        assert reached >= target - 1 / num_weights
        assert reached < 0.9
    assert np.all(np.diff(history["sparsity"]) >= 0)
    assert keras_bmr.sparsity(model) == history["sparsity"][-1]
    # Evidence is spent in the rounds, and only there.
    rounds = {i for i, value in enumerate(history["log_bayes_factor"]) if value != 0}
    # Dead paths may have made the last round superfluous.
    assert {1, 3} <= rounds <= {1, 3, 5}
    # Weights pruned early have seen many steps of an optimiser with momentum.
    for layer in variational_layers(model):
        pruned = ~layer.mask("kernel").numpy()
        assert pruned.any()
        assert not layer.posterior("kernel").mean().numpy()[pruned].any()
        assert not layer.kernel.numpy()[pruned].any()


def test_ranking_per_layer_prunes_every_layer_alike(model, data):
    schedule = ReductionSchedule(0.5, start=1, share=0.6, ranking="layer")
    model.fit(*data, epochs=1, verbose=0, callbacks=[ModelReductionCallback(schedule)])
    shares = [
        1 - layer.mask("kernel").numpy().mean() for layer in variational_layers(model)
    ]
    assert min(shares) >= 0.49


def test_criterion_and_skip_are_passed_on(model, data):
    schedule = ReductionSchedule(0.5, start=1, share=0.6)
    callback = ModelReductionCallback(schedule, criterion="magnitude", skip=["output"])
    model.fit(*data, epochs=1, verbose=0, callbacks=[callback])
    kept = model.get_layer("hidden").mask("kernel").numpy()
    assert 0.45 < kept.mean() < 0.55


def test_blocks_are_pruned_whole(model, data):
    schedule = ReductionSchedule(0.5, start=1, share=0.6)
    callback = ModelReductionCallback(schedule, granularity="block", skip=["output"])
    model.fit(*data, epochs=1, verbose=0, callbacks=[callback])
    blocks = model.get_layer("hidden").mask("kernel").numpy().reshape(3, 4, 20)
    assert (blocks.all(1) | ~blocks.any(1)).all()


def test_training_that_ends_too_early_is_refused_before_it_starts(model, data):
    before = model.get_weights()
    schedule = ReductionSchedule(0.9, start=5, every=5, share=0.3)
    with pytest.raises(ValueError, match="after 35 epochs.*Received: epochs=6"):
        model.fit(
            *data, epochs=6, verbose=0, callbacks=[ModelReductionCallback(schedule)]
        )
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_an_ordinary_model_is_refused(data):
    network = keras.Sequential([keras.Input((12,)), keras.layers.Dense(2)])
    network.compile("sgd", loss=keras.losses.SparseCategoricalCrossentropy())
    callback = ModelReductionCallback(ReductionSchedule(0.5, start=1))
    with pytest.raises(ValueError, match="no Bayesian layer"):
        network.fit(*data, epochs=20, verbose=0, callbacks=[callback])


def test_the_schedule_must_be_one():
    with pytest.raises(ValueError, match="Received: schedule=0.9"):
        ModelReductionCallback(0.9)


def test_unknown_criterion_is_refused_at_once():
    with pytest.raises(ValueError, match="signal_to_noise"):
        ModelReductionCallback(ReductionSchedule(0.9), criterion="taste")


def test_the_target_is_reached_by_the_layers_that_are_not_skipped(model, data):
    schedule = ReductionSchedule(0.9, start=1, every=1, share=0.5)
    output = model.get_layer("output").mask("kernel")
    callback = ModelReductionCallback(schedule, skip=["output"])
    epochs = int(schedule.last_epoch())
    history = model.fit(*data, epochs=epochs, verbose=0, callbacks=[callback]).history
    assert np.all(output.numpy())
    kept = model.get_layer("hidden").mask("kernel").numpy()
    # Dead paths may go beyond it.
    assert kept.mean() <= 0.1 + 1 / kept.size
    assert history["sparsity"][-1] == pytest.approx(keras_bmr.sparsity(model))


def test_dead_paths_leave_skipped_layers_alone(model, data):
    model.get_layer("hidden").prune("kernel", np.arange(20) > np.zeros((12, 1)))
    schedule = ReductionSchedule(0.3, start=1, share=0.9)
    callback = ModelReductionCallback(schedule, skip=["output"])
    model.fit(*data, epochs=1, verbose=0, callbacks=[callback])
    assert np.all(model.get_layer("output").mask("kernel").numpy())


def test_unknown_granularity_is_refused_at_once():
    with pytest.raises(ValueError, match="'unit', 'weight'.*granularity='row'"):
        ModelReductionCallback(ReductionSchedule(0.9), granularity="row")


def test_an_ordinary_model_with_posteriors_that_are_found_anew_in_each_round(data):
    network = keras.Sequential([keras.Input((12,)), keras.layers.Dense(2, name="d")])
    calls = []

    class Posteriors:
        def __init__(self, model):
            self.model = model
            calls.append(model)

        def weights(self):
            return [(self.model.get_layer("d"), "kernel")]

        def posterior(self, layer, name):
            return tfd.Normal(layer.kernel.value, 0.1 * tf.ones((12, 2)))

        def prior(self, layer, name):
            return tfd.Normal(0.0, 1.0)

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(0.1), loss=loss)
    schedule = ReductionSchedule([0.25, 0.5, 0.75], start=1, every=2)
    callback = ModelReductionCallback(schedule, criterion="opd", source=Posteriors)
    history = network.fit(*data, epochs=7, verbose=0, callbacks=[callback]).history
    # Zeros hold in the epochs between the rounds and after them.
    assert history["sparsity"] == [0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 0.75]
    assert calls == [network] * 3


def test_the_example_of_the_page_on_reduction(data):
    """With few epochs between the rounds."""
    page = pathlib.Path(__file__).parents[2] / "docs" / "reduction.md"
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.S | re.M)
    (block,) = [block for block in blocks if "ModelReductionCallback" in block]
    for old, new in (
        ("every=10", "every=1, start=1"),
        ("epochs=100", "epochs=6, verbose=0"),
    ):
        assert old in block
        block = block.replace(old, new)
    network = keras.Sequential(
        [
            keras.Input((12,)),
            keras.layers.Dense(20, activation="relu", name="hidden"),
            keras.layers.Dense(2, name="output"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile("adam", loss=loss)
    x, y = data
    names = {"network": network, "loss": loss, "x_train": x, "y_train": y}
    exec(block, {"keras_bmr": keras_bmr, **names})
    kept = network.get_layer("hidden").kernel.numpy().any(0)
    assert kept.sum() == 1
