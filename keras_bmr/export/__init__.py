"""Export to files that devices execute, and what these cost."""

from keras_bmr.export.comparison import CostComparison, compare_cost
from keras_bmr.export.cost import LayerCost, ModelCost, model_cost
from keras_bmr.export.cost_rules import LayerCall, register_cost_rule
from keras_bmr.export.latency import measure_latency
from keras_bmr.export.report import ExportReport
from keras_bmr.export.tflite import export_tflite
from keras_bmr.export.widths import plot_widths

__all__ = [
    "CostComparison",
    "ExportReport",
    "LayerCall",
    "LayerCost",
    "ModelCost",
    "compare_cost",
    "export_tflite",
    "measure_latency",
    "model_cost",
    "plot_widths",
    "register_cost_rule",
]
