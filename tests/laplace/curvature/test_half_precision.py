import keras
import numpy as np
import pytest
from keras import layers

from keras_bmr.laplace import fit_curvature

CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def residual(dtype):
    keras.utils.set_random_seed(0)
    options = {"padding": "same", "dtype": dtype}
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, activation="relu", **options)(inputs)
    y = layers.Conv2D(6, 3, **options)(x)
    x = layers.Add(dtype=dtype)([x, y])
    x = layers.GlobalAveragePooling2D(dtype=dtype)(x)
    return keras.Model(inputs, layers.Dense(3, dtype=dtype)(x))


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_the_curvature_is_about_that_of_single_precision(dtype):
    """Biases are summed over 64 positions, where bfloat16 is off by some per cent."""
    rng = np.random.default_rng(0)
    data = rng.normal(size=(32, 8, 8, 3)).astype("float32"), rng.integers(0, 3, 32)
    half, single = (
        fit_curvature(residual(policy), CROSS_ENTROPY, data, structure="diagonal")
        for policy in (dtype, "float32")
    )
    np.testing.assert_allclose(half.log_likelihood, single.log_likelihood, rtol=0.01)
    for found, expected in zip(half.blocks, single.blocks, strict=True):
        np.testing.assert_allclose(
            np.sum(found.diagonal), np.sum(expected.diagonal), rtol=0.05
        )
