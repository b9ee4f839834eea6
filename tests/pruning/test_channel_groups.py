"""Groups of weights of several tensors, against sums over sets of single entries."""

import types

import keras
import numpy as np
import pytest
from tensorflow_probability import distributions as tfd

import keras_bmr
from keras_bmr import ModelReduction, reduce_model
from keras_bmr.pruning import weight_mask
from keras_bmr.pruning.groups import ChannelGroups

# Unit i of the first layer is group i, unit i of the second one group 6 + i.
AXES = [
    ("first", "kernel", 1, range(6), "incoming"),
    ("first", "bias", 0, range(6), "incoming"),
    ("norm", "gamma", 0, range(6), "incoming"),
    ("norm", "moving_variance", 0, range(6), "incoming"),
    ("second", "kernel", 0, range(6), "outgoing"),
    ("second", "kernel", 1, [6, 7, 8, -1], "incoming"),
    ("second", "bias", 0, [6, 7, 8, -1], "incoming"),
    ("output", "kernel", 0, [6, 7, 8, -1], "outgoing"),
]
NUM_GROUPS = 9


class UnitsByHand(ChannelGroups):
    @classmethod
    def partition(cls, model, weights, skipped):
        axes = [
            types.SimpleNamespace(
                layer=model.get_layer(layer),
                name=name,
                axis=axis,
                groups=np.array(groups),
                role=role,
            )
            for layer, name, axis, groups, role in AXES
        ]
        return cls.of_axes(axes, NUM_GROUPS, weights, skipped)


@pytest.fixture
def model():
    network = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(6, name="first"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(4, activation="tanh", name="second"),
            keras.layers.Dense(2, name="output"),
        ]
    )
    generator = np.random.default_rng(0)
    for variable in network.trainable_variables:
        variable.assign(1 + generator.normal(size=variable.shape))
    model = keras_bmr.to_variational(
        network, num_examples=50, prior=keras_bmr.priors.Normal(1.0)
    )
    for layer in keras_bmr.layers.variational_layers(model):
        shape = layer.kernel.shape
        loc = generator.normal(scale=0.4, size=shape).astype("float32")
        scale = np.exp(generator.uniform(-3, -0.5, shape)).astype("float32")
        layer.assign_posterior("kernel", tfd.Normal(loc, scale))
    return model


def entries(model):
    """The set of (layer, name, index) that each group has."""
    groups = [set() for _ in range(NUM_GROUPS)]
    for layer, name, axis, numbers, _ in AXES:
        shape = getattr(model.get_layer(layer), name).shape
        for index in np.ndindex(*shape):
            if numbers[index[axis]] >= 0:
                groups[numbers[index[axis]]].add((layer, name, index))
    return groups


def scores_of(values, groups):
    """Sums over the kernels, which have posteriors."""
    return np.array(
        [
            sum(float(values[e[0]][e[2]]) for e in group if e[1] == "kernel")
            for group in groups
        ]
    )


def check_pruned(model, pruned, groups):
    gone = set().union(*(groups[i] for i in pruned)) if len(pruned) else set()
    for layer in model.layers:
        for variable in layer.weights:
            name = variable.name
            if (layer.name, name) not in {a[:2] for a in AXES}:
                continue
            value = getattr(layer, name).numpy()
            for index in np.ndindex(*value.shape):
                expected = (layer.name, name, index) in gone
                if name == "moving_variance":
                    assert value[index] > 0
                else:
                    assert (value[index] == 0) == expected
                    assert weight_mask(layer, name)[index] != expected


def test_evidence_is_summed_over_all_tensors(model):
    reduction = ModelReduction(
        model, "point_mass", granularity=UnitsByHand, threshold=0.0
    )
    groups = entries(model)
    names = ("first", "second", "output")
    delta_f = {name: reduction.delta_f(name, "kernel") for name in names}
    scores = scores_of(delta_f, groups)
    pruned = np.flatnonzero(scores > 0)
    assert 0 < pruned.size < NUM_GROUPS
    reduction.apply(model)
    check_pruned(model, pruned, groups)
    # Each weight counts once, whether it goes with its row or its column.
    total = sum(delta_f[n][~reduction.keep(n, "kernel")].sum() for n in names)
    assert reduction.log_bayes_factor == pytest.approx(total, rel=1e-5)
    # A second time nothing is left that the rule would take.
    again = ModelReduction(
        model, "point_mass", granularity=UnitsByHand, threshold=np.inf
    )
    assert all(row.log_bayes_factor == 0 for row in again.layers())


