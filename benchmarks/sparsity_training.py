"""How the methods of sparsity_methods.py train: recipes, networks, processor time."""

import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Callable

import keras
import numpy as np

BATCH_SIZE, LEARNING_RATE = 256, 1e-3
# The last layer of all networks.
LOGITS = "logits"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The epochs of a network, those before the next ones included."""

    pretraining: int
    # Of the Kullback-Leibler divergence, from no weight to all of it.
    warm_up: int
    reductions: tuple[int, ...]
    cool_down: int
    epochs: int
    # What BMR in rounds is asked for.
    sparsity: float
    # Share of the weights left that a candidate of Bayes-factor pruning drops.
    rate: float
    # TensorFlow's graph kernels are faster than XLA's for convolutions on a CPU.
    jit_compile: bool


RECIPES = {
    "mlp": Recipe(2, 4, (7, 9), 10, 12, 0.98, 0.3, jit_compile=True),
    "lenet_5": Recipe(1, 2, (4, 5), 6, 7, 0.98, 0.35, jit_compile=False),
}


def build(name: str, regularizer: keras.Regularizer | None = None) -> keras.Model:
    """The ordinary network, with logits as output."""
    options = {"kernel_regularizer": regularizer}
    layers, stack = keras.layers, [keras.Input((28, 28, 1))]
    if name == "lenet_5":
        for filters in (6, 16):
            stack.append(layers.Conv2D(filters, 5, activation="relu", **options))
            stack.append(layers.MaxPooling2D())
    stack.append(layers.Flatten())
    for units in (300, 100) if name == "mlp" else (120, 84):
        stack.append(layers.Dense(units, activation="relu", **options))
    return keras.Sequential([*stack, layers.Dense(10, name=LOGITS, **options)])


class CPUTime(keras.callbacks.Callback):
    """Seconds of the processor, by all threads; the first of the callbacks."""

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Starts the clock."""
        self._last = time.process_time()
        self._of_epochs, self._between = [], []

    def _lap(self) -> float:
        last, self._last = self._last, time.process_time()
        return self._last - last

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Takes the time of what callbacks did at the end of the last epoch."""
        self._between.append(self._lap())

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Takes the time of the steps."""
        self._of_epochs.append(self._lap())

    def on_train_end(self, logs: dict | None = None) -> None:
        """Takes the time of what callbacks did at last."""
        self._between.append(self._lap())

    def seconds(self) -> np.ndarray:
        """Seconds of training and of what the steps of the first epoch take more."""
        first, *others = self._of_epochs
        compilation = max(0.0, first - np.median(others)) if others else 0.0
        total = sum(self._of_epochs) + sum(self._between)
        return np.array([total - compilation, compilation])


class Training:
    """A network and its data, from one seed; what is trained once lies on the disk."""

    def __init__(self, name: str, seed: int, data, folder: pathlib.Path) -> None:
        self.name, self.seed, self.data, self.folder = name, seed, data, folder
        self.recipe = RECIPES[name]

    def trained(self, part: str, start: Callable, last: int, *actions):
        """A network after a number of epochs, and seconds; from the disk if there.

        `start` returns the network, the epochs it has had and the seconds.
        """
        path = self.folder / f"{self.name}_{self.seed}_{part}.keras"
        times = path.with_suffix(".json")
        if not times.exists():
            self.train(path, *start(), last, *actions)
        # Always from the file, so that a run that stopped and went on is the same.
        seconds = np.array(json.loads(times.read_text()))
        return keras.models.load_model(path), last, seconds

    def train(
        self, path: pathlib.Path, model, first: int, seconds, last: int, *actions
    ):
        """Trains a network from one epoch to another and writes it to a file."""
        recipe = self.recipe
        keras.utils.set_random_seed(self.seed)
        if not model.compiled:
            model.compile(
                keras.optimizers.Adam(LEARNING_RATE),
                keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                metrics=["accuracy"],
                jit_compile=recipe.jit_compile,
            )

        def rate(epoch: int) -> float:
            left = (recipe.epochs - epoch) / (recipe.epochs - recipe.cool_down + 1)
            return LEARNING_RATE * min(1.0, left)

        clock = CPUTime()
        schedule = keras.callbacks.LearningRateScheduler(rate)
        history = model.fit(
            *self.data,
            batch_size=BATCH_SIZE,
            initial_epoch=first,
            epochs=last,
            callbacks=[clock, schedule, *actions],
            verbose=0,
        ).history
        for key in ("loss", "accuracy", "log_bayes_factor", "accepted", "sparsity"):
            if key in history:
                values = " ".join(f"{value:.4g}" for value in history[key])
                print(f"  {path.stem} {key} {values}", flush=True)
        temporary = path.with_name(f"writing_{path.name}")
        model.save(temporary)
        os.replace(temporary, path)
        seconds = seconds + clock.seconds()
        path.with_suffix(".json").write_text(json.dumps(seconds.tolist()))

    def initialized(self):
        """The ordinary network before any training."""
        keras.utils.set_random_seed(self.seed)
        return build(self.name), 0, np.zeros(2)

    def pretrained(self):
        """The ordinary network that all methods begin with."""
        last = self.recipe.pretraining
        return self.trained("pretrained", self.initialized, last)

    def converted(self, convert: Callable[[keras.Model], keras.Model]):
        """What `trained` starts from, given a function of the ordinary network."""

        def start():
            model, epochs, seconds = self.pretrained()
            return convert(model), epochs, seconds

        return start
