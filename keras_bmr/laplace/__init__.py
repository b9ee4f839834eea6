"""Laplace approximations: posteriors of ordinary models, evidence, learned priors."""

from keras_bmr.laplace.curvature import (
    Curvature,
    CurvatureRule,
    DiagonalBlock,
    KroneckerBlock,
    LinearRule,
    curvature_weights,
    fit_curvature,
    register_curvature_rule,
)
from keras_bmr.laplace.evidence import EvidenceTerms
from keras_bmr.laplace.laplace import Laplace
from keras_bmr.laplace.linearized import LinearizedOutputs

__all__ = [
    "Curvature",
    "CurvatureRule",
    "DiagonalBlock",
    "EvidenceTerms",
    "KroneckerBlock",
    "Laplace",
    "LinearRule",
    "LinearizedOutputs",
    "curvature_weights",
    "fit_curvature",
    "register_curvature_rule",
]
