"""The probability of being in the model as a criterion."""

import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_bmr.distributions.spike_and_slab import SpikeAndSlabIndicator
from keras_bmr.pruning.criteria.criterion import Criterion, WeightEvidence


class Inclusion(Criterion):
    """Log odds that a group is out, for spike-and-slab posteriors.

    A group is out if all of its weights are, which has the probability
    `prod(1 - phi)`. The score is the log odds of it, for a single weight
    `-logit phi`. From 0 on, where a group is rather out than in, it is pruned: of
    single weights the median-probability model is left, those with phi of 1/2 and
    more.

    Example:
        >>> keras_bmr.reduce_model(model, criterion="inclusion")

    References:
        Barbieri and Berger, Optimal predictive model selection, Annals of Statistics
        32 (2004), section 2.
    """

    natural_threshold = 0.0

    def statistic(self, evidence: WeightEvidence) -> np.ndarray:
        """See `Criterion.statistic`: the log probability of being out.

        Raises:
            ValueError: If the posterior has no inclusion probabilities, or the
                warm-up is not over.
        """
        posterior, label = evidence.posterior, evidence.weight.label
        if not isinstance(posterior, SpikeAndSlabIndicator):
            raise ValueError(
                "Criterion 'inclusion' needs posteriors with inclusion probabilities, "
                "those of `posterior='spike_and_slab'`. Leave the layer alone with "
                f"`skip`. Received: a {type(posterior).__name__} for {label}"
            )
        check_warm_up_over(evidence.prior, label)
        return -tf.math.softplus(posterior.logits).numpy()

    def score(self, total: np.ndarray, count: np.ndarray) -> np.ndarray:
        """See `Criterion.score`."""
        del count
        # A group with nothing left to prune has a total of 0.
        certain = np.finfo(total.dtype).tiny
        return total - np.log(np.maximum(-np.expm1(total), certain))


def check_warm_up_over(prior: tfd.Distribution, label: str) -> None:
    """Checks that a prior lets weights be out.

    Args:
        prior: A prior with an inclusion rate.
        label: What the weight is called in the message.

    Raises:
        ValueError: If the rate is 1, as it is during the warm-up.
    """
    if np.all(prior.probs == 1):
        raise ValueError(
            f"The prior of {label} has an inclusion rate of 1, since its warm-up is "
            "not over: nothing is known of what is in and what is out. Train longer, "
            "or with fewer `warmup_steps` in `keras_bmr.priors.SpikeAndSlab`."
        )
