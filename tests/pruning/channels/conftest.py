import keras
import numpy as np
import pytest


def randomise(model, seed=0):
    """Weights that let signals through, statistics and biases that are not trivial."""
    generator = np.random.default_rng(seed)
    for variable in model.variables:
        shape, name = variable.shape, variable.name
        if "variance" in name or "gamma" in name:
            variable.assign(generator.uniform(0.5, 1.5, shape))
        elif "mean" in name or "beta" in name or "bias" in name:
            variable.assign(generator.normal(0, 0.3, shape))
        elif name in ("kernel", "recurrent_kernel", "embeddings") or (
            "wise_kernel" in name and "_kernel_" not in name
        ):
            fan_in = np.prod(shape[:-2] if "depth" in variable.path else shape[:-1])
            variable.assign(generator.normal(0, 1.5 / np.sqrt(fan_in), shape))


def inputs_for(model, count=3):
    generator = np.random.default_rng(7)
    found = [
        generator.integers(0, 10, (count, *tensor.shape[1:]))
        if "int" in tensor.dtype
        else generator.normal(size=(count, *tensor.shape[1:])).astype("float32")
        for tensor in model.inputs
    ]
    return found[0] if len(found) == 1 else found


def outputs_of(model, inputs):
    outputs = keras.tree.flatten(model(inputs, training=False))
    return np.concatenate([np.asarray(output).reshape(-1) for output in outputs])


@pytest.fixture
def check_shrunk():
    """Compares a masked model with the smaller one, and returns the latter."""
    from keras_bmr import shrink

    def check(model):
        inputs = inputs_for(model)
        before = [variable.numpy() for variable in model.variables]
        expected = outputs_of(model, inputs)
        assert np.std(expected) > 1e-2
        small = shrink(model)
        np.testing.assert_allclose(outputs_of(small, inputs), expected, atol=1e-5)
        assert type(small) is type(model)
        names = [layer.name for layer in small.layers]
        assert names == [la.name for la in model.layers if la.name in names]
        for old, variable in zip(before, model.variables, strict=True):
            np.testing.assert_array_equal(variable.numpy(), old)
        return small

    return check


@pytest.fixture
def prune():
    """Prunes channels that a layer makes, and all that is coupled with them."""
    from keras_bmr.pruning.channels import ChannelGraph, prune_channels

    def prune_by_name(model, channels):
        graph = ChannelGraph(model)
        groups = []
        for axis in graph.axes:
            indices = channels.get(axis.layer.name)
            if indices is not None and axis.role == "incoming":
                groups += [group for group in axis.groups[indices] if group >= 0]
        prune_channels(model, groups, graph)
        return graph

    return prune_by_name


@pytest.fixture
def random_weights():
    return randomise
