"""From a pruned Keras 3 model through tfmot to a verified int8 file."""

import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf_keras

from keras_bmr.argument_checks import require_integer, require_positive
from keras_bmr.export import converter, latency, operators, verify
from keras_bmr.export.examples import MIN_REPRESENTATIVE
from keras_bmr.export.int8_weights import check_zeros, operator_of
from keras_bmr.export.network import deterministic_network, input_specifications
from keras_bmr.export.output_path import check_path
from keras_bmr.export.report import ExportReport
from keras_bmr.export.tfmot_bridge.loading import load_tfmot
from keras_bmr.export.tfmot_bridge.rebuilding import to_tf_keras
from keras_bmr.export.tfmot_bridge.training import (
    MIN_CLUSTERS,
    SCHEMES,
    KeepsPruned,
    fine_tune,
    kept_weights,
)
from keras_bmr.export.verified_file import verification_inputs, write_verified

_NUM_REPRESENTATIVE = 500
_BATCH_SIZE = 128


def export_with_tfmot(
    model: keras.Model,
    path: str | os.PathLike,
    data: tuple[Any, Any],
    loss: Any,
    scheme: str = "pqat",
    epochs: int = 3,
    batch_size: int = 32,
    learning_rate: float = 1e-4,
    num_clusters: int = 16,
    validation_data: Any = None,
) -> ExportReport:
    """Fine-tunes a pruned model with tfmot and writes it as a verified int8 file.

    The model is built anew in tf_keras, trained there by a scheme of TensorFlow's
    model optimisation toolkit, converted, run by the LiteRT interpreter and compared
    with what was trained. Every weight of a dense or convolution kernel that is zero
    before is zero in the file: tfmot's masks see to it, and for depthwise
    convolutions, where it has none, a mask after each batch. The model passed in is
    not changed, nor are `tf.keras` and the environment.

    Args:
        model: A built Sequential or Functional model, pruned or not; a Bayesian one is
            taken at its posterior means.
        path: File to write. Its folder must exist; what is there stays if there is an
            error.
        data: Inputs, as `model.predict` takes them, and targets to train on; at least
            20 examples.
        loss: Keras loss or its name, as for `model.compile`.
        scheme: "pqat" for quantisation-aware training that keeps zeros; "cluster" for
            weights of few different values, quantised after training; "pcqat" for
            both, one after the other.
        epochs: Epochs of training; of each of the two trainings of "pcqat".
        batch_size: Examples per training step.
        learning_rate: Of Adam.
        num_clusters: Number of different values of the weights of a layer, zero
            included, for "cluster" and "pcqat"; at least 3. A layer with fewer weights
            that are not zero has fewer.
        validation_data: Inputs to verify the file with; those of `data` if None.

    Returns:
        An `ExportReport`.

    Raises:
        ImportError: If tensorflow-model-optimization (extra `tfmot`) or ai-edge-litert
            (extra `litert`) is not installed.
        TypeError: If the model is no Keras model, or the path or data has a wrong type.
        ValueError: If an argument is invalid, or tfmot knows no way to train a layer.
        OSError: If the folder of `path` does not exist (FileNotFoundError), or takes no
            file.
        RuntimeError: If a pruned weight of the file is not zero, or the file disagrees
            with the trained model.

    Example:
    ```python
    report = keras_bmr.export.tfmot_bridge.export_with_tfmot(
        pruned, "model.tflite", (x_train, y_train), loss, scheme="pqat"
    )
    ```
    """
    if scheme not in SCHEMES:
        raise ValueError(
            f"Invalid value for `scheme`, expected one of {SCHEMES}. Received: "
            f"scheme={scheme!r}"
        )
    require_integer("epochs", epochs, at_least=1)
    require_integer("batch_size", batch_size, at_least=1)
    require_integer("num_clusters", num_clusters, at_least=MIN_CLUSTERS)
    require_positive("learning_rate", learning_rate)
    path = check_path(path)
    load_tfmot()
    latency.litert_interpreter()
    x, y = _inputs_and_targets(data)
    network = deterministic_network(model)
    specifications = input_specifications(network, 1)
    examples = verification_inputs(
        x, validation_data, network, specifications, 1, MIN_REPRESENTATIVE
    )
    inputs = examples.representative
    if len(y) != len(inputs[0]):
        raise ValueError(
            "Expected as many targets as inputs in `data`. Received: "
            f"{len(inputs[0])} inputs and {len(y)} targets"
        )
    rebuilt = to_tf_keras(network)
    kept = kept_weights(rebuilt)
    layers = {layer.name: operator_of(layer) for layer in rebuilt.layers}
    loss_function = keras.losses.get(loss)

    def fit(trained: tf_keras.Model) -> None:
        trained.compile(
            tf_keras.optimizers.Adam(learning_rate),
            lambda targets, outputs: loss_function(targets, outputs),
        )
        trained.fit(
            inputs,
            y,
            epochs=epochs,
            batch_size=batch_size,
            callbacks=[KeepsPruned(kept)],
            verbose=0,
        )

    representative = [array[:_NUM_REPRESENTATIVE] for array in inputs]
    trained = fine_tune(rebuilt, scheme, fit, num_clusters, representative)

    def infer(*tensors: tf.Tensor) -> list[tf.Tensor]:
        return tf.nest.flatten(trained(list(tensors), training=False))

    function = converter.trace_function(infer, specifications, 1)
    # The other schemes have ranges that were trained.
    content = converter.convert(
        function, "int8", representative if scheme == "cluster" else None
    )
    operators.check_operators(operators.operator_names(content))
    check_zeros(content, {name: (layers[name], mask) for name, mask in kept.items()})
    in_float = operators.float_operators(content)
    notes = [f"trained with tfmot, scheme {scheme}, compared with the trained model"]
    if in_float:
        notes.append(f"without an int8 kernel, in float32: {', '.join(in_float)}")
    return write_verified(
        content,
        path,
        examples,
        verify.run_function(infer, examples.arrays, _BATCH_SIZE),
        "int8",
        1,
        notes=tuple(notes),
        layer_names=list(layers),
    )


def _inputs_and_targets(data: Any) -> tuple[Any, np.ndarray]:
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise TypeError(
            "Expected `data` to be a pair of inputs and targets, (x_train, y_train). "
            f"Received: {type(data).__name__}"
        )
    targets = np.asarray(data[1])
    if targets.dtype.kind not in "fiub" or targets.ndim == 0:
        raise TypeError(
            "Expected the targets in `data` to be an array of numbers. Received: "
            f"dtype {targets.dtype}, shape {targets.shape}"
        )
    if not np.all(np.isfinite(targets)):
        raise ValueError(
            "Expected finite targets in `data`. Received: "
            f"{int(np.sum(~np.isfinite(targets)))} that are nan or infinite"
        )
    return data[0], targets
