"""Ways to a sparse network side by side on MNIST: error, calibration, weights, time.

All methods begin with the same ordinary network, trained for a few epochs, and end
after the same number of epochs, with the same batches and learning rates. Those that
reduce a flat posterior share its training as far as the first reduction; its time
counts for each of them. Error, expected calibration error (20 quantile bins) and
negative log likelihood are those of the mean over 100 draws of the posterior, or of
the network itself where there is none. Times are those of the processor, over all
threads, which suffer little from other jobs; compilation is counted by itself.

Networks that are trained stay in `--output-dir`, and rows in the file of results: what
is there is not done again. `--table` prints the means over the seeds.

    python benchmarks/sparsity_methods.py --network mlp --data mnist.npz
    python benchmarks/sparsity_methods.py --network lenet_5 --data mnist.npz
    python benchmarks/sparsity_methods.py --table
"""

import argparse
import dataclasses
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Sequence

import keras
import numpy as np
from tensorflow_probability import distributions as tfd

import keras_bmr
from keras_bmr import callbacks, objectives, priors, pruning
from keras_bmr.layers import variational_layers
from keras_bmr.pruning.prunable_weight import ordinary_kernels

BATCH_SIZE, LEARNING_RATE, NUM_SAMPLES = 256, 1e-3, 100
RESULTS = pathlib.Path(__file__).parent / "results" / "sparsity_methods.json"
LOGITS = "logits"
# Units are left out whose scale is below.
SCALE = 0.05
# Bayes factors: the prior of training and pruning, and what may be lost in nats per
# training example.
PRIOR_SCALE, TOLERANCE = 0.3, 0.05
# What methods for ordinary networks are asked for, which do not choose by themselves.
SPARSITY = 0.95


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


def load_data(path: pathlib.Path):
    """Images in [0, 1] of shape (n, 28, 28, 1) and labels, for training and testing."""
    with np.load(path) as file:
        return tuple(
            (
                file[f"x_{part}"][..., np.newaxis].astype("float32") / 255,
                file[f"y_{part}"].astype("int32"),
            )
            for part in ("train", "test")
        )


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


