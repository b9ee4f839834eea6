"""ResNet-8 of MLPerf Tiny on CIFAR-10: channels pruned by evidence, files in int8.

The saved network is trained on for some epochs, whatever follows. What comes of it is
then trained for as long again in one of several ways: as it is ("unpruned"), or after
it has lost channels in rounds, half an epoch apart: those of which a Laplace posterior
says that they can be spared best. All rounds but the last take the same share of the
weights around every layer, which saves multiply-accumulates evenly; the last one ranks
the channels of all layers together, and where they are easiest to spare are most of the
bytes. `shrink` takes them out, so that what follows is cheaper. All runs see the same
images as often, under the same learning rates.

The run "evidence_28_30" takes 28 % in the first round and 30 % of the rest in the
second, "magnitude_28_30" the same by the size of the weights; "inner_28_30" chooses by
evidence among the channels between the two layers of a block, whose number is no other
layer's. A name that ends in "_soft" learns from what the network before pruning says of
the same images and of their mirror images (distillation, arXiv 1503.02531); others
learn from labels.

Epochs come in periods, in each of which the learning rate falls from its highest to 0
(warm restarts, arXiv 1608.03983) and an optimizer begins anew, Adam or Muon. Training
stops and goes on between halves of epochs: what `--output-dir` has is not done again.
Copied there, the networks of results/resnet8 need no training but that of int8. In
their first period half of a soft target was the label, and the mirror images were left
out.

Each run has a row in the file of results. `--latency` measures all files that are
there, which take turns, and `--plot` draws accuracy against cost.

    python benchmarks/resnet8_cifar10.py --model resnet8_cifar10.h5 --data cifar10.npz
    python benchmarks/resnet8_cifar10.py ... --quantization-aware
    python benchmarks/resnet8_cifar10.py ... --latency --plot build/pareto.png
"""

import argparse
import dataclasses
import functools
import json
import pathlib

import keras
import numpy as np
from cifar10_images import half_epoch, in_batches, load_images
from pareto_front import measure, plot, read_rows, write_rows
from resnet8_training import (
    BATCH_SIZE,
    Cosine,
    Period,
    Recipe,
    distillation,
    soft_targets,
    symmetric_predictions,
)

import keras_bmr
from keras_bmr.export import export_tflite, model_cost, to_quantization_aware
from keras_bmr.laplace import Laplace
from keras_bmr.layers import refresh_batch_statistics
from keras_bmr.pruning.channels import widths

# Examples for the curvature, for batch statistics, and to calibrate int8 with.
NUM_FOR_CURVATURE, NUM_FOR_STATISTICS, NUM_REPRESENTATIVE = 2048, 5000, 500
# The layers whose outputs are added to something, the stem, and the classifier.
SUMMED = ("conv2d", "conv2d_2", "conv2d_4", "conv2d_5", "conv2d_7", "conv2d_8", "dense")
RESULTS = pathlib.Path(__file__).parent / "results" / "resnet8_cifar10.json"
# Highest learning rate of the common epochs.
COMMON_RATE = 1e-3
# Half epochs with the rounding of int8.
NUM_AWARE_PARTS, AWARE_RATE = 2, 1e-4


def saved_network(path: pathlib.Path) -> keras.Model:
    """The network as it was published, for pixels from 0 to 255."""
    network = keras.models.load_model(path, compile=False)
    # Keras 2 saved the only input as a list of one, of which Keras 3 warns.
    return keras.Model(network.inputs[0], network.outputs[0], name="resnet8")


