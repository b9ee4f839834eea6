"""Export of trained and reduced models to files that devices execute."""

from keras_bmr.export.report import ExportReport
from keras_bmr.export.tflite import export_tflite

__all__ = ["ExportReport", "export_tflite"]
