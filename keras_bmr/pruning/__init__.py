"""Which weights a model can do without, and the model without them."""

from keras_bmr.pruning import criteria, defaults, groups, reduced_priors
from keras_bmr.pruning.criteria import Criterion
from keras_bmr.pruning.dead_paths import remove_dead_paths
from keras_bmr.pruning.groups import ParameterGroups
from keras_bmr.pruning.model_reduction import LayerReduction, ModelReduction
from keras_bmr.pruning.reduce_model import reduce_model
from keras_bmr.pruning.reduced_priors import PointMass, ReducedPrior, SpikeAndSlab
from keras_bmr.pruning.sparsity import sparsity

__all__ = [
    "Criterion",
    "LayerReduction",
    "ModelReduction",
    "ParameterGroups",
    "PointMass",
    "ReducedPrior",
    "SpikeAndSlab",
    "criteria",
    "defaults",
    "groups",
    "reduce_model",
    "reduced_priors",
    "remove_dead_paths",
    "sparsity",
]
