"""Padding is no data."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_bmr.laplace import Laplace

CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def tagger(length, mask_zero, num_outputs=3, dtype=None):
    """A class for every token."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((length,), dtype="int32"),
            layers.Embedding(10, 4, mask_zero=mask_zero, dtype=dtype),
            layers.Dense(5, activation="tanh", dtype=dtype),
            layers.Dense(num_outputs, dtype=dtype),
        ]
    )


@pytest.fixture
def tokens():
    """Sequences of five of which the last two are padding."""
    rng = np.random.default_rng(0)
    x = rng.integers(1, 10, (40, 5))
    x[:, 3:] = 0
    return x, rng.integers(0, 3, (40, 5))


@pytest.mark.parametrize("curvature", ["ggn", "empirical_fisher"])
def test_padding_leaves_the_posterior_as_it_is(tokens, curvature):
    x, y = tokens
    padded, cut = (
        Laplace(model, CROSS_ENTROPY, curvature=curvature, structure="diagonal")
        for model in (tagger(5, True), tagger(3, False))
    )
    padded.fit((x, y))
    cut.fit((x[:, :3], y[:, :3]))
    np.testing.assert_allclose(
        padded.evidence_terms().log_likelihood,
        cut.evidence_terms().log_likelihood,
        rtol=1e-5,
    )
    for (layer, name), (same, _) in zip(padded.weights(), cut.weights(), strict=True):
        np.testing.assert_allclose(
            padded.posterior(layer, name).scale,
            cut.posterior(same, name).scale,
            rtol=1e-5,
        )


def test_labels_are_drawn_for_what_counts(tokens):
    laplace = Laplace(
        tagger(5, True), CROSS_ENTROPY, curvature="ggn_mc", structure="diagonal"
    ).fit(tokens)
    embedding, name = laplace.weights()[0]
    scale = laplace.posterior(embedding, name).scale.numpy()
    # Nothing is known of the padding's own row but the prior.
    np.testing.assert_allclose(scale[0], 1.0)
    assert scale[1:].max() < 1.0


def test_factors_of_kronecker_products_come_close(tokens):
    """The factor of the inputs has padding, too; that of the outputs has not."""
    x, y = tokens
    padded = Laplace(tagger(5, True), CROSS_ENTROPY).fit((x, y))
    cut = Laplace(tagger(3, False), CROSS_ENTROPY).fit((x[:, :3], y[:, :3]))
    np.testing.assert_allclose(
        padded.log_marginal_likelihood(), cut.log_marginal_likelihood(), rtol=0.01
    )


def test_half_precision_has_a_mask_too(tokens):
    x, y = tokens
    half = Laplace(tagger(5, True, dtype="mixed_bfloat16"), CROSS_ENTROPY).fit((x, y))
    single = Laplace(tagger(5, True), CROSS_ENTROPY).fit((x, y))
    np.testing.assert_allclose(
        half.evidence_terms().log_likelihood,
        single.evidence_terms().log_likelihood,
        rtol=0.01,
    )


def test_a_regression_with_a_mask_is_refused(tokens):
    x, y = tokens
    laplace = Laplace(tagger(5, True, num_outputs=1), "mse")
    with pytest.raises(ValueError, match="have a mask.*mask_zero=False"):
        laplace.fit((x, y[..., None].astype("float32")))
