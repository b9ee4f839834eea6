"""The log Bayes factor of a reduced prior, dispatched on three types."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from keras_bmr.reduction.checks import check_alike

_REDUCTIONS: dict[tuple[type, type, type], Callable[..., Reduction]] = {}


class Reduction(NamedTuple):
    """What replacing a prior by a reduced one does to evidence and posterior.

    Attributes:
        delta_f: Tensor, the batch shape of the three distributions broadcast
            together, in nats: `log p(data | reduced) - log p(data | full)`.
        posterior: The posterior under the reduced prior, a `tfd` distribution.
    """

    delta_f: tf.Tensor
    posterior: tfp.distributions.Distribution


def model_reduction(
    posterior: tfp.distributions.Distribution,
    prior: tfp.distributions.Distribution,
    reduced_prior: tfp.distributions.Distribution,
    name: str | None = None,
) -> Reduction:
    """Returns the log Bayes factor of a reduced prior and its posterior.

    With `q(theta)` the posterior found under `prior`, Bayes' rule gives the
    evidence and the posterior under any other prior without seeing the data:

        delta_f = log p(data | reduced_prior) - log p(data | prior)
                = log E_q[reduced_prior(theta) / prior(theta)]
        reduced posterior = q * reduced_prior / prior * exp(-delta_f)

    **Positive `delta_f` favours the reduced model.** It is exact where `q` is
    the exact posterior, and as good as the approximation `q` otherwise. It is
    never summed over the batch: sum it over the parameters that are reduced
    together.

    The rule is looked up over the class hierarchies of all three arguments.
    The nearest one (least sum of distances in the method resolution orders)
    wins; ties go to the rule nearest to the posterior's type, then to the
    prior's. `RegisterModelReduction` adds a rule.

    Outside a `tf.function` bad values raise. Inside one nothing is known at
    trace time and XLA drops assertions, so there an improper reduced posterior
    gives NaN in the entries concerned.

    Args:
        posterior: `tfd` distribution, the posterior under `prior`.
        prior: `tfd` distribution, the prior of the full model.
        reduced_prior: `tfd` distribution, the prior of the reduced model;
            `tfd.Deterministic` fixes the parameter (Savage-Dickey ratio).
        name: Optional name scope of the operations.

    Returns:
        A `Reduction` of `delta_f` and the reduced posterior.

    Raises:
        NotImplementedError: If no rule is known for the three types.
        TypeError: If an argument is not a `tfd` distribution.
        ValueError: If data types or event shapes differ, if a parameter is not
            finite or out of its domain, or if the reduced posterior is improper.

    Example:
    >>> import tensorflow_probability as tfp
    >>> tfd = tfp.distributions
    >>> posterior, prior = tfd.Normal([0.3, 1.5], [0.2, 0.1]), tfd.Normal(0.0, 1.0)
    >>> model_reduction(posterior, prior, tfd.Normal(0.0, 0.1)).delta_f.numpy().round(3)
    array([  0.604, -54.009], dtype=float32)

    References:
        Friston, Parr, Zeidman. Bayesian model reduction. arXiv:1805.07092,
        equations 3 to 5.
    """
    arguments = (posterior, prior, reduced_prior)
    check_alike(*arguments)
    types = tuple(argument.__class__ for argument in arguments)
    rule = _lookup(*types)
    if rule is None:
        known = sorted(
            "(" + ", ".join(t.__name__ for t in key) + ")" for key in _REDUCTIONS
        )
        raise NotImplementedError(
            "No model reduction is registered for a posterior of type "
            f"{types[0].__name__}, a prior of type {types[1].__name__} and a reduced "
            f"prior of type {types[2].__name__}. Register a rule with "
            "`RegisterModelReduction`, or estimate it with "
            "`keras_bmr.reduction.monte_carlo_delta_f`. "
            f"Known (posterior, prior, reduced prior): {', '.join(known)}."
        )
    with tf.name_scope(name or "model_reduction"):
        return rule(*arguments)


class RegisterModelReduction:
    """Decorator that registers a rule for three types.

    The rule is a function `(posterior, prior, reduced_prior) -> Reduction`. It
    also serves subclasses of the three types that have no rule of their own.

    Args:
        posterior_type: Class of the posterior.
        prior_type: Class of the prior.
        reduced_prior_type: Class of the reduced prior.

    Raises:
        TypeError: If an argument is not a class, or the rule is not callable.
        ValueError: If the three types have a rule already.

    Example:
    >>> import tensorflow_probability as tfp
    >>> tfd = tfp.distributions
    >>> @RegisterModelReduction(tfd.Gamma, tfd.Gamma, tfd.Gamma)
    ... def gamma_reduction(posterior, prior, reduced_prior):
    ...     ...
    """

    def __init__(
        self, posterior_type: type, prior_type: type, reduced_prior_type: type
    ) -> None:
        """Keeps the three types; see the class."""
        self._key = (posterior_type, prior_type, reduced_prior_type)
        for argument in self._key:
            if not isinstance(argument, type):
                raise TypeError(
                    "RegisterModelReduction expects three distribution classes. "
                    f"Received: {argument!r}"
                )

    def __call__(self, rule: Callable[..., Reduction]) -> Callable[..., Reduction]:
        """Registers `rule` and returns it unchanged."""
        if not callable(rule):
            raise TypeError(
                "A model reduction rule must be callable as "
                f"rule(posterior, prior, reduced_prior). Received: {rule!r}"
            )
        if self._key in _REDUCTIONS:
            names = ", ".join(t.__name__ for t in self._key)
            raise ValueError(
                f"A model reduction is already registered for ({names}): "
                f"{_REDUCTIONS[self._key]!r}. Register a subclass to differ from it."
            )
        _REDUCTIONS[self._key] = rule
        return rule


def _lookup(*types: type) -> Callable[..., Reduction] | None:
    """Returns the rule with the least sum of distances, or None."""
    orders = [enumerate(t.__mro__) for t in types]
    nearest: tuple[tuple[int, ...], Callable[..., Reduction]] | None = None
    for steps in itertools.product(*orders):
        rule = _REDUCTIONS.get(tuple(parent for _, parent in steps))
        if rule is None:
            continue
        distances = tuple(distance for distance, _ in steps)
        rank = (sum(distances), *distances)
        if nearest is None or rank < nearest[0]:
            nearest = (rank, rule)
    return None if nearest is None else nearest[1]
