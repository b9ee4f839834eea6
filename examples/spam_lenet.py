"""Training that makes a network prunable: priors learned by the evidence (SpaM).

A network is trained twice: with one fixed Gaussian prior (MAP), and with precisions
that follow the Laplace evidence (SpaM). Each is then pruned once to shares between 20
and 99 %, by magnitude, OPD and delta_f, and perhaps fine-tuned. With `--granularity
channel` a share of the units of each layer goes, and `shrink` removes them.

    python examples/spam_lenet.py --network cancer --seeds 0 1 2
    python examples/spam_lenet.py --network lenet --data mnist.npz --seeds 0 1 2
    python examples/spam_lenet.py --network lenet --data mnist.npz --granularity channel

Trained networks and a JSON file of results go to `--output-dir`; what is there already
is not computed again. Without `--data` the LeNet sees the digits of scikit-learn,
enlarged to 28 x 28 pixels.
"""

import argparse
import json
import pathlib

import keras
import numpy as np

import keras_bmr

SHARES = (0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99)
METHODS = (
    ("MAP", "magnitude"),
    ("SpaM", "magnitude"),
    ("SpaM", "opd"),
    ("SpaM", "delta_f"),
)
# arXiv 2402.15978, OPD: accuracy in percent at these shares.
PUBLISHED = {
    ("lenet", "channel"): {
        0.2: 98.66, 0.6: 98.47, 0.8: 97.41, 0.9: 95.67, 0.95: 91.95, 0.99: 67.19,
    },
    ("cancer", "weight"): {0.2: 96.2, 0.8: 95.9, 0.9: 94.3, 0.95: 67.5},
}  # fmt: skip
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
# By network: epochs, batch size, epochs between refits. Those of arXiv 2402.15978.
RECIPES = {"lenet": (100, 128, 5), "cancer": (50, 64, 1)}


def load_data(network: str, path: pathlib.Path | None):
    """Training and test data, images as floats in [0, 1] of shape (n, 28, 28, 1)."""
    if network == "lenet" and path is not None:
        with np.load(path) as file:
            parts = [file[k] for k in ("x_train", "x_test", "y_train", "y_test")]
        parts[:2] = (images[..., None] / 255 for images in parts[:2])
    else:
        from sklearn.datasets import load_breast_cancer, load_digits
        from sklearn.model_selection import train_test_split

        load = load_digits if network == "lenet" else load_breast_cancer
        x, y = load(return_X_y=True)
        if network == "lenet":
            images = np.kron(x.reshape(-1, 8, 8) / 16, np.ones((1, 3, 3)))
            x = np.pad(images, ((0, 0), (2, 2), (2, 2)))[..., None]
        parts = train_test_split(x, y, test_size=0.2, random_state=0, stratify=y)
        if network == "cancer":
            mean, deviation = parts[0].mean(0), parts[0].std(0)
            parts[:2] = ((values - mean) / deviation for values in parts[:2])
    x_train, x_test, y_train, y_test = parts
    train = x_train.astype("float32"), y_train.astype("int32")
    return train, (x_test.astype("float32"), y_test.astype("int32"))


def build(name: str) -> keras.Model:
    """LeNet 6-16-120-84 or a network 30-100-100-2; logits as output."""
    layers = keras.layers
    if name == "cancer":
        stack = [keras.Input((30,))]
        stack += [layers.Dense(100, activation="relu") for _ in range(2)]
        return keras.Sequential([*stack, layers.Dense(2, name="head")])
    stack = [keras.Input((28, 28, 1))]
    for filters in (6, 16):
        stack.append(layers.Conv2D(filters, 5, activation="relu"))
        stack.append(layers.MaxPooling2D())
    stack.append(layers.Flatten())
    stack += [layers.Dense(units, activation="relu") for units in (120, 84)]
    return keras.Sequential([*stack, layers.Dense(10, name="head")])


