"""The reduction of a whole model: what the evidence says, weight by weight."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from tensorflow_probability import distributions as tfd

from keras_bmr.pruning import criteria, decisions, defaults, groups, reduced_priors
from keras_bmr.pruning.posterior_weights import (
    PosteriorWeight,
    checked_skip,
    posterior_weights,
)
from keras_bmr.reduction import Reduction, model_reduction

# Below this many weights all is done before a progress bar could be read.
_SILENT_NUM_WEIGHTS = 5_000_000


@dataclasses.dataclass
class _ReducedWeight:
    """What is known of one weight tensor."""

    index: int
    source: PosteriorWeight
    alive: np.ndarray
    delta_f: np.ndarray
    keep: np.ndarray


@dataclasses.dataclass(frozen=True)
class LayerReduction:
    """One line of `ModelReduction.summary`.

    Attributes:
        layer: Name of the layer.
        num_weights: Number of its weights that were considered.
        num_kept: How many of them would be left.
        log_bayes_factor: Log Bayes factor in nats of pruning the others; weights
            that were pruned before have no share in it.
    """

    layer: str
    num_weights: int
    num_kept: int
    log_bayes_factor: float


class ModelReduction:
    """Compares a Bayesian model with its reductions, and changes nothing.

    For each weight with posterior q and prior p, `delta_f` is the log Bayes factor of
    the reduced prior r,

        delta_f = log p(data | r) - log p(data | p) = log E_q[r / p]

    Positive values favour the reduced model. A criterion scores groups of weights
    with the help of it, and a rule chooses those to prune: `threshold`, `sparsity`
    or, if both are None, the rule of the reduced prior.

    Args:
        model: A built model with Bayesian layers.
        reduced_prior: "spike_and_slab" (zero, with a share per layer that is
            inferred), "point_mass" (zero), or a `tfd` distribution of scalars.
        criterion: "delta_f", "signal_to_noise", "magnitude" or a
            `keras_bmr.pruning.Criterion`.
        granularity: "weight", or "block" for four consecutive inputs of one unit of
            a dense layer; weights that have no such blocks are left alone.
        threshold: Groups with a higher score are pruned. In nats for "delta_f".
        sparsity: Share in [0, 1) of all weights considered that shall be zero, those
            that are already included; all layers are ranked together.
        skip: Names of layers to leave alone.
        verbose: Whether to show a progress bar; "auto" does for large models.

    Raises:
        ValueError: If an argument is invalid, the model has no Bayesian layer, its
            posterior has NaN or infinite parameters or is improper under the reduced
            prior.
        NotImplementedError: If no reduction is known for the distributions.

    Example:
        >>> reduction = keras_bmr.ModelReduction(model, threshold=0.0)
        >>> reduction.summary()
        >>> reduction.apply(model)

    References:
        Friston, Parr and Zeidman, Bayesian model reduction, arXiv 1805.07092,
        equations 3 to 5.
    """

    def __init__(
        self,
        model: keras.Model,
        reduced_prior: str
        | tfd.Distribution
        | reduced_priors.ReducedPrior = defaults.REDUCED_PRIOR,
        criterion: str | criteria.Criterion = defaults.CRITERION,
        granularity: str | type[groups.ParameterGroups] = defaults.GRANULARITY,
        threshold: float | None = None,
        sparsity: float | None = None,
        skip: Sequence[str] = (),
        verbose: str | bool = "auto",
    ) -> None:
        self.reduced_prior = reduced_priors.get(reduced_prior)
        self.criterion = criteria.get(criterion)
        self._groups_class = groups.get(granularity)
        _check_rule(self.criterion, threshold, sparsity)
        self.threshold = threshold
        self.sparsity = sparsity
        sources = posterior_weights(model)
        self._layout = [(source.label, source.shape) for source in sources]
        skipped = checked_skip(model, skip)
        considered = {
            index: source
            for index, source in enumerate(sources)
            if source.layer.name not in skipped and self._groups_class.supports(source)
        }
        if not considered:
            raise ValueError(
                f"Model '{model.name}' has no weight left to prune with "
                f"granularity={granularity!r} and skip={skip!r}. Its weights with "
                f"posteriors are {[source.label for source in sources]}."
            )
        self._weights = self._reduce(considered, verbose)

    # --- Results ---

    def delta_f(self, layer: str, weight: str | None = None) -> np.ndarray:
        """The log Bayes factor of each weight.

        Args:
            layer: Name of the layer.
            weight: Name of the weight; None stands for the layer's first.

        Returns:
            Array with the shape of the weight, in nats; 0 where a weight was pruned
            before. Positive favours the reduced model.

        Raises:
            ValueError: If there is no such weight.
        """
        return self._find(layer, weight).delta_f

    def keep(self, layer: str, weight: str | None = None) -> np.ndarray:
        """Which weights would be left.

        Args:
            layer: Name of the layer.
            weight: Name of the weight; None stands for the layer's first.

        Returns:
            Boolean array with the shape of the weight, False where it is to be
            pruned or was before.

        Raises:
            ValueError: If there is no such weight.
        """
        return self._find(layer, weight).keep

    def layers(self) -> list[LayerReduction]:
        """Totals of each layer, in the order of the model.

        Returns:
            One entry per layer with a weight that was considered.
        """
        return [
            LayerReduction(
                layer=weights[0].source.layer.name,
                num_weights=sum(weight.keep.size for weight in weights),
                num_kept=sum(np.count_nonzero(weight.keep) for weight in weights),
                log_bayes_factor=sum(
                    float(np.sum(w.delta_f, where=~w.keep, dtype=np.float64))
                    for w in weights
                ),
            )
            for weights in _by_layer(self._weights)
        ]

    @property
    def log_bayes_factor(self) -> float:
        """Log Bayes factor in nats of the model with all chosen weights reduced."""
        return sum(layer.log_bayes_factor for layer in self.layers())

    def summary(self, print_fn: Callable[[str], Any] = print) -> None:
        """Prints a table of the layers.

        Args:
            print_fn: Called with each line.
        """
        rows = self.layers()
        total = LayerReduction(
            "Total",
            sum(row.num_weights for row in rows),
            sum(row.num_kept for row in rows),
            sum(row.log_bayes_factor for row in rows),
        )
        width = max(len("Layer"), *(len(row.layer) for row in [*rows, total]))
        print_fn(
            f"{'Layer':<{width}}  {'Weights':>12}  {'Kept':>12}  {'Share':>8}  "
            f"{'Delta F (nats)':>16}"
        )
        rule = "-" * (width + 56)
        print_fn(rule)
        for row in [*rows, total]:
            if row is total:
                print_fn(rule)
            print_fn(
                f"{row.layer:<{width}}  {row.num_weights:>12,}  {row.num_kept:>12,}  "
                f"{row.num_kept / row.num_weights:>8.2%}  "
                f"{row.log_bayes_factor:>16,.1f}"
            )

    def plot(self, path: str | pathlib.Path | None = None) -> Any:
        """Plots a histogram of delta_f and the share of each layer that is kept.

        Args:
            path: Image file to write; its suffix chooses the format.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        from keras_bmr.pruning.plots import plot_reduction

        left = [weight.delta_f[weight.alive] for weight in self._weights]
        return plot_reduction(np.concatenate(left), self.layers(), path)

    # --- Applying ---

    def apply(self, model: keras.Model, write_back: bool = False) -> None:
        """Prunes a model in place.

        Args:
            model: The model that was analysed, or one with the same layers.
            write_back: Whether the weights that are kept get their posterior under
                the reduced prior, too.

        Raises:
            ValueError: If `model` has other layers, a layer would be left without
                any weight, or `write_back` is asked of a point mass. The model is
                not changed then.
        """
        targets = posterior_weights(model)
        if [(t.label, t.shape) for t in targets] != self._layout:
            raise ValueError(
                f"Model '{model.name}' is not the one that was analysed. Expected the "
                f"weights {self._layout}. Received: "
                f"{[(target.label, target.shape) for target in targets]}"
            )
        self._check_something_left()
        if write_back:
            self._check_writable()
        for weight in self._weights:
            target = targets[weight.index]
            if write_back:
                reduced = self._reduction(target).posterior
            target.prune(weight.keep)
            if write_back:
                target.assign_posterior(reduced)

    def _check_something_left(self) -> None:
        for weights in _by_layer(self._weights):
            # A bias alone passes nothing on.
            kernels = [w for w in weights if w.source.name != "bias"]
            if kernels and not any(weight.keep.any() for weight in kernels):
                layer = weights[0].source.layer.name
                raise ValueError(
                    f"Nothing would be left of layer '{layer}', and no signal would "
                    "pass it. Leave it alone with "
                    f"`skip=['{layer}']`, or prune less with a higher `threshold` or "
                    "a lower `sparsity`. If you did not ask for much, the posterior "
                    "may have collapsed to the prior: train longer, warm up with "
                    "`keras_bmr.callbacks.KLAnnealing`, and check `num_examples`."
                )

    def _check_writable(self) -> None:
        if self.reduced_prior.is_point_mass:
            raise ValueError(
                "`write_back=True` needs a reduced prior with a density, for example "
                "`reduced_prior=tfd.Normal(0.0, 0.1)`: under a point mass a weight "
                "is zero or keeps its posterior. Received: reduced_prior="
                f"{type(self.reduced_prior).__name__}"
            )
        for weight in self._weights:
            reduced = self._reduction(weight.source).posterior
            posterior = weight.source.posterior()
            if not isinstance(reduced, type(posterior)):
                raise ValueError(
                    f"The reduced posterior of {weight.source.label} is a "
                    f"{type(reduced).__name__}, which its {type(posterior).__name__} "
                    "posterior cannot hold. Use `write_back=False`."
                )

    # --- Computing ---

    def _reduce(
        self, sources: dict[int, PosteriorWeight], verbose: str | bool
    ) -> list[_ReducedWeight]:
        num_weights = sum(int(np.prod(s.shape)) for s in sources.values())
        if verbose == "auto":
            verbose = num_weights > _SILENT_NUM_WEIGHTS
        progress = keras.utils.Progbar(num_weights, verbose=int(verbose))
        weights, scores, sizes, kinds = [], [], [], []
        for index, source in sources.items():
            alive = source.alive()
            delta_f = self._finite_delta_f(source, alive)
            kind = self._groups_class(alive)
            score = self.criterion.scores(
                source.posterior(), source.prior(), delta_f, kind
            )
            weights.append(_ReducedWeight(index, source, alive, delta_f, alive))
            scores.append(np.asarray(score))
            sizes.append(kind.sizes())
            kinds.append(kind)
            progress.add(alive.size)
        pruned = self._choose(weights, scores, sizes)
        for weight, kind, chosen in zip(weights, kinds, pruned, strict=True):
            weight.keep = weight.alive & ~kind.expand(chosen)
        return weights

    def _choose(
        self,
        weights: list[_ReducedWeight],
        scores: list[np.ndarray],
        sizes: list[np.ndarray],
    ) -> list[np.ndarray]:
        """Returns for each weight tensor which groups are to be pruned."""
        if self.sparsity is not None:
            total = sum(weight.alive.size for weight in weights)
            left = sum(np.count_nonzero(weight.alive) for weight in weights)
            target = round(self.sparsity * total) - (total - left)
            return decisions.highest_ranked(scores, sizes, max(target, 0))
        thresholds = [self.threshold] * len(weights)
        if self.threshold is None:
            thresholds = self._natural_thresholds(weights, scores, sizes)
        return [
            decisions.above_threshold(*arguments)
            for arguments in zip(scores, sizes, thresholds, strict=True)
        ]

    def _natural_thresholds(
        self,
        weights: list[_ReducedWeight],
        scores: list[np.ndarray],
        sizes: list[np.ndarray],
    ) -> list[float]:
        thresholds = []
        start = 0
        for layer in _by_layer(weights):
            span = slice(start, start + len(layer))
            left = [
                score[size > 0]
                for score, size in zip(scores[span], sizes[span], strict=True)
            ]
            threshold = self.reduced_prior.threshold(np.concatenate(left))
            thresholds += [threshold] * len(layer)
            start = span.stop
        return thresholds

    def _reduction(self, source: PosteriorWeight) -> Reduction:
        posterior = source.posterior()
        try:
            return model_reduction(
                posterior,
                source.prior(),
                self.reduced_prior.distribution(posterior.dtype),
            )
        except ValueError as error:
            raise ValueError(f"Cannot reduce {source.label}. {error}") from error

    def _finite_delta_f(self, source: PosteriorWeight, alive: np.ndarray) -> np.ndarray:
        delta_f = keras.ops.convert_to_numpy(self._reduction(source).delta_f)
        delta_f = np.broadcast_to(delta_f, alive.shape)
        if not alive.all():
            delta_f = np.where(alive, delta_f, 0)
        if np.isnan(delta_f).any():
            raise ValueError(
                f"The log Bayes factor of {source.label} is NaN in "
                f"{np.count_nonzero(np.isnan(delta_f))} of {delta_f.size} entries. "
                "Check that its posterior and prior have a density at the reduced "
                "prior."
            )
        return delta_f

    def _find(self, layer: str, name: str | None) -> _ReducedWeight:
        for weight in self._weights:
            if weight.source.layer.name == layer and name in (None, weight.source.name):
                return weight
        known = [(w.source.layer.name, w.source.name) for w in self._weights]
        raise ValueError(
            f"Expected a layer and one of its weights out of {known}. Received: "
            f"layer={layer!r}, weight={name!r}"
        )


