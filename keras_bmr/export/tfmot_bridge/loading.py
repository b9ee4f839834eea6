"""The import of tfmot, which changes the process, made so that it does not."""

import os
from types import ModuleType

import tensorflow as tf

_VARIABLE = "TF_USE_LEGACY_KERAS"


def load_tfmot() -> ModuleType:
    """Imports tensorflow-model-optimization.

    It sets TF_USE_LEGACY_KERAS, for this process and those that it starts, and a
    `tf.keras` that nobody has used before is tf_keras from then on. Here `tf.keras`
    stays what it is, and the variable has the value that it had.

    Returns:
        The module.

    Raises:
        ImportError: If it is not installed (extra `tfmot`).
    """
    # What `tf.keras` is, is decided by its first use.
    _ = tf.keras.layers
    before = os.environ.get(_VARIABLE)
    try:
        import tensorflow_model_optimization
    except ImportError as error:
        raise ImportError(
            "Training with TensorFlow's model optimisation toolkit needs "
            "tensorflow-model-optimization, which is not installed. Run "
            "`pip install keras_bmr[tfmot]`, or train with "
            "`keras_bmr.export.to_quantization_aware`, which needs nothing else."
        ) from error
    finally:
        if before is None:
            os.environ.pop(_VARIABLE, None)
        else:
            os.environ[_VARIABLE] = before
    return tensorflow_model_optimization
