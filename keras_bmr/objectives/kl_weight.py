"""The weight of the KL divergence in the loss: one value per model."""

import keras

from keras_bmr.argument_checks import require_integer, require_positive
from keras_bmr.layers.traversal import require_variational_layers, tell_num_examples


def set_num_examples(model: keras.Model, num_examples: int) -> None:
    """Tells a model how many training examples its loss is a mean over.

    The negative evidence lower bound per example is mean(loss) + KL / num_examples,
    so that every Bayesian layer weighs its KL divergence by 1 / num_examples (times
    the factor of `set_kl_factor`, or what its `kl_weight` was set to). Pass the size of
    the whole training set, whatever the batch size. Losses must be means over the batch
    (Keras' default), not sums.

    Args:
        model: A built model with Bayesian layers.
        num_examples: Positive integer.

    Raises:
        ValueError: If `num_examples` is not a positive integer or the model has no
            built Bayesian layer.

    Example:
        >>> keras_bmr.set_num_examples(model, num_examples=len(x_train))
    """
    require_integer("num_examples", num_examples, at_least=1)
    tell_num_examples(require_variational_layers(model), num_examples)


def set_kl_factor(model: keras.Model, factor: float) -> None:
    """Multiplies the KL term of the loss; 1 is the evidence lower bound.

    All layers get the same factor, those too whose `kl_weight` was set by hand.

    Args:
        model: A built model with Bayesian layers.
        factor: Non-negative float. Values below 1 temper the posterior ("cold
            posterior") and are common in warm-up.

    Raises:
        ValueError: If `factor` is negative or not finite, or the model has no built
            Bayesian layer.

    Example:
        >>> keras_bmr.objectives.set_kl_factor(model, 0.5)
    """
    require_positive("factor", factor, or_zero=True)
    for layer in require_variational_layers(model):
        layer.kl_weight.assign(factor / (layer.num_examples or 1))


def kl_factor(model: keras.Model) -> float:
    """The current factor of the KL term, see `set_kl_factor`.

    Args:
        model: A built model with Bayesian layers.

    Returns:
        The factor; 1 unless it was set.

    Raises:
        ValueError: If the model has no built Bayesian layer.

    Example:
        >>> keras_bmr.objectives.kl_factor(model)
        1.0
    """
    layer = require_variational_layers(model)[0]
    weight = float(layer.kl_weight.numpy())
    return weight * (layer.num_examples or 1)
