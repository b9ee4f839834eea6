"""What an exported file computes, and what its outputs are compared with."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np

from keras_bmr.export import verify
from keras_bmr.export.network import call_flat, reference


@dataclasses.dataclass(frozen=True)
class Inference:
    """A function to export and the outputs that the file must have.

    Attributes:
        infer: Takes one tensor per input and returns a list of tensors, by operations
            that TFLite has.
        expected: Takes one array per input and the number of examples per call, and
            returns the outputs of Keras.
        uncertainty: None, "moments" or "ensemble". With either of them the outputs are
            a mean and a variance.
        notes: Remarks for the report.
    """

    infer: Callable
    expected: Callable[[list[np.ndarray], int], list[np.ndarray]]
    uncertainty: str | None = None
    notes: tuple[str, ...] = ()


def inference_at_means(model: keras.Model, network: keras.Model) -> Inference:
    """The network of the posterior means, compared with the model itself.

    Args:
        model: The model that a user exports.
        network: Result of `deterministic_network`.
    """
    return Inference(
        infer=lambda *tensors: call_flat(network, tensors),
        expected=lambda inputs, batch_size: verify.run_keras(
            reference(model, network), inputs, batch_size
        ),
    )
