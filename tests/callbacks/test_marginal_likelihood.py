import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bmr.callbacks import (
    MarginalLikelihood,
    ModelReductionCallback,
    ReductionSchedule,
)
from keras_bmr.laplace import Laplace, fit_curvature

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def classification(num_examples=60):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(num_examples, 3)).astype("float32")
    return x, (x[:, 0] + 0.3 * generator.normal(size=num_examples) > 0).astype("int32")


def network(regularizer=None, units=2):
    return keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(units, kernel_regularizer=regularizer, name="head"),
        ]
    )


def compiled(model, loss=LOSS, learning_rate=0.0):
    model.compile(keras.optimizers.SGD(learning_rate), loss=loss)
    return model


class LossBeforeEpochs(keras.callbacks.Callback):
    """The regularisation, and a model saved, while the training runs."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_epoch_begin(self, epoch, logs=None):
        self.regularisation = float(sum(self.model.losses))
        self.model.save(self.path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model whose weights stand still, so that what is logged can be computed."""
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    x, y = classification()
    model = compiled(network(keras.regularizers.L2(0.01)))
    # The step is traced before the callback exists.
    plain = model.fit(x, y, batch_size=20, verbose=0).history["loss"][0]
    laplace = Laplace(model, LOSS, prior_precision=2.0, temperature=0.5)
    callback = MarginalLikelihood(laplace, (x, y), burn_in=1, every=2, steps=20)
    observer = LossBeforeEpochs(path)
    history = model.fit(
        x,
        y,
        batch_size=20,
        epochs=5,
        verbose=0,
        callbacks=[observer, callback],
        validation_data=(x, y),
    ).history
    return model, laplace, history, plain, observer, (x, y)


def test_the_loss_follows_the_precisions(trained):
    model, laplace, history, plain, observer, _ = trained
    kernel, bias = model.get_weights()

    def prior(precisions):
        squares = [np.sum(kernel**2), np.sum(bias**2)]
        return 0.5 * np.dot(precisions, squares) * 0.5 / 60

    # Rounds take place after the third and the fifth epoch.
    np.testing.assert_allclose(
        history["loss"][:3], plain + prior([2.0, 2.0]), rtol=1e-5
    )
    learned = history["loss"][3] - plain
    assert abs(learned - prior([2.0, 2.0])) > 1e-4
    np.testing.assert_allclose(history["loss"][3:], history["loss"][3], rtol=1e-6)
    np.testing.assert_allclose(
        observer.regularisation, learned + 0.01 * np.sum(kernel**2), rtol=1e-4
    )
    np.testing.assert_allclose(history["val_loss"][3], history["loss"][3], rtol=1e-5)


def test_the_evidence_is_logged(trained):
    model, laplace, history, _, _, data = trained
    evidence = history["log_marginal_likelihood"]
    assert np.all(np.isnan(evidence[:2]))
    assert evidence[2] == evidence[3] < evidence[4]
    np.testing.assert_allclose(
        evidence[4],
        history["log_likelihood"][4]
        - 0.5 * (history["scatter"][4] + history["log_det_ratio"][4]),
    )
    np.testing.assert_allclose(
        history["log_likelihood"][4],
        -60 * LOSS(data[1], model(data[0])) / 0.5,
        rtol=1e-5,
    )
    np.testing.assert_allclose(laplace.log_marginal_likelihood(), evidence[4])


def test_nothing_is_left_behind(trained):
    model, _, _, plain, observer, (x, y) = trained
    assert isinstance(model.get_layer("head").kernel.regularizer, keras.regularizers.L2)
    assert model.get_layer("head").bias.regularizer is None
    again = model.fit(x, y, batch_size=20, verbose=0).history["loss"][0]
    np.testing.assert_allclose(again, plain, rtol=1e-6)
    np.testing.assert_allclose(model.evaluate(x, y, verbose=0), plain, rtol=1e-5)
    loaded = keras.models.load_model(observer.path)
    np.testing.assert_allclose(loaded.evaluate(x, y, verbose=0), plain, rtol=1e-5)


def test_the_mode_of_a_regression_is_where_training_rests():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(40, 3)).astype("float32")
    y = x @ generator.normal(size=(3, 2)) + 0.4 * generator.normal(size=(40, 2))
    design = np.hstack([x, np.ones((40, 1))])
    precision = design.T @ design / 0.7**2 + 8.0 * np.eye(4)
    mode = np.linalg.solve(precision, design.T @ y / 0.7**2)
    loss = keras.losses.MeanSquaredError()
    model = network()
    model.set_weights([mode[:3], mode[3]])
    laplace = Laplace(model, loss, prior_precision=8.0, observation_noise=0.7)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    # No round takes place: the prior stays what it is.
    callback = MarginalLikelihood(laplace, data, every=4)
    compiled(model, loss, learning_rate=1.0)
    model.fit(x, y, batch_size=40, epochs=2, verbose=0, callbacks=[callback])
    kernel, bias = model.get_weights()
    np.testing.assert_allclose(kernel, mode[:3], atol=1e-5)
    np.testing.assert_allclose(bias, mode[3], atol=1e-5)
    assert np.isfinite(laplace.log_marginal_likelihood())


