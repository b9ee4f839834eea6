"""Which weights a model can do without, and the model without them."""

from keras_bmr.layers.pruned_weights import prune_weight, weight_mask
from keras_bmr.pruning import channels, criteria, defaults, groups, reduced_priors
from keras_bmr.pruning.channels import shrink
from keras_bmr.pruning.criteria import Criterion
from keras_bmr.pruning.dead_paths import remove_dead_paths
from keras_bmr.pruning.gate_groups import GateGroups
from keras_bmr.pruning.groups import ParameterGroups
from keras_bmr.pruning.hierarchical_reduction import HierarchicalReduction
from keras_bmr.pruning.inclusion import (
    InclusionProbabilities,
    inclusion_probabilities,
)
from keras_bmr.pruning.model_reduction import LayerReduction, ModelReduction
from keras_bmr.pruning.noise_reduced_priors import BMRSNormal, BMRSUniform
from keras_bmr.pruning.posterior_weights import PosteriorSource
from keras_bmr.pruning.reduce_model import reduce_model
from keras_bmr.pruning.reduced_priors import PointMass, ReducedPrior, SpikeAndSlab
from keras_bmr.pruning.sparsity import sparsity

__all__ = [
    "BMRSNormal",
    "BMRSUniform",
    "Criterion",
    "GateGroups",
    "HierarchicalReduction",
    "InclusionProbabilities",
    "LayerReduction",
    "ModelReduction",
    "ParameterGroups",
    "PointMass",
    "PosteriorSource",
    "ReducedPrior",
    "SpikeAndSlab",
    "channels",
    "criteria",
    "defaults",
    "groups",
    "inclusion_probabilities",
    "prune_weight",
    "reduce_model",
    "reduced_priors",
    "remove_dead_paths",
    "shrink",
    "sparsity",
    "weight_mask",
]
