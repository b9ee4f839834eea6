"""Training with TensorFlow's model optimisation toolkit (tfmot)."""

from keras_bmr.export.tfmot_bridge.export import export_with_tfmot
from keras_bmr.export.tfmot_bridge.rebuilding import to_tf_keras

__all__ = ["export_with_tfmot", "to_tf_keras"]
