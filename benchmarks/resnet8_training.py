"""How the runs of the ResNet-8 benchmark train: rates, targets, halves of epochs."""

import argparse
import dataclasses
import itertools
import math
import pathlib
import time
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from cifar10_images import half_epoch, in_batches

BATCH_SIZE = 64
# Of soft targets, and of the predictions that are compared with them.
TEMPERATURE = 2


@keras.saving.register_keras_serializable("benchmarks")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalisation in TensorFlow's one operation: a quarter less of a step."""

    def call(self, inputs, training=None, mask=None):
        """Normalises by the batch in training, by the moving averages otherwise."""
        if not training:
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma,
            offset=self.beta,
            mean=[],
            variance=[],
            epsilon=self.epsilon,
        )
        for average, new in (
            (self.moving_mean, mean),
            (self.moving_variance, variance),
        ):
            average.assign(self.momentum * average + (1 - self.momentum) * new)
        return outputs


def without_training_state(
    network: keras.Model, kind: type = keras.layers.BatchNormalization
) -> keras.Model:
    """A copy, not compiled, whose batch normalisation is of some kind."""

    def converted(layer: keras.Layer) -> keras.Layer:
        is_normalization = isinstance(layer, keras.layers.BatchNormalization)
        return (kind if is_normalization else type(layer)).from_config(
            layer.get_config()
        )

    # Of a compiled model the copy would be, too, with the old state of the optimizer.
    copy = keras.Model(network.inputs[0], network.outputs[0], name=network.name)
    copy = keras.models.clone_model(copy, clone_function=converted)
    copy.set_weights(network.get_weights())
    return copy


@keras.saving.register_keras_serializable("benchmarks")
def distillation(targets, predictions):
    """Cross-entropy of softened predictions (arXiv 1503.02531, section 2).

    Its gradient is of the size of that of labels.
    """
    return TEMPERATURE**2 * keras.losses.categorical_crossentropy(
        targets, softened(predictions)
    )


def soft_targets(predictions: np.ndarray) -> np.ndarray:
    """What to learn from predictions."""
    return keras.ops.convert_to_numpy(softened(predictions))


def softened(probabilities):
    """Probabilities at the temperature."""
    floor = keras.ops.maximum(probabilities, 1e-7)
    return keras.ops.softmax(keras.ops.log(floor) / TEMPERATURE)


def symmetric_predictions(network: keras.Model, images: np.ndarray) -> np.ndarray:
    """The mean of what a network says of images and of their mirror images.

    Right more often than what it says of the images alone, by 1.5 points.
    """
    return np.mean(
        [
            network.predict(view, batch_size=250, verbose=0)
            for view in (images, images[:, :, ::-1])
        ],
        axis=0,
    )


@keras.saving.register_keras_serializable("benchmarks")
class ConvolutionalMuon(keras.optimizers.Muon):
    """Muon (arXiv 2502.16982) for kernels of convolutions, Adam for all else.

    Keras' own takes the steps of Adam for whatever has more than two axes. A kernel
    is here the matrix that takes what is under a window to the channels.
    """

    def _should_use_adamw(self, variable) -> bool:
        return len(variable.shape) != 4

    def _muon_update_step(self, gradient, variable, lr, m) -> None:
        self.assign(m, keras.ops.add(gradient, self.momentum * m))
        ahead = keras.ops.add(gradient, self.momentum * m)
        matrix = keras.ops.reshape(ahead, (-1, variable.shape[-1]))
        step = self.zeropower_via_newtonschulz5(matrix, self.ns_steps)
        step = keras.ops.reshape(self.lr_adjust(lr * step), variable.shape)
        self.assign_sub(variable, step)