def _by_layer(weights: list[_ReducedWeight]) -> list[list[_ReducedWeight]]:
    """Groups consecutive weights of one layer."""
    layers: list[list[_ReducedWeight]] = []
    for weight in weights:
        if not layers or layers[-1][0].source.layer is not weight.source.layer:
            layers.append([])
        layers[-1].append(weight)
    return layers


def _check_rule(
    criterion: criteria.Criterion, threshold: float | None, sparsity: float | None
) -> None:
    if threshold is not None and sparsity is not None:
        raise ValueError(
            "Give either `threshold` or `sparsity`, not both. Received: "
            f"threshold={threshold}, sparsity={sparsity}"
        )
    if sparsity is not None and not 0 <= sparsity < 1:
        raise ValueError(
            "`sparsity` must lie in [0, 1), the share of the weights that shall be "
            f"zero. Received: sparsity={sparsity}"
        )
    if threshold is not None and np.isnan(threshold):
        raise ValueError(f"`threshold` must be a number. Received: {threshold}")
    if threshold is None and sparsity is None and not criterion.is_log_bayes_factor:
        raise ValueError(
            f"Criterion {type(criterion).__name__} has no natural threshold: give "
            "`sparsity`, the share of the weights to prune, or `threshold`, the score "
            "above which they are. Received: threshold=None, sparsity=None"
        )
