import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from keras_bmr.distributions import LogScaleNormal
from keras_bmr.reduction import (
    Reduction,
    RegisterModelReduction,
    model_reduction,
)

tfd = tfp.distributions


class _Base(tfd.Normal):
    pass


class _Child(_Base):
    pass


def _rule(tag):
    def rule(posterior, prior, reduced_prior):
        return Reduction(tf.constant(tag), reduced_prior)

    return rule


def test_an_unknown_triple_names_the_types_and_the_way_out():
    with pytest.raises(
        NotImplementedError,
        match=r"posterior of type Gamma, a prior of type Normal and a reduced prior "
        r"of type Laplace.*monte_carlo_delta_f.*\(Normal, Normal, Normal\)",
    ):
        model_reduction(
            tfd.Gamma(1.0, 1.0), tfd.Normal(0.0, 1.0), tfd.Laplace(0.0, 1.0)
        )


def test_registering_twice_raises():
    with pytest.raises(ValueError, match="already registered.*Normal, Normal, Normal"):
        RegisterModelReduction(tfd.Normal, tfd.Normal, tfd.Normal)(_rule(1.0))


def test_registering_what_is_not_a_class_or_a_function_raises():
    with pytest.raises(TypeError, match="expects three distribution classes"):
        RegisterModelReduction(tfd.Normal(0.0, 1.0), tfd.Normal, tfd.Normal)
    with pytest.raises(TypeError, match="must be callable.*Received: 'rule'"):
        RegisterModelReduction(_Child, _Child, _Child)("rule")


def test_a_subclass_takes_the_rule_of_its_parent():
    plain = model_reduction(
        tfd.Normal(0.3, 0.2), tfd.Normal(0.0, 2.0), tfd.Normal(0.0, 0.5)
    )
    subclass = model_reduction(
        LogScaleNormal(0.3, tf.math.log(0.2)),
        LogScaleNormal(0.0, tf.math.log(2.0)),
        tfd.Normal(0.0, 0.5),
    )
    np.testing.assert_allclose(subclass.delta_f, plain.delta_f, rtol=1e-6)


def test_the_nearest_rule_wins_and_ties_go_to_the_posterior(monkeypatch):
    # The name of the function hides that of its module.
    module = sys.modules[model_reduction.__module__]
    monkeypatch.setattr(module, "_REDUCTIONS", dict(module._REDUCTIONS))
    child, normal = _Child(0.0, 1.0), tfd.Normal(0.0, 1.0)

    def tag(*arguments):
        return float(model_reduction(*arguments).delta_f)

    RegisterModelReduction(_Base, tfd.Normal, tfd.Normal)(_rule(1.0))
    assert tag(child, normal, normal) == 1
    RegisterModelReduction(_Child, tfd.Normal, tfd.Normal)(_rule(2.0))
    assert tag(child, normal, normal) == 2
    # The same sum of distances: the one nearer to the posterior's type.
    RegisterModelReduction(tfd.Normal, _Child, tfd.Normal)(_rule(3.0))
    assert tag(child, child, normal) == 2
    assert tag(normal, child, normal) == 3


def test_the_sign_is_positive_for_the_better_model():
    posterior, prior = tfd.Normal(0.0, 0.1), tfd.Normal(0.0, 1.0)
    assert model_reduction(posterior, prior, tfd.Normal(0.0, 0.1)).delta_f > 0
    posterior = tfd.Normal(1.0, 0.1)
    assert model_reduction(posterior, prior, tfd.Normal(0.0, 0.1)).delta_f < 0


def test_arguments_of_different_kinds_raise():
    normal = tfd.Normal(0.0, 1.0)
    with pytest.raises(TypeError, match="`prior` must be.*Received: 1.0"):
        model_reduction(normal, 1.0, normal)
    with pytest.raises(ValueError, match="same dtype. Received: float32, float64"):
        model_reduction(normal, tfd.Normal(np.float64(0), np.float64(1)), normal)
    batched = tfd.Independent(tfd.Normal([0.0, 0.0], 1.0), 1)
    with pytest.raises(ValueError, match=r"same event shape.*\(2,\), \(\), \(2,\)"):
        model_reduction(batched, normal, batched)


def test_batch_shapes_that_do_not_broadcast_raise():
    posterior = tfd.Normal(tf.zeros((4, 3)), 0.1)
    prior = tfd.Normal(0.0, 1.0)
    with pytest.raises(ValueError, match=r"must broadcast.*\(4, 3\), \(\), \(7,\)"):
        model_reduction(posterior, prior, tfd.Normal(tf.zeros(7), 0.5))
    row = model_reduction(posterior, prior, tfd.Normal(tf.zeros(3), [0.2, 0.5, 0.9]))
    for column, scale in enumerate([0.2, 0.5, 0.9]):
        alone = model_reduction(posterior, prior, tfd.Normal(0.0, scale)).delta_f
        np.testing.assert_allclose(row.delta_f[:, column], alone[:, column], rtol=1e-6)
