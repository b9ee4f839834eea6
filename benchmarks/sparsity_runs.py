"""The methods of sparsity_methods.py, one function each."""

import math
from collections.abc import Callable, Sequence

import keras
import numpy as np
from sparsity_training import BATCH_SIZE, LOGITS, Training, build
from tensorflow_probability import distributions as tfd

import keras_bmr
from keras_bmr import callbacks, priors, pruning
from keras_bmr.pruning.prunable_weight import ordinary_kernels

# Units are left out whose scale is below.
SCALE = 0.05
# Bayes factors: the prior of training and pruning, and what may be lost in nats per
# training example.
PRIOR_SCALE, TOLERANCE = 0.3, 0.05
# What methods for ordinary networks are asked for, which do not choose by themselves.
SPARSITY = 0.95


class ReduceAfter(keras.callbacks.Callback):
    """Prunes a Bayesian model after some epochs, by a rule that says how much."""

    def __init__(
        self,
        epochs: Sequence[int],
        reduction: Callable[[keras.Model], pruning.ModelReduction],
    ) -> None:
        super().__init__()
        self._epochs, self._reduction = epochs, reduction

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Prunes, and removes what has no part in the output any more."""
        if epoch + 1 in self._epochs:
            self._reduction(self.model).apply(self.model)
            pruning.remove_dead_paths(self.model)
            sparsity = keras_bmr.sparsity(self.model)
            print(f"  sparsity {sparsity:.4f} after epoch {epoch + 1}", flush=True)


class PointEstimate:
    """Weights of an ordinary network where posteriors are asked for."""

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self._weights = ordinary_kernels(model)

    def weights(self):
        """See `PosteriorSource.weights`."""
        return [(weight.layer, weight.name) for weight in self._weights]

    def posterior(self, layer: keras.layers.Layer, name: str) -> tfd.Normal:
        """See `PosteriorSource.posterior`; the scale has no part in magnitudes."""
        return tfd.Normal(getattr(layer, name).value, 1.0)

    def prior(self, layer: keras.layers.Layer, name: str) -> tfd.Normal:
        """See `PosteriorSource.prior`."""
        return tfd.Normal(0.0, 1.0)


def scales_reduction(source) -> pruning.ModelReduction:
    """Prunes units by the scale of their prior."""
    return pruning.ModelReduction(
        source, criterion="prior_scale", threshold=-math.log(SCALE), skip=[LOGITS]
    )


class Run(Training):
    """The methods on one network from one seed; what they share is trained once.

    All return the network, the epochs it has had and the seconds it took.
    """

    def variational(
        self, part: str, last: int, *actions, prior_of_logits=None, **options
    ):
        """A Bayesian network; its last layer may have a prior of its own."""

        def convert(network: keras.Model) -> keras.Model:
            count, skip = len(self.data[0]), [LOGITS] if prior_of_logits else []
            model = keras_bmr.to_variational(network, count, skip=skip, **options)
            if not skip:
                return model
            # Layers that are Bayesian already stay as they are.
            return keras_bmr.to_variational(model, count, prior=prior_of_logits)

        annealing = callbacks.KLAnnealing(epochs=self.recipe.warm_up)
        return self.trained(part, self.converted(convert), last, annealing, *actions)

    def flat_until_reduction(self):
        """The flat posterior that is reduced."""
        last = self.recipe.reductions[0] - 1
        return self.variational("flat_start", last, prior="layerwise_normal")

    def from_flat(self, part: str, *actions):
        """The rest of the training of the flat posterior."""
        return self.trained(
            part, self.flat_until_reduction, self.recipe.epochs, *actions
        )

    def network(self):
        """The ordinary network, not pruned."""
        return self.trained("network", self.pretrained, self.recipe.epochs)

    def flat(self):
        """Mean-field Normal posteriors, one prior variance per layer."""
        return self.from_flat("flat")

    def bmr(self):
        """Spike-and-slab reductions of the flat posterior, the rule saying how much."""
        return self.from_flat(
            "bmr", ReduceAfter(self.recipe.reductions, pruning.ModelReduction)
        )

    def bmr_rhs(self):
        """The flat posterior reduced to a regularised horseshoe once."""

        def reduction(model: keras.Model) -> pruning.ModelReduction:
            horseshoe = pruning.HierarchicalReduction(model, seed=self.seed)
            return scales_reduction(horseshoe)

        return self.from_flat(
            "bmr_rhs", ReduceAfter(self.recipe.reductions[:1], reduction)
        )

    def bmr_rounds(self):
        """A prior per weight and rounds of reduction to a given share."""
        recipe = self.recipe
        start, second = recipe.reductions
        schedule = callbacks.ReductionSchedule(
            recipe.sparsity, start, second - start, share=(0.9, 0.99), rounds=2
        )
        action = callbacks.ModelReductionCallback(schedule)
        return self.variational("bmr_rounds", recipe.epochs, action)

    def horseshoe(self):
        """The hierarchy trained itself, units cut at the first reduction."""
        cut = ReduceAfter(self.recipe.reductions[:1], scales_reduction)
        return self.variational(
            "horseshoe",
            self.recipe.epochs,
            cut,
            prior="regularized_horseshoe",
            prior_of_logits="half_cauchy_normal",
        )

    def spike_and_slab(self):
        """Spike-and-slab posteriors; the median-probability model is left."""
        recipe = self.recipe
        steps = -(-len(self.data[0]) // BATCH_SIZE)
        warm_up = (recipe.warm_up - recipe.pretraining) * steps
        return self.variational(
            "spike_and_slab",
            recipe.epochs,
            ReduceAfter(recipe.reductions[1:], pruning.ModelReduction),
            posterior="spike_and_slab",
            prior=priors.SpikeAndSlab(warmup_steps=warm_up),
        )

    def bayes_factor(self, method: str, rate: float):
        """Pruning of the ordinary network while the ratio of densities allows it."""
        count = len(self.data[0])

        def convert(network: keras.Model) -> keras.Model:
            # With the log prior of the weights as a regulariser.
            weight = 0.5 / (count * PRIOR_SCALE**2)
            model = build(self.name, keras.regularizers.L2(weight))
            model.set_weights(network.get_weights())
            return model

        action = callbacks.BayesFactorPruning(
            data=self.data,
            method=method,
            rate=rate,
            sparsity=SPARSITY,
            prior_scale=PRIOR_SCALE,
            threshold=-TOLERANCE * count,
            seed=self.seed,
        )
        start = self.converted(convert)
        return self.trained(f"bayes_factor_{method}", start, self.recipe.epochs, action)

    def magnitude_schedule(self):
        """Magnitudes, the same share of each layer, along a cubic: rare steps at last.

        Zhu and Gupta, To prune, or not to prune, arXiv 1710.01878, equation 1.
        """
        recipe = self.recipe
        count = recipe.reductions[-1] - recipe.pretraining
        shares = 1 - (1 - np.arange(1, count + 1) / count) ** 3
        schedule = callbacks.ReductionSchedule(
            [float(SPARSITY * share) for share in shares],
            start=recipe.pretraining + 1,
            every=1,
            ranking="layer",
        )
        action = callbacks.ModelReductionCallback(
            schedule, criterion="magnitude", source=PointEstimate
        )
        return self.trained(
            "magnitude_schedule", self.pretrained, recipe.epochs, action
        )


METHODS: dict[str, tuple[str, Callable[[Run], tuple]]] = {
    "network": ("ordinary network", Run.network),
    "flat": ("flat variational", Run.flat),
    "bmr": ("BMR spike-and-slab, by its rule", Run.bmr),
    "bmr_rhs": ("BMR-RHS", Run.bmr_rhs),
    "horseshoe": ("tiered horseshoe", Run.horseshoe),
    "spike_and_slab": ("spike-and-slab VI", Run.spike_and_slab),
    "bayes_factor_magnitude": (
        "Bayes factors, magnitude",
        lambda run: run.bayes_factor("magnitude", run.recipe.rate),
    ),
    "bayes_factor_random": (
        "Bayes factors, random",
        lambda run: run.bayes_factor("random", 0.05),
    ),
    "magnitude_schedule": ("magnitude schedule", Run.magnitude_schedule),
    "bmr_rounds": ("BMR in rounds to a share, prior per weight", Run.bmr_rounds),
}
