"""Export to files that devices execute, and what these cost."""

from keras_bmr.export.arena import ArenaSize, arena_size
from keras_bmr.export.c_array import write_c_array
from keras_bmr.export.comparison import CostComparison, compare_cost
from keras_bmr.export.cost import LayerCost, ModelCost, model_cost
from keras_bmr.export.cost_rules import LayerCall, register_cost_rule
from keras_bmr.export.file_layout import FileLayout, LayerBytes, file_layout
from keras_bmr.export.int8_weights import Int8Weights, int8_weights
from keras_bmr.export.latency import measure_latency
from keras_bmr.export.metadata import Metadata, read_metadata
from keras_bmr.export.precision_choice import PrecisionChoice
from keras_bmr.export.precision_export import export_precision
from keras_bmr.export.quantization_aware import to_quantization_aware
from keras_bmr.export.report import ExportReport
from keras_bmr.export.tflite import export_tflite
from keras_bmr.export.uncertainty import (
    Moments,
    elementwise_moments,
    propagate_moments,
    register_moment_rule,
)
from keras_bmr.export.weight_formats import WEIGHT_FORMATS
from keras_bmr.export.weight_precision import WeightPrecision, choose_precision
from keras_bmr.export.widths import plot_widths

__all__ = [
    "ArenaSize",
    "CostComparison",
    "ExportReport",
    "FileLayout",
    "Int8Weights",
    "LayerBytes",
    "LayerCall",
    "LayerCost",
    "Metadata",
    "ModelCost",
    "Moments",
    "PrecisionChoice",
    "WEIGHT_FORMATS",
    "WeightPrecision",
    "arena_size",
    "choose_precision",
    "compare_cost",
    "elementwise_moments",
    "export_precision",
    "export_tflite",
    "file_layout",
    "int8_weights",
    "measure_latency",
    "model_cost",
    "plot_widths",
    "propagate_moments",
    "read_metadata",
    "register_cost_rule",
    "register_moment_rule",
    "to_quantization_aware",
    "write_c_array",
]