class Cosine(keras.callbacks.Callback):
    """A learning rate that falls along a cosine over all parts of a period."""

    def __init__(self, highest: float, part: int, num_parts: int) -> None:
        super().__init__()
        self._highest, self._part, self._num_parts = highest, part, num_parts

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Sets the rate of a step."""
        done = (self._part + batch / self.params["steps"]) / self._num_parts
        self.model.optimizer.learning_rate = (
            self._highest * (1 + math.cos(math.pi * done)) / 2
        )


@dataclasses.dataclass(frozen=True)
class Period:
    """Epochs in which the learning rate falls to 0.

    Args:
        optimizer: "adam" or "muon".
        rate: The highest.
        epochs: How many.
    """

    optimizer: str
    rate: float
    epochs: int

    @classmethod
    def parsed(cls, text: str) -> "Period":
        """From text as "adam:0.001:40"."""
        match text.split(":"):
            case ["adam" | "muon" as optimizer, rate, epochs]:
                return cls(optimizer, float(rate), int(epochs))
        raise argparse.ArgumentTypeError(
            'expected "adam" or "muon", the highest rate and the epochs, such as '
            f'"adam:0.001:40", received "{text}"'
        )

    def __str__(self) -> str:
        """For names of states."""
        return f"{self.optimizer}_{self.rate:g}_{self.epochs}"

    @property
    def num_parts(self) -> int:
        """Half epochs."""
        return 2 * self.epochs

    def new_optimizer(self) -> keras.optimizers.Optimizer:
        """An optimizer that has taken no step."""
        if self.optimizer == "adam":
            return keras.optimizers.Adam(self.rate)
        return ConvolutionalMuon(self.rate, weight_decay=None, adam_weight_decay=None)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How all runs train, half an epoch at a time, and where they leave states.

    Args:
        train: Images in [0, 1] and labels.
        folder: For states and soft targets.
        seed: Of the order of images and of their movements.
        num_views: Of every image, after which they repeat.
        teacher: Gives the soft targets.
        teacher_name: Theirs on the disk.
    """

    train: tuple[np.ndarray, np.ndarray]
    folder: pathlib.Path
    seed: int
    num_views: int = 8
    teacher: keras.Model | None = None
    teacher_name: str = ""

    def _targets(self, part: int, images: np.ndarray) -> np.ndarray:
        """Soft targets of half an epoch; predictions are on the disk."""
        path = self.folder / f"soft_{self.teacher_name}_{part}.npy"
        if not path.exists():
            temporary = path.with_name(f"writing_{path.name}")
            np.save(temporary, symmetric_predictions(self.teacher, images))
            temporary.replace(path)
        return soft_targets(np.load(path))

    def _train_part(
        self, network: keras.Model, part: int, period: Period
    ) -> keras.Model:
        """Half an epoch; what was not compiled is, as a copy, and starts anew."""
        if not network.compiled:
            network = without_training_state(network, FusedBatchNormalization)
            network.compile(
                period.new_optimizer(),
                distillation if self.teacher else "categorical_crossentropy",
                metrics=["accuracy"],
                jit_compile=False,
            )
        start = time.process_time(), time.perf_counter()
        # The same number is always the same images.
        number = part % (2 * self.num_views)
        images, labels = half_epoch(*self.train, number, self.seed)
        targets = (
            self._targets(number, images)
            if self.teacher
            else keras.utils.to_categorical(labels, 10)
        )
        history = network.fit(
            in_batches(images, targets, BATCH_SIZE),
            verbose=0,
            callbacks=[Cosine(period.rate, part, period.num_parts)],
        ).history
        print(
            f"  part {part + 1} of {period.num_parts}: loss {history['loss'][0]:.4f}, "
            f"accuracy {history['accuracy'][0]:.4f}, "
            f"{time.process_time() - start[0]:.0f} s of CPU time, "
            f"{time.perf_counter() - start[1]:.0f} s",
            flush=True,
        )
        return network

    def trained(
        self,
        network: keras.Model,
        name: str,
        period: Period,
        rounds: Sequence[Callable[[keras.Model], keras.Model]] = (),
    ) -> keras.Model:
        """A network after a period of epochs, from the last state on the disk.

        Args:
            network: What starts, if there is no state.
            name: Of the states.
            period: How it trains.
            rounds: What prunes it before the first parts, one each.

        Returns:
            A network that is not compiled.
        """
        start = 0

        def state(after: int) -> pathlib.Path:
            return self.folder / f"{name}_after_{after}.keras"

        for part in reversed(range(period.num_parts)):
            if state(part + 1).exists():
                network, start = keras.models.load_model(state(part + 1)), part + 1
                break
        for part in range(start, period.num_parts):
            if part < len(rounds):
                network = rounds[part](without_training_state(network))
            network = self._train_part(network, part, period)
            temporary = state(part + 1).with_name(f"writing_{state(part + 1).name}")
            network.save(temporary)
            temporary.replace(state(part + 1))
            state(part).unlink(missing_ok=True)
        return without_training_state(network)

    def trained_in_periods(
        self,
        network: keras.Model,
        name: str,
        periods: Sequence[Period],
        rounds: Sequence[Callable[[keras.Model], keras.Model]],
    ) -> keras.Model:
        """A network after several periods, from the last of them with a state.

        Args:
            network: What starts, if there is no state.
            name: Of the states, before what tells the periods apart.
            periods: How it trains, one after the other.
            rounds: What prunes it before the first parts of the first period.

        Returns:
            A network that is not compiled.
        """
        names = [
            "_".join([name, *map(str, periods[: number + 1])])
            for number in range(len(periods))
        ]
        begun = [any(self.folder.glob(f"{n}_after_*.keras")) for n in names]
        first = max(itertools.compress(range(len(names)), begun), default=0)
        for number in range(first, len(names)):
            network = self.trained(
                network, names[number], periods[number], () if number else rounds
            )
        return network
