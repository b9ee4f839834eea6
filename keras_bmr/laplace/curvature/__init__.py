"""Curvature of Keras models, by layer."""

from keras_bmr.laplace.curvature import rules
from keras_bmr.laplace.curvature.blocks import DiagonalBlock, KroneckerBlock
from keras_bmr.laplace.curvature.fit import Curvature, fit_curvature
from keras_bmr.laplace.curvature.registry import register_curvature_rule
from keras_bmr.laplace.curvature.rule import CurvatureRule
from keras_bmr.laplace.curvature.rules.linear_rule import LinearRule
from keras_bmr.laplace.curvature.weights import curvature_weights

__all__ = [
    "Curvature",
    "CurvatureRule",
    "DiagonalBlock",
    "KroneckerBlock",
    "LinearRule",
    "curvature_weights",
    "fit_curvature",
    "register_curvature_rule",
    "rules",
]
