import dataclasses

import keras
import numpy as np
import pytest

from keras_bmr import layers


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer class with small arguments and an input for it."""

    layer_class: type
    arguments: dict
    input_shape: tuple
    vocabulary: int | None = None

    def __str__(self):
        return self.layer_class.__name__

    def make(self, **options):
        return self.layer_class(**{**self.arguments, "num_examples": 10, **options})

    def make_parent(self):
        parent = layers.registry.deterministic_class(self.layer_class)
        return parent(**self.arguments)

    def inputs(self, batch=None, seed=0):
        shape = (batch or self.input_shape[0], *self.input_shape[1:])
        generator = np.random.default_rng(seed)
        if self.vocabulary is not None:
            return generator.integers(0, self.vocabulary, shape).astype("int32")
        return generator.normal(size=shape).astype("float32")

    def call_arguments(self, inputs):
        attends = issubclass(self.layer_class, keras.layers.MultiHeadAttention)
        return (inputs, inputs) if attends else (inputs,)

    def model(self, **options):
        """The layer between an input and a head."""
        dtype = "float32" if self.vocabulary is None else "int32"
        inputs = keras.Input(self.input_shape[1:], dtype=dtype)
        layer = self.make(**options)
        hidden = layer(*self.call_arguments(inputs))
        dtype = options.get("dtype")
        return keras.Model(
            inputs,
            keras.layers.Dense(2, dtype=dtype)(
                keras.layers.Flatten(dtype=dtype)(hidden)
            ),
        ), layer


CASES = [
    Case(layers.DenseVariational, {"units": 3}, (4, 5)),
    Case(
        layers.EinsumDenseVariational,
        {"equation": "abc,cd->abd", "output_shape": (2, 3), "bias_axes": "d"},
        (4, 2, 5),
    ),
    Case(layers.Conv1DVariational, {"filters": 3, "kernel_size": 2}, (4, 5, 2)),
    Case(layers.Conv2DVariational, {"filters": 3, "kernel_size": 2}, (4, 4, 4, 2)),
    Case(layers.Conv3DVariational, {"filters": 2, "kernel_size": 2}, (4, 3, 3, 3, 2)),
    Case(
        layers.Conv1DTransposeVariational, {"filters": 3, "kernel_size": 2}, (4, 3, 2)
    ),
    Case(
        layers.Conv2DTransposeVariational,
        {"filters": 3, "kernel_size": 2},
        (4, 3, 3, 2),
    ),
    Case(
        layers.Conv3DTransposeVariational,
        {"filters": 2, "kernel_size": 2},
        (4, 2, 2, 2, 2),
    ),
    Case(
        layers.DepthwiseConv1DVariational,
        {"kernel_size": 2, "depth_multiplier": 2},
        (4, 4, 3),
    ),
    Case(
        layers.DepthwiseConv2DVariational,
        {"kernel_size": 2, "depth_multiplier": 2},
        (4, 4, 4, 3),
    ),
    Case(
        layers.SeparableConv1DVariational, {"filters": 3, "kernel_size": 2}, (4, 4, 2)
    ),
    Case(
        layers.SeparableConv2DVariational,
        {"filters": 3, "kernel_size": 2},
        (4, 4, 4, 2),
    ),
    Case(layers.EmbeddingVariational, {"input_dim": 6, "output_dim": 3}, (4, 5), 6),
    Case(layers.SimpleRNNVariational, {"units": 3}, (4, 3, 2)),
    Case(layers.LSTMVariational, {"units": 3}, (4, 3, 2)),
    Case(layers.GRUVariational, {"units": 3}, (4, 3, 2)),
    Case(
        layers.MultiHeadAttentionVariational,
        {"num_heads": 2, "key_dim": 3},
        (4, 3, 4),
    ),
    Case(layers.LayerNormalizationVariational, {}, (4, 5)),
    Case(layers.BatchNormalizationVariational, {}, (4, 5)),
]
LINEAR = [
    (case, estimator)
    for case in CASES
    if issubclass(case.layer_class, layers.LinearVariational)
    for estimator in case.layer_class.ESTIMATORS
]


@pytest.fixture(params=CASES, ids=str)
def case(request):
    return request.param


@pytest.fixture(params=LINEAR, ids=lambda pair: f"{pair[0]}-{pair[1]}")
def linear_case(request):
    """A linear layer and one of the estimators that it offers."""
    return request.param


def randomize(layer, seed=0):
    """Gives the floating variables of the posteriors values unlike their starts."""
    generator = np.random.default_rng(seed)
    for name in layer.random_weight_names:
        weight = layer._random[name]
        for variable in (
            weight.location,
            *weight.posterior_state.values(),
            *weight.prior_state.values(),
        ):
            noise = generator.normal(size=variable.shape)
            variable.assign(variable + 0.1 * noise)


@pytest.fixture(name="randomize")
def randomize_fixture():
    return randomize


@pytest.fixture
def all_cases():
    return CASES