@pytest.mark.parametrize("sparsity", [0.2, 0.55, 0.8])
def test_share_counts_weights_once(model, sparsity):
    groups = entries(model)
    kernels = {
        layer.name: layer.posterior("kernel").loc.numpy()
        for layer in keras_bmr.layers.variational_layers(model)
    }
    squares = {name: kernel**2 for name, kernel in kernels.items()}
    counts = {name: np.ones(kernel.shape) for name, kernel in kernels.items()}
    scores = -np.sqrt(scores_of(squares, groups) / scores_of(counts, groups))
    evident = [{e for e in group if e[1] == "kernel"} for group in groups]
    # The second kernel has a column without a group, but all its rows have one.
    num_weights = len(set().union(*evident))
    gone, pruned = set(), []
    for group in np.argsort(-scores):
        if len(gone | evident[group]) > round(sparsity * num_weights):
            break
        gone |= evident[group]
        pruned.append(group)
    reduced = reduce_model(
        model, criterion="magnitude", granularity=UnitsByHand, sparsity=sparsity
    )
    check_pruned(reduced, pruned, groups)
    # What is pruned counts in a second round.
    further = reduce_model(
        reduced, criterion="magnitude", granularity=UnitsByHand, sparsity=sparsity
    )
    check_pruned(further, pruned, groups)


def test_layer_by_layer_each_loses_its_share_of_units(model):
    reduction = ModelReduction(
        model, granularity=UnitsByHand, sparsity=0.5, ranking="layer"
    )
    assert (~reduction.keep("first", "bias")).sum() == 3
    # One of three: two would be more than half of the weights.
    assert (~reduction.keep("second", "bias")).sum() == 1
    reduced = reduce_model(
        model, granularity=UnitsByHand, sparsity=0.5, ranking="layer"
    )
    for name in ("first", "second"):
        kept = reduced.get_layer(name).bias.numpy() != 0
        np.testing.assert_array_equal(kept, reduction.keep(name, "bias"))


def test_skipped_layers_keep_their_units_and_weights(model):
    before = model.get_layer("second").kernel.numpy().copy()
    reduced = reduce_model(
        model, granularity=UnitsByHand, sparsity=0.3, skip=["second"]
    )
    np.testing.assert_array_equal(reduced.get_layer("second").kernel.numpy(), before)
    assert reduced.get_layer("second").mask("kernel").numpy().all()
    assert (reduced.get_layer("first").bias.numpy() == 0).any()


def test_a_layer_keeps_a_channel(model):
    before = [value.copy() for value in model.get_weights()]
    reduction = ModelReduction(model, granularity=UnitsByHand, threshold=-1e9)
    with pytest.raises(ValueError, match="Nothing would be left of layer 'first'"):
        reduction.apply(model)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_pruned_units_stay_out_of_training_round_after_round(model):
    schedule = keras_bmr.callbacks.ReductionSchedule(0.7, start=1, every=1, share=0.3)
    callback = keras_bmr.callbacks.ModelReductionCallback(
        schedule, granularity=UnitsByHand
    )
    model.compile(keras.optimizers.Adam(0.02), loss="mse", jit_compile=False)
    x = np.random.default_rng(0).normal(size=(16, 5)).astype("float32")
    model.fit(x, x[:, :2], epochs=6, verbose=0, callbacks=[callback])
    groups = entries(model)
    pruned = [
        number
        for number, group in enumerate(groups)
        if not any(
            weight_mask(model.get_layer(layer), name)[index]
            for layer, name, index in group
            if name == "kernel"
        )
    ]
    assert 0 < len(pruned) < NUM_GROUPS
    check_pruned(model, pruned, groups)


def test_an_entry_of_the_row_and_column_of_one_group_counts_once():
    layer = keras_bmr.layers.SimpleRNNVariational(
        4, prior=keras_bmr.priors.Normal(1.0), num_examples=10, name="rnn"
    )
    model = keras.Sequential([keras.Input((3, 2)), layer])

    class Units(ChannelGroups):
        @classmethod
        def partition(cls, model, weights, skipped):
            paths = [("cell.kernel", 1), ("cell.recurrent_kernel", 0)]
            paths += [("cell.recurrent_kernel", 1), ("cell.bias", 0)]
            axes = [
                types.SimpleNamespace(
                    layer=layer, name=p, axis=a, groups=np.arange(4), role="incoming"
                )
                for p, a in paths
            ]
            return cls.of_axes(axes, 4, weights, skipped)

    seen = {}

    class Recording(keras_bmr.pruning.criteria.DeltaF):
        def score(self, total, count):
            seen.update(total=total, count=count)
            return total

    reduction = ModelReduction(
        model, "point_mass", Recording(), granularity=Units, threshold=0.0
    )
    kernel = reduction.delta_f("rnn", "kernel").astype("float64")
    recurrent = reduction.delta_f("rnn", "recurrent_kernel").astype("float64")
    expected = kernel.sum(0) + recurrent.sum(0) + recurrent.sum(1) - np.diag(recurrent)
    np.testing.assert_allclose(seen["total"], expected, rtol=1e-6)
    np.testing.assert_array_equal(seen["count"], 4 * [2 + 4 + 4 - 1])
