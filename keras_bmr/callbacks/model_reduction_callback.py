"""Reduction by log evidence again and again during one `fit`."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_bmr import pruning
from keras_bmr.callbacks.reduction_schedule import ReductionSchedule
from keras_bmr.layers.traversal import layers_named, variational_layers
from keras_bmr.pruning import (
    ModelReduction,
    PosteriorSource,
    groups,
    remove_dead_paths,
    sparsity,
)
from keras_bmr.pruning.decisions import share_pruned


class ModelReductionCallback(keras.callbacks.Callback):
    """Prunes the weights that the evidence pays least for, round by round.

    After a round, units of a Bayesian model without inputs or without outputs are
    removed too, which may take the sparsity slightly beyond its target. The logs of
    every epoch gain `sparsity` and `log_bayes_factor`, in nats, of what was pruned
    after it.

    Args:
        schedule: When and how much to prune.
        criterion: What ranks the weights, see `ModelReduction`.
        reduced_prior: What weights are compared with, see `ModelReduction`.
        granularity: "weight", "block" or "channel", see `ModelReduction`.
        skip: Names of layers to leave alone; the sparsity of the schedule is that of
            the others.
        source: For an ordinary model, a function that is called with the model in
            each round and returns the posteriors of its weights, such as
            `lambda model: keras_bmr.laplace.Laplace(model, loss).fit((x, y))`; see
            `keras_bmr.pruning.PosteriorSource`. A Bayesian model needs none.
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
        source: Callable[[keras.Model], PosteriorSource] | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(schedule, ReductionSchedule):
            raise ValueError(
                "`schedule` must be a `keras_bmr.callbacks.ReductionSchedule`. "
                f"Received: schedule={schedule!r}"
            )
        self.schedule = schedule
        self.source = source
        self.verbose = verbose
        self._options = {
            "criterion": pruning.criteria.get(criterion),
            "reduced_prior": reduced_prior,
            "granularity": groups.get(granularity),
            "skip": skip,
            "verbose": False,
        }

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Checks the model and the length of the training."""
        if self.source is None:
            # Raises for every invalid option before anything is trained.
            target = self.schedule.final_sparsity
            ModelReduction(self.model, sparsity=target, **self._options)
        else:
            layers_named(self.model, self._options["skip"])
        epochs, needed = self.params.get("epochs"), self.schedule.last_epoch()
        if self.schedule.rounds is None and epochs is not None and epochs < needed:
            raise ValueError(
                "The schedule reaches a sparsity of "
                f"{self.schedule.final_sparsity} after {needed} epochs. Train for "
                "longer, take larger shares or fewer epochs between rounds, or limit "
                f"`rounds`. Received: epochs={epochs}"
            )

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Prunes, if it is time, and logs the sparsity."""
        number = self.schedule.round_after(epoch)
        logs = {} if logs is None else logs
        logs["log_bayes_factor"] = 0.0
        if number is not None:
            logs["log_bayes_factor"] = self._reduce(epoch, number)
        logs["sparsity"] = sparsity(self.model)

    def _reduce(self, epoch: int, number: int) -> float:
        source = self.model if self.source is None else self.source(self.model)
        reached = share_pruned(
            groups.considered_groups(
                source, self._options["granularity"], self._options["skip"]
            )
        )
        if reached >= self.schedule.final_sparsity:
            return 0.0
        reduction = ModelReduction(
            source,
            sparsity=self.schedule.target(number, reached),
            ranking=self.schedule.ranking,
            **self._options,
        )
        reduction.apply(self.model)
        if variational_layers(self.model):
            remove_dead_paths(self.model, skip=self._options["skip"])
        if self.verbose:
            print(
                f"\nEpoch {epoch + 1}: round {number + 1} of reduction, "
                f"sparsity {sparsity(self.model):.4f}, "
                f"log Bayes factor {reduction.log_bayes_factor:.1f} nats"
            )
        return reduction.log_bayes_factor
