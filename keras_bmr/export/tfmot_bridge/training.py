"""Fine-tuning of a tf_keras network by the schemes of tfmot."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from keras_bmr.export.tfmot_bridge.calibration import calibrate
from keras_bmr.export.tfmot_bridge.loading import load_tfmot

SCHEMES = ("pqat", "cluster", "pcqat")
# tfmot needs a positive and a negative one beside zero.
MIN_CLUSTERS = 3
_KERNELS = ("kernel:0", "depthwise_kernel:0")


def kept_weights(network: tf_keras.Model) -> dict[str, np.ndarray]:
    """Which entries of the kernels of a network are not zero.

    Args:
        network: A model of tf_keras, or one that tfmot made of it.

    Returns:
        Boolean arrays in the shapes of the kernels, by the names of the layers.
    """
    return {name: variable.numpy() != 0 for name, variable in _kernels(network).items()}


class KeepsPruned(tf_keras.callbacks.Callback):
    """Sets pruned weights to zero after every batch.

    tfmot's schemes keep the zeros of Dense and Conv2D layers by masks of their own,
    and forget those of DepthwiseConv2D.

    Args:
        kept: Boolean arrays by the names of the layers, False where pruned.
    """

    def __init__(self, kept: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        self._kept = kept
        self._pairs: list[tuple[tf.Variable, tf.Tensor]] = []

    def on_train_begin(self, logs: Any = None) -> None:
        """Finds the variables in the model."""
        del logs
        self._pairs = [
            (variable, tf.constant(self._kept[name], variable.dtype))
            for name, variable in _kernels(self.model).items()
            if name in self._kept
        ]

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Multiplies the kernels by their masks."""
        del batch, logs
        for variable, mask in self._pairs:
            variable.assign(variable * mask)


def fine_tune(
    network: tf_keras.Model,
    scheme: str,
    fit: Callable[[tf_keras.Model], None],
    num_clusters: int,
    examples: list[np.ndarray],
) -> tf_keras.Model:
    """Trains a network by a scheme of tfmot.

    Args:
        network: A model of tf_keras. Clustering changes it.
        scheme: "pqat", "cluster" or "pcqat".
        fit: Compiles and fits a model that tfmot made, with pruned weights kept.
        num_clusters: Largest number of different values of the weights of a layer, at
            least `MIN_CLUSTERS`.
        examples: One array per input, to start the ranges of activations with.

    Returns:
        The trained model: one that rounds weights and activations to the grids of
        TFLite, or, for "cluster", an ordinary one.

    Raises:
        ImportError: If tfmot is not installed.
        ValueError: If tfmot refuses a layer of the network.
    """
    tfmot = load_tfmot()
    combine = tfmot.experimental.combine
    if scheme == "pqat":
        quantization = combine.Default8BitPrunePreserveQuantizeScheme()
    else:
        with _named_errors(network):
            clustered = _clustered(tfmot, network, num_clusters)
        # Centroids are trained in the place of kernels, about which TensorFlow warns.
        with _without_warnings():
            fit(clustered)
        network = tfmot.clustering.keras.strip_clustering(clustered)
        if scheme == "cluster":
            return network
        quantization = combine.Default8BitClusterPreserveQuantizeScheme(
            preserve_sparsity=True
        )
    with _named_errors(network), warnings.catch_warnings():
        # Of layers whose weights are all pruned, which need none.
        warnings.filterwarnings("ignore", "No clustering performed")
        annotated = tfmot.quantization.keras.quantize_annotate_model(network)
        aware = tfmot.quantization.keras.quantize_apply(annotated, quantization)
    calibrate(aware, examples)
    fit(aware)
    _give_empty_channels_a_scale(aware)
    return aware


def _give_empty_channels_a_scale(aware: tf_keras.Model) -> None:
    """Gives channels of zeros the range of the other channels.

    The converter expresses a bias in multiples of the scale of its channel, of which
    there are too many for 32 bits if all weights of the channel are pruned.
    """
    for variable in aware.weights:
        if not variable.name.endswith(("kernel_min:0", "kernel_max:0")):
            continue
        bounds = variable.numpy()
        largest = np.max(np.abs(bounds)) or 1.0
        sign = -1.0 if variable.name.endswith("_min:0") else 1.0
        variable.assign(np.where(bounds == 0, sign * largest, bounds))


def _clustered(tfmot, network: tf_keras.Model, num_clusters: int) -> tf_keras.Model:
    # The function that keeps zeros is not among tfmot's public ones, but is the one
    # that its guide to combining the schemes uses.
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import (  # noqa: E501
        cluster,
    )

    initialization = tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS
    kernels = _kernels(network)

    def clustered(layer: tf_keras.layers.Layer) -> tf_keras.layers.Layer:
        limit = num_clusters
        if layer.name in kernels:
            kernel = kernels[layer.name].numpy()
            # Each cluster but that of the zeros starts at a weight of its own.
            limit = min(num_clusters, np.count_nonzero(kernel) + 1)
            if limit < MIN_CLUSTERS or kernel.size <= limit:
                # It has no more values than that, in clusters or not.
                return layer
        return cluster.cluster_weights(
            layer,
            number_of_clusters=int(limit),
            cluster_centroids_init=initialization,
            preserve_sparsity=True,
        )

    return tf_keras.models.clone_model(network, clone_function=clustered)


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _named_errors(network: tf_keras.Model) -> Iterator[None]:
    """Says which model and what else can be done where tfmot gives up."""
    try:
        yield
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"tfmot cannot train model '{network.name}': {error} "
            "`keras_bmr.export.to_quantization_aware` may be able to."
        ) from error


def _kernels(network: tf_keras.Model) -> dict[str, tf.Variable]:
    """The kernels by the names of their layers, those inside of wrappers too."""
    found = {}
    for layer in network.layers:
        # A wrapped layer's own attribute is a tensor made of the variable.
        name = getattr(layer, "layer", layer).name
        for variable in layer.weights:
            if variable.name.split("/")[-1] in _KERNELS:
                found[name] = variable
    return found