class ReduceAfter(keras.callbacks.Callback):
    """Prunes a Bayesian model after some epochs, by a rule that says how much."""

    def __init__(
        self,
        epochs: Sequence[int],
        reduction: Callable[[keras.Model], pruning.ModelReduction],
    ) -> None:
        super().__init__()
        self._epochs, self._reduction = epochs, reduction

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Prunes, and removes what has no part in the output any more."""
        if epoch + 1 in self._epochs:
            self._reduction(self.model).apply(self.model)
            pruning.remove_dead_paths(self.model)
            sparsity = keras_bmr.sparsity(self.model)
            print(f"  sparsity {sparsity:.4f} after epoch {epoch + 1}", flush=True)


class PointEstimate:
    """Weights of an ordinary network where posteriors are asked for."""

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self._weights = ordinary_kernels(model)

    def weights(self):
        """See `PosteriorSource.weights`."""
        return [(weight.layer, weight.name) for weight in self._weights]

    def posterior(self, layer: keras.layers.Layer, name: str) -> tfd.Normal:
        """See `PosteriorSource.posterior`; the scale has no part in magnitudes."""
        return tfd.Normal(getattr(layer, name).value, 1.0)

    def prior(self, layer: keras.layers.Layer, name: str) -> tfd.Normal:
        """See `PosteriorSource.prior`."""
        return tfd.Normal(0.0, 1.0)


class Run:
    """The methods on one network from one seed; what they share is trained once."""

    def __init__(self, name: str, seed: int, data, folder: pathlib.Path) -> None:
        self.name, self.seed, self.data, self.folder = name, seed, data, folder
        self.recipe = RECIPES[name]

    # --- Training ---

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

    def variational(
        self, part: str, last: int, *actions, prior_of_logits=None, **options
    ):
        """A Bayesian network; its last layer may have a prior of its own."""

        def convert(network: keras.Model) -> keras.Model:
            count, skip = len(self.data[0]), [LOGITS] if prior_of_logits else []
            model = keras_bmr.to_variational(network, count, skip=skip, **options)
            if not skip:
                return model
            # Layers that are Bayesian already stay as they are.
            return keras_bmr.to_variational(model, count, prior=prior_of_logits)

        annealing = callbacks.KLAnnealing(epochs=self.recipe.warm_up)
        return self.trained(part, self.converted(convert), last, annealing, *actions)

    def flat_until_reduction(self):
        """The flat posterior that is reduced."""
        last = self.recipe.reductions[0] - 1
        return self.variational("flat_start", last, prior="layerwise_normal")

    def from_flat(self, part: str, *actions):
        """The rest of the training of the flat posterior."""
        return self.trained(
            part, self.flat_until_reduction, self.recipe.epochs, *actions
        )

    # --- The methods ---

    def network(self):
        """The ordinary network, not pruned."""
        return self.trained("network", self.pretrained, self.recipe.epochs)

    def flat(self):
        """Mean-field Normal posteriors, one prior variance per layer."""
        return self.from_flat("flat")

    def bmr(self):
        """Spike-and-slab reductions of the flat posterior, the rule saying how much."""
        return self.from_flat(
            "bmr", ReduceAfter(self.recipe.reductions, pruning.ModelReduction)
        )

    def bmr_rhs(self):
        """The flat posterior reduced to a regularised horseshoe once."""

        def reduction(model: keras.Model) -> pruning.ModelReduction:
            horseshoe = pruning.HierarchicalReduction(model, seed=self.seed)
            return scales_reduction(horseshoe)

        return self.from_flat(
            "bmr_rhs", ReduceAfter(self.recipe.reductions[:1], reduction)
        )

    def bmr_rounds(self):
        """A prior per weight and rounds of reduction to a given share."""
        recipe = self.recipe
        start, second = recipe.reductions
        schedule = callbacks.ReductionSchedule(
            recipe.sparsity, start, second - start, share=(0.9, 0.99), rounds=2
        )
        action = callbacks.ModelReductionCallback(schedule)
        return self.variational("bmr_rounds", recipe.epochs, action)

    def horseshoe(self):
        """The hierarchy trained itself, units cut at the first reduction."""
        cut = ReduceAfter(self.recipe.reductions[:1], scales_reduction)
        return self.variational(
            "horseshoe",
            self.recipe.epochs,
            cut,
            prior="regularized_horseshoe",
            prior_of_logits="half_cauchy_normal",
        )

    def spike_and_slab(self):
        """Spike-and-slab posteriors; the median-probability model is left."""
        recipe = self.recipe
        steps = -(-len(self.data[0]) // BATCH_SIZE)
        warm_up = (recipe.warm_up - recipe.pretraining) * steps
        return self.variational(
            "spike_and_slab",
            recipe.epochs,
            ReduceAfter(recipe.reductions[1:], pruning.ModelReduction),
            posterior="spike_and_slab",
            prior=priors.SpikeAndSlab(warmup_steps=warm_up),
        )

    def bayes_factor(self, method: str, rate: float):
        """Pruning of the ordinary network while the ratio of densities allows it."""
        count = len(self.data[0])

        def convert(network: keras.Model) -> keras.Model:
            # With the log prior of the weights as a regulariser.
            weight = 0.5 / (count * PRIOR_SCALE**2)
            model = build(self.name, keras.regularizers.L2(weight))
            model.set_weights(network.get_weights())
            return model

        action = callbacks.BayesFactorPruning(
            data=self.data,
            method=method,
            rate=rate,
            sparsity=SPARSITY,
            prior_scale=PRIOR_SCALE,
            threshold=-TOLERANCE * count,
            seed=self.seed,
        )
        start = self.converted(convert)
        return self.trained(f"bayes_factor_{method}", start, self.recipe.epochs, action)

    def magnitude_schedule(self):
        """Magnitudes, the same share of each layer, along a cubic: rare steps at last.

        Zhu and Gupta, To prune, or not to prune, arXiv 1710.01878, equation 1.
        """
        recipe = self.recipe
        count = recipe.reductions[-1] - recipe.pretraining
        shares = 1 - (1 - np.arange(1, count + 1) / count) ** 3
        schedule = callbacks.ReductionSchedule(
            [float(SPARSITY * share) for share in shares],
            start=recipe.pretraining + 1,
            every=1,
            ranking="layer",
        )
        action = callbacks.ModelReductionCallback(
            schedule, criterion="magnitude", source=PointEstimate
        )
        return self.trained(
            "magnitude_schedule", self.pretrained, recipe.epochs, action
        )


def scales_reduction(source) -> pruning.ModelReduction:
    """Prunes units by the scale of their prior."""
    return pruning.ModelReduction(
        source, criterion="prior_scale", threshold=-math.log(SCALE), skip=[LOGITS]
    )


METHODS: dict[str, tuple[str, Callable[[Run], tuple]]] = {
    "network": ("ordinary network", Run.network),
    "flat": ("flat variational", Run.flat),
    "bmr": ("BMR spike-and-slab, by its rule", Run.bmr),
    "bmr_rhs": ("BMR-RHS", Run.bmr_rhs),
    "horseshoe": ("tiered horseshoe", Run.horseshoe),
    "spike_and_slab": ("spike-and-slab VI", Run.spike_and_slab),
    "bayes_factor_magnitude": (
        "Bayes factors, magnitude",
        lambda run: run.bayes_factor("magnitude", run.recipe.rate),
    ),
    "bayes_factor_random": (
        "Bayes factors, random",
        lambda run: run.bayes_factor("random", 0.05),
    ),
    "magnitude_schedule": ("magnitude schedule", Run.magnitude_schedule),
    "bmr_rounds": ("BMR in rounds to a share, prior per weight", Run.bmr_rounds),
}


def judged(model: keras.Model, seconds: np.ndarray, x, y) -> dict[str, float]:
    """What a trained network is worth."""
    if variational_layers(model):
        probabilities = objectives.predictive_moments(
            model, x, NUM_SAMPLES, batch_size=5000, seed=0, from_logits=True, verbose=0
        ).mean
    else:
        logits = model.predict(x, batch_size=1000, verbose=0)
        probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
    return {
        "error_percent": 100 * float(np.mean(probabilities.argmax(-1) != y)),
        "ece": objectives.expected_calibration_error(probabilities, y),
        "nll": objectives.negative_log_likelihood(probabilities, y),
        "kept_percent": 100 * (1 - keras_bmr.sparsity(model)),
        "cpu_seconds": round(float(seconds[0]), 1),
        "compilation_cpu_seconds": round(float(seconds[1]), 1),
    }


def read_rows(path: pathlib.Path) -> dict[str, dict]:
    """The rows that are there, by network/seed/method."""
    return json.loads(path.read_text()) if path.exists() else {}


def add_row(path: pathlib.Path, key: str, row: dict) -> None:
    """Adds a row to the file as it is now: another process may write to it, too."""
    rows = {**read_rows(path), key: row}
    temporary = path.with_name(f"writing_{os.getpid()}_{path.name}")
    temporary.write_text(json.dumps(dict(sorted(rows.items())), indent=1) + "\n")
    os.replace(temporary, path)


def print_table(rows: dict[str, dict]) -> None:
    """Means over the seeds, as Markdown; of the error the standard deviation, too."""
    for network in RECIPES:
        print(
            f"| {network} | seeds | error % | ECE | NLL | kept % | CPU s |\n"
            "|---|---|---|---|---|---|---|"
        )
        for method, (title, _) in METHODS.items():
            found = [
                row
                for key, row in rows.items()
                if key.startswith(f"{network}/") and key.endswith(f"/{method}")
            ]
            if not found:
                continue
            values = {key: [row[key] for row in found] for key in found[0]}
            mean = {key: np.mean(value) for key, value in values.items()}
            spread = f" ± {np.std(values['error_percent']):.2f}" * (len(found) > 1)
            print(
                f"| {title} | {len(found)} | {mean['error_percent']:.2f}{spread} | "
                f"{mean['ece']:.4f} | {mean['nll']:.4f} | "
                f"{mean['kept_percent']:.2f} | {mean['cpu_seconds']:.0f} + "
                f"{mean['compilation_cpu_seconds']:.0f} |"
            )
        print()


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=pathlib.Path, help="an .npz file with MNIST")
    add("--network", choices=sorted(RECIPES), default="mlp")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    add("--output-dir", type=pathlib.Path, default="build/sparsity_methods")
    add("--results", type=pathlib.Path, default=RESULTS)
    add("--table", action="store_true", help="only print the rows that are there")
    arguments = parser.parse_args()
    if arguments.table:
        print_table(read_rows(arguments.results))
        return
    if arguments.data is None:
        parser.error("--data is needed for training, for example --data mnist.npz")
    for folder in (arguments.output_dir, arguments.results.parent):
        folder.mkdir(parents=True, exist_ok=True)
    train, test = load_data(arguments.data)
    for seed in arguments.seeds:
        run = Run(arguments.network, seed, train, arguments.output_dir)
        for method in arguments.methods:
            key = f"{arguments.network}/{seed}/{method}"
            if key in read_rows(arguments.results):
                continue
            model, _, seconds = METHODS[method][1](run)
            row = judged(model, seconds, *test)
            add_row(arguments.results, key, row)
            print(key, json.dumps(row), flush=True)
            keras.backend.clear_session()


if __name__ == "__main__":
    main()