def test_large_precisions_do_not_make_gradient_descent_diverge():
    x, y = classification()
    model = network()
    model.compile(keras.optimizers.SGD(0.5, momentum=0.9), loss=LOSS)
    laplace = Laplace(model, LOSS, prior_precision=1e7)
    callback = MarginalLikelihood(laplace, (x, y), every=100)
    model.fit(x, y, batch_size=20, epochs=60, verbose=0, callbacks=[callback])
    for weight in model.get_weights():
        # The prior is stiffer than any step can follow: all that is left is nearly 0.
        assert np.all(np.abs(weight) < 0.3)


def test_early_stopping_returns_to_the_best_evidence():
    x, y = classification()
    model = compiled(network(), learning_rate=1.0)
    laplace = Laplace(model, LOSS)

    class Spoil(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                self.best = self.model.get_weights()
                self.best_evidence = logs["log_marginal_likelihood"]
                self.model.optimizer.learning_rate = 1e3

    spoil = Spoil()
    callback = MarginalLikelihood(laplace, (x, y), every=1, steps=30, patience=2)
    history = model.fit(x, y, epochs=20, verbose=0, callbacks=[callback, spoil])
    assert len(history.history["loss"]) == 4
    for weight, best in zip(model.get_weights(), spoil.best, strict=True):
        np.testing.assert_array_equal(weight, best)
    np.testing.assert_allclose(
        laplace.log_marginal_likelihood(), spoil.best_evidence, rtol=1e-6
    )


def test_errors():
    x, y = classification()
    model = compiled(network())
    laplace = Laplace(model, LOSS)
    with pytest.raises(ValueError, match="must be a `keras_bmr.laplace.Laplace`"):
        MarginalLikelihood(model, (x, y))
    with pytest.raises(ValueError, match="`every` must be an integer"):
        MarginalLikelihood(laplace, (x, y), every=0)
    with pytest.raises(ValueError, match="`data` must have examples"):
        MarginalLikelihood(laplace, (x[:0], y[:0]))
    callback = MarginalLikelihood(laplace, (x, y))
    other = compiled(network())
    with pytest.raises(ValueError, match="must belong to the model that is trained"):
        other.fit(x, y, verbose=0, callbacks=[callback])
    summed = keras.losses.SparseCategoricalCrossentropy(True, reduction="sum")
    with pytest.raises(ValueError, match="a mean as its reduction"):
        compiled(model, summed).fit(x, y, verbose=0, callbacks=[callback])
    # The same name, another likelihood: LOSS is of logits.
    for wrong in (
        "sparse_categorical_crossentropy",
        keras.losses.SparseCategoricalCrossentropy(from_logits=False),
    ):
        with pytest.raises(ValueError, match="compiled with the loss of `laplace`"):
            compiled(model, wrong).fit(x, y, verbose=0, callbacks=[callback])
    assert all(variable.regularizer is None for variable in model.trainable_variables)


def test_an_interrupted_training_is_cleaned_up_by_hand():
    x, y = classification()
    model = compiled(network())
    plain = model.evaluate(x, y, verbose=0)
    callback = MarginalLikelihood(Laplace(model, LOSS, prior_precision=50.0), (x, y))

    def interrupt(epoch, logs):
        raise KeyboardInterrupt

    stop = keras.callbacks.LambdaCallback(on_epoch_end=interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, verbose=0, callbacks=[callback, stop])
    assert model.evaluate(x, y, verbose=0) > 1.1 * plain
    callback.detach()
    np.testing.assert_allclose(model.evaluate(x, y, verbose=0), plain, rtol=1e-6)


def test_pruning_goes_along_after_refits():
    x, y = classification(200)
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(20, "tanh"), keras.layers.Dense(2)]
    )
    model.compile(keras.optimizers.Adam(0.02), loss=LOSS)
    laplace = Laplace(model, LOSS, structure="diagonal")
    schedule = ReductionSchedule([0.1, 0.5, 0.8], start=3, every=3)
    damages, zeros = [], []

    class Observe(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            weights = self.model.get_weights()
            zeros.append(np.concatenate([w.ravel() == 0 for w in weights]))

        def on_epoch_end(self, epoch, logs=None):
            if epoch not in (2, 5, 8):
                return
            curvature = fit_curvature(model, LOSS, (x, y), structure="diagonal")
            damages.append(
                np.concatenate(
                    [
                        np.ravel((block.diagonal + prior) * np.square(variable))
                        for block, prior, variable in zip(
                            curvature.blocks,
                            laplace.prior_precisions,
                            laplace.variables,
                            strict=True,
                        )
                    ]
                )
            )

    model.fit(
        x,
        y,
        epochs=11,
        verbose=0,
        callbacks=[
            MarginalLikelihood(laplace, (x, y), every=3, steps=20),
            Observe(),
            ModelReductionCallback(schedule, criterion="opd", source=lambda _: laplace),
        ],
    )
    np.testing.assert_allclose(
        [np.mean(z) for z in zeros[1:]],
        [n / 122 for n in [0, 0, 12, 12, 12, 61, 61, 61, 98, 98]],
        atol=0.01,
    )
    for damage, before, after in zip(damages, zeros[2::3], zeros[3::3], strict=True):
        # What is gone stays so; of the others those with the least damage go.
        assert np.all(after[before])
        gone, left = damage[after & ~before], damage[~after]
        assert gone.max() <= left.min()
