import keras
import numpy as np
import pytest

from keras_bmr import layers
from keras_bmr.callbacks import KLAnnealing
from keras_bmr.objectives import kl_factor


class Record(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.factors = []

    def on_train_batch_begin(self, batch, logs=None):
        self.factors.append(kl_factor(self.model))


def fit(annealing, epochs, **options):
    model = keras.Sequential(
        [keras.Input((2,)), layers.DenseVariational(1, num_examples=50)]
    )
    model.compile("sgd", "mse", jit_compile=False)
    record = Record()
    model.fit(
        np.ones((4, 2)),
        np.ones((4, 1)),
        batch_size=2,
        epochs=epochs,
        callbacks=[annealing, record],
        verbose=0,
        **options,
    )
    return model, record.factors


def test_the_factor_rises_linearly_and_stays():
    model, factors = fit(KLAnnealing(epochs=4, start=0.2, end=0.6), epochs=6)
    expected = np.repeat([0.2, 0.3, 0.4, 0.5, 0.6, 0.6], 2)
    np.testing.assert_allclose(factors, expected, rtol=1e-5)
    np.testing.assert_allclose(model.layers[0].kl_weight, 0.6 / 50, rtol=1e-6)


def test_the_loss_of_a_compiled_step_follows():
    annealing = KLAnnealing(epochs=2)
    model = keras.Sequential(
        [keras.Input((2,)), layers.DenseVariational(1, num_examples=1)]
    )
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    model.layers[0].kernel.assign(np.full((2, 1), 3.0))
    divergence = float(model.layers[0].divergence("kernel"))
    history = model.fit(
        np.zeros((4, 2)), np.zeros((4, 1)), epochs=3, callbacks=[annealing], verbose=0
    )
    expected = divergence * np.array([0.0, 0.5, 1.0])
    np.testing.assert_allclose(history.history["loss"], expected, rtol=1e-4, atol=1e-12)


def test_a_resumed_fit_goes_on():
    _, factors = fit(KLAnnealing(epochs=4), epochs=5, initial_epoch=2)
    np.testing.assert_allclose(factors, [0.5, 0.5, 0.75, 0.75, 1, 1], rtol=1e-5)


def test_an_annealing_that_never_ends_is_said():
    with pytest.warns(UserWarning, match="epoch 5, but training ends after epoch 4"):
        fit(KLAnnealing(epochs=4), epochs=4)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"epochs": 0}, "epochs=0"),
        ({"epochs": 1.5}, "epochs=1.5"),
        ({"epochs": float("nan")}, "`epochs` must be an integer.*epochs=nan"),
        ({"start": -0.1}, "start=-0.1"),
        ({"end": 0.0}, "end=0.0"),
        ({"end": float("nan")}, "end=nan"),
    ],
)
def test_invalid_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        KLAnnealing(**options)


def test_a_model_without_bayesian_layers_is_refused():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="has no Bayesian layer"):
        model.fit(np.ones((4, 2)), np.ones((4, 1)), callbacks=[KLAnnealing()], epochs=6)
