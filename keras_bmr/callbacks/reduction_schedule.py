"""When, and how much, a model is reduced during training."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from keras_bmr.argument_checks import require_integer
from keras_bmr.pruning.checks import RANKINGS


@dataclasses.dataclass(frozen=True)
class ReductionSchedule:
    """Rounds of reduction with epochs of training in between.

    Small steps matter. The evidence of a weight is conditional on all others, and
    after an abrupt cut the weights that are left have not had the time to move.

    Args:
        sparsity: Share in (0, 1) of the weights to have pruned in the end; once it is
            reached there are no further rounds. A sequence of rising shares is what
            each round aims at; `share` has no part in it then.
        start: Positive integer, number of epochs before the first round.
        every: Positive integer, number of epochs from one round to the next.
        share: Share in (0, 1) of the weights still there that one round prunes at
            most. A sequence gives one share per round; its last holds for all later
            rounds.
        rounds: Largest number of rounds, a positive integer; None for no limit.
        ranking: "global" ranks the weights of all layers together, "layer" prunes
            the same share of every layer.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> keras_bmr.callbacks.ReductionSchedule(0.99, start=15, share=(0.9, 0.3))
        >>> keras_bmr.callbacks.ReductionSchedule(
        ...     [0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99], every=10
        ... )
    """

    sparsity: float | Sequence[float]
    start: int = 10
    every: int = 6
    share: float | Sequence[float] = 0.3
    rounds: int | None = None
    ranking: str = "global"

    def __post_init__(self) -> None:
        """Checks the arguments."""
        targets = self.targets or (self.final_sparsity,)
        if not all(0 < target < 1 for target in targets):
            raise ValueError(
                "`sparsity` must lie in (0, 1), the share of the weights to prune. "
                f"Received: sparsity={self.sparsity}"
            )
        if list(targets) != sorted(set(targets)):
            raise ValueError(
                "The targets of the rounds must rise, since what is pruned does not "
                f"return. Received: sparsity={self.sparsity}"
            )
        for name in ("start", "every", "rounds"):
            value = getattr(self, name)
            if value is not None or name != "rounds":
                require_integer(name, value, at_least=1)
        shares = self.shares
        if not shares or not all(0 < share < 1 for share in shares):
            raise ValueError(
                "`share` must lie in (0, 1), or be a sequence of such shares, one per "
                f"round. Received: share={self.share}"
            )
        if self.ranking not in RANKINGS:
            raise ValueError(
                f"`ranking` must be one of {RANKINGS}. Received: "
                f"ranking={self.ranking!r}"
            )

    @property
    def targets(self) -> tuple[float, ...]:
        """The sparsity that each round aims at; empty if the shares say so."""
        if np.ndim(self.sparsity) == 0:
            return ()
        return tuple(float(target) for target in self.sparsity)

    @property
    def final_sparsity(self) -> float:
        """The share of the weights to have pruned in the end."""
        if np.ndim(self.sparsity) == 0:
            return self.sparsity
        return self.targets[-1] if self.targets else math.nan

    @property
    def num_rounds(self) -> float:
        """Largest number of rounds; infinity for no limit."""
        limits = (self.rounds or math.inf, len(self.targets) or math.inf)
        return min(limits)

    @property
    def shares(self) -> tuple[float, ...]:
        """The shares, one per round; the last holds for all later rounds."""
        if isinstance(self.share, Sequence):
            return tuple(self.share)
        return (self.share,)

    def round_after(self, epoch: int) -> int | None:
        """The number of the round that follows an epoch.

        Args:
            epoch: Number of the epoch that has ended, from 0.

        Returns:
            The number of the round from 0, or None if there is none.
        """
        number, remainder = divmod(epoch + 1 - self.start, self.every)
        if number < 0 or remainder or number >= self.num_rounds:
            return None
        return number

    def target(self, number: int, sparsity: float) -> float:
        """The sparsity that a round aims at.

        Args:
            number: Number of the round, from 0.
            sparsity: Share of the weights that are pruned already.

        Returns:
            A share in [0, 1), not above the final one.
        """
        if self.targets:
            return self.targets[min(number, len(self.targets) - 1)]
        share = self.shares[min(number, len(self.shares) - 1)]
        return min(self.sparsity, 1 - (1 - sparsity) * (1 - share))

    def last_epoch(self) -> float:
        """The number of epochs after which the final sparsity is reached.

        Returns:
            The number of epochs; infinity if `rounds` ends before that.
        """
        sparsity, number = 0.0, 0
        while number < self.num_rounds:
            sparsity = self.target(number, sparsity)
            if sparsity >= self.final_sparsity:
                return self.start + number * self.every
            number += 1
        return math.inf
