"""From any saved Keras classifier to a smaller, verified .tflite file.

The posteriors start at the weights of the saved model (.keras or .h5, Keras 2 HDF5
included), are trained for a few epochs, reduced by log evidence and fine-tuned. The
data file holds x_train, y_train, x_test, y_test in the units that the model expects;
images may be JPEGs: jpeg_train, offset_train and so on, image i being the bytes from
offset[i] to offset[i + 1].

    python examples/pretrained.py --model resnet8_cifar10.h5 --data cifar10.npz
    python examples/pretrained.py --model m.keras --data d.npz --sparsity 0.8 --flip
"""

import argparse
import pathlib
import time
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

import keras_bmr
from keras_bmr.callbacks import KLAnnealing
from keras_bmr.objectives import expected_calibration_error, negative_log_likelihood

BATCH_SIZE = 64
# Examples for calibration and verification of the files, and for batch statistics.
NUM_REPRESENTATIVE = 500
NUM_FOR_STATISTICS = 4096


def load_split(file: np.lib.npyio.NpzFile, name: str, num_examples: int | None):
    """The first examples of "train" or "test", as float32 and integer labels."""
    labels = file[f"y_{name}"].reshape(-1)[:num_examples].astype("int32")
    if f"x_{name}" in file:
        return file[f"x_{name}"][:num_examples].astype("float32"), labels
    content, offset = file[f"jpeg_{name}"].tobytes(), file[f"offset_{name}"]
    images = [
        tf.io.decode_jpeg(content[offset[i] : offset[i + 1]]).numpy()
        for i in range(len(labels))
    ]
    return np.stack(images).astype("float32"), labels


def load_model(path: pathlib.Path, x: np.ndarray) -> keras.Model:
    """The saved model without its training state, ready for a short training."""
    # An optimiser saved by Keras 2 cannot be restored, and nobody needs it here.
    network = keras.models.load_model(path, compile=False)
    if network.input_shape[1:] != x.shape[1:]:
        raise ValueError(
            f"The model {path} expects inputs of shape {network.input_shape[1:]}. "
            f"Received: data of shape {x.shape[1:]}"
        )
    # Keras 2 saved the only input as a list of one, and Keras 3 warns at each call.
    network = keras.Model(network.inputs[0], network.outputs[0], name=network.name)
    for layer in batch_normalizations(network):
        # The usual 0.99 would need more steps than a short training has.
        layer.momentum = min(layer.momentum, 0.9)
    return network


