"""Where a model can have noise gates, and the model with them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from keras_bmr.argument_checks import require_integer
from keras_bmr.layers.checks import check_clonable, check_finite
from keras_bmr.layers.cloning import copy_layer, copy_state, uncompiled, within
from keras_bmr.layers.multiplicative_noise import MultiplicativeNoise
from keras_bmr.layers.traversal import layers_named, variational_layers

# Each output channel of theirs has weights of its own.
_PRODUCERS = (
    keras.layers.Dense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)
# What belongs to the block of a producer: the gate goes behind it. A positive factor
# per channel may as well stand behind a pooling layer, where there is less to multiply.
_BLOCK = (
    keras.layers.BatchNormalization,
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.ELU,
    keras.layers.PReLU,
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    keras.layers.MaxPooling1D,
    keras.layers.MaxPooling2D,
    keras.layers.MaxPooling3D,
    keras.layers.AveragePooling1D,
    keras.layers.AveragePooling2D,
    keras.layers.AveragePooling3D,
)
# They have weights, but make no new channels of what they read.
_PASS_ON = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
    keras.layers.Normalization,
    keras.layers.PReLU,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    MultiplicativeNoise,
)


def add_noise_gates(
    model: keras.Model,
    num_examples: int | None = None,
    posterior: Any = "truncated_log_normal",
    skip: Sequence[str] = (),
) -> keras.Model:
    """Copies a model with a noise gate behind each of its dense and convolution blocks.

    A block is a Dense, convolution, transposed or separable convolution layer, and
    the batch normalisation, activation, dropout and pooling layers that directly
    follow it. There is none behind the output layers, nor where a gate is already.

    On a residual branch the gate comes before the addition: it can shut the filters of
    the branch, while the channels of the sum stay. Channels of a depthwise convolution
    are those that it reads, which have gates of their own. The outputs of attention,
    recurrent, embedding and EinsumDense layers, of layers called more than once and of
    nested models as a whole have none. The weights may have posteriors or not.

    Args:
        model: A built Sequential or Functional model. It is not changed.
        num_examples: Number of training examples, see `set_num_examples`. None takes
            that of the model, if it has Bayesian layers.
        posterior: Posterior of every gate, see `MultiplicativeNoise`.
        skip: Names of layers that get no gate; a nested model stands for all inside.

    Returns:
        A new, uncompiled model. The gates are called after the layers whose channels
        they shut, "dense_gate" for example.

    Raises:
        ValueError: If the model is subclassed or not built, has NaN or infinite
            weights, there is no place for a gate, or an argument is invalid.

    Example:
        >>> gated = keras_bmr.layers.add_noise_gates(model, num_examples=60000)
    """
    check_clonable(model)
    check_finite(model)
    if num_examples is not None:
        require_integer("num_examples", num_examples, at_least=1)
    skipped = layers_named(model, skip)
    known = variational_layers(model)
    if num_examples is None and known:
        num_examples = known[0].num_examples
    gates: list[MultiplicativeNoise] = []

    def gate_behind(producer: keras.layers.Layer) -> MultiplicativeNoise:
        channels_first = getattr(producer, "data_format", None) == "channels_first"
        gates.append(
            MultiplicativeNoise(
                axis=1 if channels_first else -1,
                posterior=posterior,
                num_examples=num_examples,
                dtype=producer.dtype_policy,
                name=f"{producer.name}_gate",
            )
        )
        return gates[-1]

    with uncompiled(model):
        gated = _copy(model, skipped, gate_behind)
    if not gates:
        raise ValueError(
            f"Model '{model.name}' has no place for a noise gate. Expected a Dense or "
            "convolution layer that is called once and whose output another layer "
            f"with weights reads. Received: skip={list(skip)}"
        )
    _copy_weights(model, gated)
    if known:
        for gate in gates:
            gate.kl_weight.assign(known[0].kl_weight)
    return gated


def _copy(
    model: keras.Model,
    skipped: set[int],
    gate_behind: Callable[[keras.layers.Layer], MultiplicativeNoise],
) -> keras.Model:
    """The model with gates, without the values of its variables."""
    producers = dict(_places(model, skipped))

    def copy(layer: keras.Operation) -> keras.Operation:
        if isinstance(layer, keras.Model):
            return _copy(layer, skipped, gate_behind)
        return copy_layer(layer)

    def call(layer: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        outputs = layer(*args, **kwargs)
        if layer.name not in producers:
            return outputs
        return gate_behind(producers[layer.name])(outputs)

    if not isinstance(model, keras.Sequential):
        return keras.models.clone_model(model, clone_function=copy, call_function=call)
    layers = [
        keras.Input(
            batch_shape=model.inputs[0].shape,
            dtype=model.inputs[0].dtype,
            name=model.inputs[0].name,
        )
    ]
    for layer in model.layers:
        layers.append(copy(layer))
        if layer.name in producers:
            layers.append(gate_behind(producers[layer.name]))
    return keras.Sequential(layers, name=model.name, trainable=model.trainable)


def _places(
    model: keras.Model, skipped: set[int]
) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Names of the layers to put a gate behind, each with the producer of its block."""
    graph = model._functional if isinstance(model, keras.Sequential) else model
    by_depth = sorted(graph._nodes_by_depth.items(), reverse=True)
    nodes = [node for _, level in by_depth for node in level]
    readers: dict[int, list] = {}
    num_calls: dict[int, int] = {}
    for node in nodes:
        operation = node.operation
        num_calls[id(operation)] = num_calls.get(id(operation), 0) + 1
        for tensor in node.input_tensors:
            readers.setdefault(id(tensor), []).append(node)
    outputs = {id(tensor) for tensor in graph.outputs}

    def reaches_output(tensor: keras.KerasTensor) -> bool:
        """Whether the output is made of the tensor without weights in between."""
        return id(tensor) in outputs or any(
            reaches_output(output)
            for node in readers.get(id(tensor), [])
            if not _makes_channels(node.operation)
            for output in node.output_tensors
        )

    for node in nodes:
        producer = node.operation
        if not isinstance(producer, _PRODUCERS) or id(producer) in skipped:
            continue
        last = node
        while True:
            (tensor,) = last.output_tensors
            following = readers.get(id(tensor), [])
            if (
                len(following) != 1
                or not isinstance(following[0].operation, _BLOCK)
                or id(tensor) in outputs
            ):
                break
            last = following[0]
        called_once = max(num_calls[id(n.operation)] for n in (node, last)) == 1
        has_gate = any(isinstance(n.operation, MultiplicativeNoise) for n in following)
        if called_once and not has_gate and not reaches_output(tensor):
            yield last.operation.name, producer


def _makes_channels(operation: keras.Operation) -> bool:
    return (
        isinstance(operation, keras.layers.Layer)
        and bool(operation.weights)
        and not isinstance(operation, _PASS_ON)
    )


def _copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copies the values of variables to a copy that has more layers."""
    for layer in source.layers:
        # Keras may name the inputs anew.
        if isinstance(layer, keras.layers.InputLayer):
            continue
        copied = target.get_layer(layer.name)
        if isinstance(layer, keras.Model):
            _copy_weights(layer, copied)
            continue
        for original, copy in zip(within(layer), within(copied), strict=True):
            copy_state(original, copy)