def for_unit_interval(network: keras.Model) -> keras.Model:
    """A copy for pixels from 0 to 1.

    Pixels up to 255 make the first kernel so small, once batch statistics are part of
    it, that int8 training takes it apart. The penalties of the weights stay behind.
    """

    def unpenalised(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        if "kernel_regularizer" in config:
            config["kernel_regularizer"] = None
        return type(layer).from_config(config)

    copy = keras.models.clone_model(network, clone_function=unpenalised)
    copy.set_weights(network.get_weights())
    first = next(
        layer for layer in copy.layers if isinstance(layer, keras.layers.Conv2D)
    )
    normalizations = [
        layer
        for layer in copy.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    # What follows the first layer takes any factor out. This one makes its kernel as
    # large as others: 64 times as large it would hardly move in steps of their size.
    factor = 64
    first.kernel.assign(255 / factor * first.kernel)
    first.bias.assign(first.bias / factor)
    normalizations[0].moving_mean.assign(normalizations[0].moving_mean / factor)
    normalizations[0].moving_variance.assign(
        normalizations[0].moving_variance / factor**2
    )
    for layer in normalizations:
        layer.momentum = 0.95
    return copy


def refresh(network: keras.Model, train) -> None:
    """Takes batch statistics anew, of images as they are.

    Those of images that are moved as in training cost the networks 0.2 to 0.4 point
    of accuracy.
    """
    refresh_batch_statistics(network, train[0][:NUM_FOR_STATISTICS])


def rounds_of(run: str, train) -> list:
    """What a name says of pruning, as functions of networks."""
    method, *shares = run.removesuffix("_soft").split("_")
    return [
        functools.partial(
            pruned,
            train=train,
            method=method,
            share=int(percent) / 100,
            ranking="layer" if number < len(shares) else "global",
        )
        for number, percent in enumerate(shares, 1)
    ]


def pruned(
    network: keras.Model, train, method: str, share: float, ranking: str
) -> keras.Model:
    """The network without the channels that hold a share of the weights.

    Those of all layers, or ("inner") those between the two layers of a block: their
    number is no other layer's, whereas the blocks' sums share theirs.
    """
    refresh(network, train)
    images, labels = train
    data = images[:NUM_FOR_CURVATURE], labels[:NUM_FOR_CURVATURE]
    # A few images speak for all of them.
    laplace = Laplace(
        network,
        keras.losses.SparseCategoricalCrossentropy(),
        curvature="ggn_mc",
        structure="diagonal",
        temperature=NUM_FOR_CURVATURE / len(train[0]),
    ).fit(data, verbose=0)
    laplace.optimize_prior_precision(steps=20, method="fixed_point")
    reduced = keras_bmr.reduce_model(
        laplace,
        reduced_prior="point_mass",
        criterion="magnitude" if method == "magnitude" else "delta_f",
        granularity="channel",
        sparsity=share,
        ranking=ranking,
        skip=SUMMED if method == "inner" else (),
    )
    shrunk = keras_bmr.shrink(reduced)
    print(f"  channels {list(widths(shrunk).values())}", flush=True)
    return shrunk


def quantization_aware(network: keras.Model, train, seed: int) -> keras.Model:
    """The network after an epoch with the rounding of the int8 file.

    Its own outputs before are what it learns from.
    """
    aware = to_quantization_aware(network, train[0][:NUM_REPRESENTATIVE])
    aware.compile(keras.optimizers.Adam(AWARE_RATE), distillation, jit_compile=False)
    for part in range(NUM_AWARE_PARTS):
        images, _ = half_epoch(*train, part, seed)
        targets = soft_targets(symmetric_predictions(network, images))
        aware.fit(
            in_batches(images, targets, BATCH_SIZE),
            verbose=0,
            callbacks=[Cosine(AWARE_RATE, part, NUM_AWARE_PARTS)],
        )
    return aware


def file_accuracy(path: pathlib.Path, x: np.ndarray, y: np.ndarray) -> float:
    """Share of right predictions of a file, image by image, in percent."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]
    right = 0
    for image, label in zip(x, y, strict=True):
        interpreter.set_tensor(source, image[np.newaxis])
        interpreter.invoke()
        right += int(interpreter.get_tensor(target).argmax() == label)
    return 100 * right / len(y)


def judged(network: keras.Model, name: str, train, test, arguments) -> dict:
    """How good a network is, what it costs, and the same of its int8 file."""
    predictions = network.predict(test[0], batch_size=500, verbose=0)
    cost = model_cost(network)
    return {
        "channels": list(widths(network).values()),
        "parameters": cost.num_parameters,
        "multiply_accumulates": cost.num_multiply_accumulates,
        "accuracy_percent": 100 * float(np.mean(predictions.argmax(-1) == test[1])),
        **exported(network, name, train, test, arguments),
    }


def exported(network: keras.Model, name: str, train, test, arguments) -> dict:
    """Writes the int8 file and says how good and large it is."""
    path = arguments.output_dir / f"{name}_int8.tflite"
    try:
        report = export_tflite(
            network,
            path,
            quantize="int8",
            representative_data=train[0][:NUM_REPRESENTATIVE],
            validation_data=test[0][:2000],
        )
    except RuntimeError as error:
        return {"int8_refused": str(error)}
    print(report, flush=True)
    return {
        "int8_accuracy_percent": file_accuracy(path, *test),
        "int8_top1_agreement_percent": 100 * report.top1_agreement,
        "int8_bytes": report.bytes,
        "int8_gzip_bytes": report.gzip_bytes,
        "int8_arena_bytes": report.arena_size().bytes,
    }


def run_all(train, test, arguments) -> None:
    """Trains, exports and judges what has no row yet."""
    rows = read_rows(arguments.results)
    saved = saved_network(arguments.model)

    def add(name: str, row: dict, **settings) -> None:
        # Another run of the benchmark may have written since.
        rows.update(read_rows(arguments.results))
        rows[name] = {**settings, **row}
        write_rows(arguments.results, rows)
        print(name, json.dumps(rows[name]), flush=True)

    if "saved" not in rows:
        pixels = [(255 * x, y) for x, y in (train, test)]
        add("saved", judged(saved, "saved", *pixels, arguments), epochs=0)
    keras.utils.set_random_seed(arguments.seed)
    recipe = Recipe(train, arguments.output_dir, arguments.seed)
    start_name = f"{arguments.common_epochs}_{COMMON_RATE:g}_{arguments.seed}"
    common = recipe.trained(
        for_unit_interval(saved),
        f"common_{start_name}",
        Period("adam", COMMON_RATE, arguments.common_epochs),
    )
    refresh(common, train)
    if "common" not in rows:
        row = judged(common, "common", train, test, arguments)
        add("common", row, epochs=arguments.common_epochs, seed=arguments.seed)
    settings = {
        "epochs": arguments.common_epochs
        + sum(period.epochs for period in arguments.periods),
        "seed": arguments.seed,
    }
    for method in arguments.runs:
        run = method
        if arguments.views != recipe.num_views:
            run += f"_{arguments.views}_views"
        aware_run = f"{run}_aware"
        if run in rows and (aware_run in rows or not arguments.quantization_aware):
            continue
        print(run, flush=True)
        keras.utils.set_random_seed(arguments.seed)
        soft = {"teacher": common, "teacher_name": start_name}
        of_run = dataclasses.replace(
            recipe,
            num_views=arguments.views,
            **soft if method.endswith("_soft") else {},
        )
        network = of_run.trained_in_periods(
            common,
            f"{run}_{start_name}",
            arguments.periods,
            rounds_of(method, train),
        )
        refresh(network, train)
        if run not in rows:
            add(run, judged(network, run, train, test, arguments), **settings)
        if arguments.quantization_aware:
            aware = quantization_aware(network, train, arguments.seed)
            row = exported(aware, aware_run, train, test, arguments)
            of_float = {k: v for k, v in rows[run].items() if "int8" not in k}
            add(aware_run, {**of_float, **row}, **settings)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=pathlib.Path, required=True, help="resnet8_cifar10.h5")
    add("--data", type=pathlib.Path, required=True, help="an .npz with CIFAR-10")
    add("--output-dir", type=pathlib.Path, default=pathlib.Path("build/resnet8"))
    add("--results", type=pathlib.Path, default=RESULTS)
    add(
        "--runs",
        nargs="*",
        default=["unpruned", "inner_13_15_17_21_20_soft"],
        help='"unpruned", or the method and what the rounds take, in per cent',
    )
    add("--common-epochs", type=int, default=10, help="the first, without any pruning")
    add(
        "--periods",
        type=Period.parsed,
        nargs="+",
        default=[
            Period("adam", 1e-3, 40),
            Period("adam", 2e-3, 90),
            Period("muon", 6e-3, 150),
        ],
        help="of every run after the common epochs: optimizer:highest rate:epochs",
    )
    add(
        "--views",
        type=int,
        default=8,
        help="of every image, moved and mirrored, until they come again; the common "
        "epochs have 8",
    )
    add("--seed", type=int, default=0)
    add(
        "--quantization-aware",
        action="store_true",
        help="also train a little with the rounding of int8, as rows of their own",
    )
    add("--latency", action="store_true", help="only measure the files that are there")
    add("--plot", type=pathlib.Path, help="only draw the rows that are there")
    arguments = parser.parse_args()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    if arguments.latency:
        measure(arguments.results, arguments.output_dir)
    if arguments.plot:
        plot(read_rows(arguments.results), arguments.plot)
    if not (arguments.latency or arguments.plot):
        train, test = load_images(arguments.data, arguments.output_dir)
        scaled = [(x.astype("float32") / 255, y) for x, y in (train, test)]
        run_all(*scaled, arguments)


if __name__ == "__main__":
    main()