def train(options, training: str, seed: int, data) -> keras_bmr.laplace.Laplace:
    """The posterior of a trained network; from files if it was trained before."""
    model = build(options.network)
    laplace = keras_bmr.laplace.Laplace(
        model,
        LOSS,
        curvature=options.curvature,
        structure=options.structure,
        prior_structure=options.prior_structure,
    )
    path = options.output_dir / f"{options.network}_{training}_{seed}.weights.h5"
    precisions = path.with_suffix(".npz")
    if precisions.exists():
        model.load_weights(path)
        with np.load(precisions) as file:
            laplace.prior_precision = [file[name] for name in file.files]
        return laplace.fit(data, verbose=0)
    optimizer = keras.optimizers.Adam(1e-3)
    if options.network == "lenet":
        steps = -(-len(data[0]) // options.batch_size) * options.epochs
        cosine = keras.optimizers.schedules.CosineDecay(0.1, steps, alpha=1e-5)
        optimizer = keras.optimizers.SGD(cosine, momentum=0.9)
    model.compile(optimizer, LOSS, metrics=["accuracy"], jit_compile=False)
    callback = keras_bmr.callbacks.MarginalLikelihood(
        laplace,
        data,
        # The prior of MAP training stays what it is: a precision of 1.
        every=options.every if training == "SpaM" else options.epochs + 1,
    )
    model.fit(
        *data,
        batch_size=options.batch_size,
        epochs=options.epochs,
        callbacks=[callback],
        verbose=options.verbose,
    )
    model.save_weights(path)
    np.savez(precisions, *(p.numpy() for p in laplace.prior_precisions))
    return laplace


def prune(laplace, criterion: str, granularity: str, share: float) -> keras.Model:
    """A copy without a share of all weights, or of each layer's units and channels."""
    if granularity == "weight":
        return keras_bmr.reduce_model(
            laplace, reduced_prior="point_mass", criterion=criterion, sparsity=share
        )
    pruned = keras_bmr.reduce_model(
        laplace,
        reduced_prior="point_mass",
        criterion=criterion,
        granularity="channel",
        ranking="layer",
        skip=["head"],
        sparsity=share,
    )
    return keras_bmr.shrink(pruned)


def result_of(options, laplace, criterion: str, share: float, data, test) -> dict:
    """Accuracy and log loss of a pruned network, perhaps after fine-tuning, too."""
    model = laplace.model
    if share > 0:
        try:
            model = prune(laplace, criterion, options.granularity, share)
        except ValueError as error:
            # A criterion may ask for a whole layer to go.
            return {"refused": str(error)}
    model.compile(
        keras.optimizers.Adam(1e-3), LOSS, metrics=["accuracy"], jit_compile=False
    )
    nll, accuracy = model.evaluate(*test, 1000, verbose=0)
    weights = [variable.numpy() for variable in model.trainable_variables]
    left = sum(np.count_nonzero(weight) for weight in weights)
    result = {"accuracy": accuracy, "nll": nll, "weights": int(left)}
    if share > 0 and options.fine_tuning_epochs:
        model.fit(
            *data,
            batch_size=options.batch_size,
            epochs=options.fine_tuning_epochs,
            verbose=0,
        )
        _, result["fine_tuned_accuracy"] = model.evaluate(*test, 1000, verbose=0)
    return result


def run(options, training: str, seed: int, data, rows: dict, save) -> None:
    """Trains a network and fills in the rows that are missing."""
    train_data, test = data
    missing = {
        key: (criterion, share)
        for kind, criterion in METHODS
        for share in (0.0, *SHARES)
        if kind == training
        and (key := row_name(options, seed, kind, criterion, share)) not in rows
    }
    if not missing:
        return
    keras.utils.set_random_seed(seed)
    laplace = train(options, training, seed, train_data)
    evidence = float(laplace.log_marginal_likelihood())
    print(f"seed {seed}, {training}: log evidence {evidence:.1f}", flush=True)
    for key, (criterion, share) in missing.items():
        rows[key] = result_of(options, laplace, criterion, share, train_data, test)
        save()


def row_name(options, seed: int, training: str, criterion: str, share: float) -> str:
    """Under which a result is kept."""
    return f"{options.granularity}/{seed}/{training}/{criterion}/{share}"


def curves(options, rows: dict, field: str) -> dict[str, list[list[float]]]:
    """Accuracy in percent by method, share and seed; NaN where it is missing."""
    return {
        f"{training}+{criterion}": [
            [
                100
                * rows[row_name(options, seed, training, criterion, share)].get(
                    field, np.nan
                )
                for seed in options.seeds
            ]
            for share in (0.0, *SHARES)
        ]
        for training, criterion in METHODS
    }


def print_table(title: str, table: dict, published: dict) -> None:
    """Prints one line per method: the mean over the seeds."""
    print(f"\n{title}, accuracy in % at a share of zeros of")
    print(" " * 18 + "".join(f"{share:>8.0%}" for share in (0.0, *SHARES)))
    for name, values in table.items():
        print(f"{name:18}" + "".join(f"{np.mean(v):8.2f}" for v in values))
    if published:
        cells = [published.get(share) for share in (0.0, *SHARES)]
        line = "".join(" " * 8 if c is None else f"{c:8.2f}" for c in cells)
        print(f"{'published (OPD)':18}{line}")


def plot(table: dict, published: dict, path: pathlib.Path) -> None:
    """Plots mean accuracy and its range against sparsity, if matplotlib is there."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("No plot: matplotlib is not installed.")
        return
    axes = (figure := Figure(figsize=(6, 4))).add_subplot()
    shares = [100 * share for share in (0.0, *SHARES)]
    for name, values in table.items():
        axes.plot(shares, np.mean(values, 1), "o-", label=name)
        axes.fill_between(shares, np.min(values, 1), np.max(values, 1), alpha=0.2)
    if published:
        x, y = zip(*published.items(), strict=True)
        axes.plot([100 * share for share in x], y, "k--", label="published (OPD)")
    axes.set(xlabel="zeros (%)", ylabel="test accuracy (%)")
    axes.legend()
    figure.savefig(path, bbox_inches="tight")
    print(f"Wrote {path}")


def parsed_options() -> argparse.Namespace:
    """Options, with those of the recipe where they are not given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=sorted(RECIPES), default="cancer")
    parser.add_argument("--data", type=pathlib.Path, help="an .npz file with MNIST")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, help="other than published")
    parser.add_argument("--every", type=int, help="epochs between refits")
    parser.add_argument("--granularity", default="weight", help="or channel")
    parser.add_argument("--curvature", default="ggn")
    parser.add_argument("--structure", default="diagonal")
    parser.add_argument("--prior-structure", default="parameterwise")
    parser.add_argument("--fine-tuning-epochs", type=int, default=0)
    parser.add_argument("--output-dir", type=pathlib.Path, default="build/spam")
    parser.add_argument("--verbose", type=int, default=0)
    options = parser.parse_args()
    epochs, options.batch_size, every = RECIPES[options.network]
    options.epochs = options.epochs or epochs
    options.every = options.every or every
    return options


def main() -> None:
    """Runs the example."""
    options = parsed_options()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    file = options.output_dir / f"{options.network}.json"
    names = "epochs", "every", "curvature", "structure", "prior_structure"
    settings = {name: getattr(options, name) for name in names}
    results = {"settings": settings, "rows": {}}
    if file.exists():
        results = json.loads(file.read_text())
        if results["settings"] != settings:
            raise SystemExit(
                f"{file} has results of other settings, {results['settings']}: choose "
                f"another --output-dir. Received: {settings}"
            )

    def save() -> None:
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(results, indent=1))
        partial.replace(file)

    data = load_data(options.network, options.data)
    for training in ("MAP", "SpaM"):
        for seed in options.seeds:
            run(options, training, seed, data, results["rows"], save)
    published = PUBLISHED.get((options.network, options.granularity), {})
    fields = {"accuracy": "pruned once"}
    if options.fine_tuning_epochs:
        fields["fine_tuned_accuracy"] = "pruned once and fine-tuned"
    for field, title in fields.items():
        table = curves(options, results["rows"], field)
        print_table(f"{options.network}, {title}", table, published)
        name = f"{options.network}_{options.granularity}_{field}.png"
        plot(table, published, options.output_dir / name)


if __name__ == "__main__":
    main()