def batch_normalizations(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """All batch normalisations of a model, those of nested models included."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            yield layer
        elif isinstance(layer, keras.Model):
            yield from batch_normalizations(layer)


def network_of_means(model: keras.Model, x: np.ndarray) -> keras.Model:
    """The ordinary network of posterior means, with batch statistics of its own.

    The moving averages of training lag behind the weights, and they are those of
    noisy activations, whose variance is larger; the means would be scaled wrongly.
    """
    network = keras_bmr.to_deterministic(model)
    keras_bmr.layers.refresh_batch_statistics(network, x[:NUM_FOR_STATISTICS])
    return network


def has_probabilities(network: keras.Model, x: np.ndarray) -> bool:
    """Whether the outputs are probabilities rather than logits."""
    outputs = network.predict(x, verbose=0)
    return bool((outputs >= 0).all() and np.allclose(outputs.sum(-1), 1, atol=1e-3))


def fit(model, x, y, loss, epochs, arguments, callbacks=()) -> None:
    """Compiles and fits, with a learning rate that falls to nearly nothing."""
    num_steps = epochs * -(-len(x) // BATCH_SIZE)
    rate = keras.optimizers.schedules.CosineDecay(
        arguments.learning_rate, max(1, num_steps), alpha=0.02
    )
    # On a CPU training steps with convolutions are slower under XLA.
    model.compile(
        keras.optimizers.Adam(rate), loss=loss, metrics=["accuracy"], jit_compile=False
    )
    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x)).batch(BATCH_SIZE)
    if arguments.flip:
        data = data.map(lambda x, y: (tf.image.random_flip_left_right(x), y))
    model.fit(
        data,
        epochs=epochs,
        callbacks=callbacks,
        verbose=arguments.verbose,
        shuffle=False,  # done above
    )


def judged(network, x, y, from_logits: bool) -> dict[str, str]:
    """Accuracy, NLL, ECE and the share of weights, formatted."""
    outputs = network.predict(x, batch_size=500, verbose=0)
    if from_logits:
        outputs = keras.ops.convert_to_numpy(keras.ops.softmax(outputs))
    return {
        "test accuracy": f"{(outputs.argmax(-1) == y).mean():.4f}",
        "NLL (nats)": f"{negative_log_likelihood(outputs, y):.4f}",
        "ECE (20 quantile bins)": f"{expected_calibration_error(outputs, y):.4f}",
        "weights kept": f"{1 - keras_bmr.sparsity(network):.1%}",
    }


def exported(network, folder: pathlib.Path, name: str, x, x_test) -> dict[str, str]:
    """Writes the float32 and the int8 file and says what they are like."""
    rows = {}
    for label, mode in (("float32", None), ("int8", "int8")):
        try:
            report = keras_bmr.export_tflite(
                network,
                folder / f"{name}_{label}.tflite",
                quantize=mode,
                representative_data=x[:NUM_REPRESENTATIVE],
                validation_data=x_test[:NUM_REPRESENTATIVE],
                sparse=mode is None,
            )
        except RuntimeError as error:
            # The other files are worth having even if one of them disagrees.
            print(f"{name}, {label}: {error}")
            rows[f"{label} file (bytes)"] = "refused"
            continue
        rows |= {
            f"{label} file (bytes)": f"{report.bytes}",
            f"{label} file, gzip (bytes)": f"{report.gzip_bytes}",
            f"{label} latency (ms)": f"{report.latency_ms:.3f}",
            f"{label} largest difference": f"{report.max_difference:.1e}",
            f"{label} top-1 agreement": f"{report.top1_agreement:.2%}",
        }
    return rows


def compress(network, x, y, loss, arguments) -> dict[str, keras.Model]:
    """The ordinary networks after training, after reduction and after fine-tuning."""
    start = time.perf_counter()
    model = keras_bmr.to_variational(network, num_examples=len(x))
    warm_up = max(1, arguments.epochs - 1)
    annealing = KLAnnealing(epochs=warm_up, end=arguments.kl_factor)
    fit(model, x, y, loss, arguments.epochs, arguments, [annealing])
    networks = {"trained": network_of_means(model, x)}

    keras_bmr.ModelReduction(model, sparsity=arguments.sparsity).summary()
    reduced = keras_bmr.reduce_model(model, sparsity=arguments.sparsity)
    networks["reduced"] = network_of_means(reduced, x)
    fit(reduced, x, y, loss, arguments.fine_tune_epochs, arguments)
    networks["fine-tuned"] = network_of_means(reduced, x)
    print(f"\nTraining and reduction took {time.perf_counter() - start:.0f} s")
    return networks


def arguments_of(command_line: list[str] | None) -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="an .npz")
    parser.add_argument("--examples", type=int, help="use the first N for training")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--fine-tune-epochs", type=int, default=3)
    parser.add_argument("--sparsity", type=float, help="else what the evidence says")
    parser.add_argument("--kl-factor", type=float, default=0.4)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--flip", action="store_true", help="mirror images at random")
    parser.add_argument("--output-dir", type=pathlib.Path, default="build")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", type=int, default=2)
    return parser.parse_args(command_line)


def main(command_line: list[str] | None = None) -> dict[str, dict[str, str]]:
    """Runs the example; prints and returns the table, column by column."""
    arguments = arguments_of(command_line)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(arguments.seed)
    with np.load(arguments.data) as file:
        x, y = load_split(file, "train", arguments.examples)
        x_test, y_test = load_split(file, "test", None)
    network = load_model(arguments.model, x)
    from_logits = not has_probabilities(network, x[:100])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)

    networks = {"saved": network, **compress(network, x, y, loss, arguments)}
    table = {
        name: judged(stage, x_test, y_test, from_logits)
        for name, stage in networks.items()
    }
    for name in ("saved", "fine-tuned"):
        table[name] |= exported(networks[name], arguments.output_dir, name, x, x_test)
    print(f"\n{'':28s}" + "".join(f"{name:>12s}" for name in table))
    for row in max(table.values(), key=len):
        cells = "".join(f"{column.get(row, ''):>12s}" for column in table.values())
        print(f"{row:28s}{cells}")
    return table


if __name__ == "__main__":
    main()
