"""Reduction by log evidence again and again during one `fit`."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_bmr import pruning
from keras_bmr.callbacks.reduction_schedule import ReductionSchedule
from keras_bmr.pruning import (
    ModelReduction,
    decisions,
    remove_dead_paths,
    sparsity,
)


class ModelReductionCallback(keras.callbacks.Callback):
    """Prunes the weights that the evidence pays least for, round by round.

    After a round, units without inputs or without outputs are removed too, which
    may take the sparsity slightly beyond its target. The logs of every epoch gain
    `sparsity` and `log_bayes_factor`, in nats, of what was pruned after it.

    Args:
        schedule: When and how much to prune.
        criterion: What ranks the weights, see `ModelReduction`.
        reduced_prior: What weights are compared with, see `ModelReduction`.
        granularity: "weight" or "block", see `ModelReduction`.
        skip: Names of layers to leave alone; the sparsity of the schedule is that of
            the others.
        verbose: Whether to print a line per round.

    Raises:
        ValueError: If an argument is invalid. At the start of training, if the model
            has no Bayesian layers or if training ends before the last round.

    Example:
        >>> schedule = keras_bmr.callbacks.ReductionSchedule(0.98, start=15)
        >>> callback = keras_bmr.callbacks.ModelReductionCallback(schedule)
        >>> history = model.fit(x, y, epochs=100, callbacks=[callback])
        >>> history.history["sparsity"]
    """

    def __init__(
        self,
        schedule: ReductionSchedule,
        criterion: Any = pruning.defaults.CRITERION,
        reduced_prior: Any = "point_mass",
        granularity: Any = pruning.defaults.GRANULARITY,
        skip: Sequence[str] = (),
        verbose: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(schedule, ReductionSchedule):
            raise ValueError(
                "`schedule` must be a `keras_bmr.callbacks.ReductionSchedule`. "
                f"Received: schedule={schedule!r}"
            )
        self.schedule = schedule
        self.verbose = verbose
        self._options = {
            "criterion": pruning.criteria.get(criterion),
            "reduced_prior": reduced_prior,
            "granularity": pruning.groups.get(granularity),
            "skip": skip,
            "verbose": False,
        }

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Checks the model and the length of the training."""
        # Raises for every invalid option before anything is trained.
        ModelReduction(self.model, sparsity=self.schedule.sparsity, **self._options)
        epochs, needed = self.params.get("epochs"), self.schedule.last_epoch()
        if self.schedule.rounds is None and epochs is not None and epochs < needed:
            raise ValueError(
                f"The schedule reaches a sparsity of {self.schedule.sparsity} after "
                f"{needed} epochs. Train for longer, take larger shares or fewer "
                f"epochs between rounds, or limit `rounds`. Received: epochs={epochs}"
            )

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Prunes, if it is time, and logs the sparsity."""
        number = self.schedule.round_after(epoch)
        logs = {} if logs is None else logs
        logs["log_bayes_factor"] = 0.0
        if number is not None and self._sparsity() < self.schedule.sparsity:
            logs["log_bayes_factor"] = self._reduce(epoch, number)
        logs["sparsity"] = sparsity(self.model)

    def _sparsity(self) -> float:
        """The share that is pruned of the weights that may be pruned."""
        return decisions.share_pruned(
            pruning.groups.considered_groups(
                self.model, self._options["granularity"], self._options["skip"]
            )
        )

    def _reduce(self, epoch: int, number: int) -> float:
        target = self.schedule.target(number, self._sparsity())
        reduction = ModelReduction(
            self.model, sparsity=target, ranking=self.schedule.ranking, **self._options
        )
        reduction.apply(self.model)
        remove_dead_paths(self.model, skip=self._options["skip"])
        if self.verbose:
            print(
                f"\nEpoch {epoch + 1}: round {number + 1} of reduction, "
                f"sparsity {sparsity(self.model):.4f}, "
                f"log Bayes factor {reduction.log_bayes_factor:.1f} nats"
            )
        return reduction.log_bayes_factor
