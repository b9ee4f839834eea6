"""The arguments of `export_tflite` that have to do with uncertainty."""

import keras

from keras_bmr.argument_checks import require_integer
from keras_bmr.export.inference import Inference, inference_at_means
from keras_bmr.export.uncertainty.ensemble import inference_by_ensemble
from keras_bmr.export.uncertainty.propagation import inference_by_moments

_KINDS = (None, "moments", "ensemble")
_DEFAULT_NUM_SAMPLES = 8


def check_uncertainty(
    uncertainty: str | None,
    num_samples: int | None,
    seed: int,
    from_logits: bool,
    quantize: str | None,
) -> None:
    """Refuses arguments that do not go together.

    Args:
        uncertainty: None, "moments" or "ensemble".
        num_samples: Number of draws of an ensemble.
        seed: Of the draws.
        from_logits: Whether a softmax follows the output.
        quantize: The mode of quantisation.

    Raises:
        ValueError: If an argument is invalid or has no meaning.
    """
    if uncertainty not in _KINDS:
        raise ValueError(
            f"Invalid value for `uncertainty`, expected one of {_KINDS}. Received: "
            f"uncertainty={uncertainty!r}"
        )
    if num_samples is not None:
        require_integer("num_samples", num_samples, at_least=2)
    require_integer("seed", seed, at_least=0)
    if num_samples is not None and uncertainty != "ensemble":
        raise ValueError(
            '`num_samples` is the number of draws of uncertainty="ensemble" and has no '
            f"meaning otherwise. Received: num_samples={num_samples}, "
            f"uncertainty={uncertainty!r}"
        )
    if from_logits and uncertainty is None:
        raise ValueError(
            "`from_logits=True` asks for class probabilities and their variance; "
            'expected uncertainty="moments" or "ensemble" with it. Add a softmax layer '
            "to export probabilities alone. Received: uncertainty=None"
        )
    if uncertainty is not None and quantize == "int8":
        raise ValueError(
            "Variances span too many orders of magnitude for the 256 steps of an int8 "
            "tensor. Expected quantize=None, 'float16' or 'dynamic' with "
            f"`uncertainty`. Received: quantize='int8', uncertainty={uncertainty!r}"
        )


def inference_of(
    model: keras.Model,
    network: keras.Model,
    uncertainty: str | None,
    num_samples: int | None,
    seed: int,
    from_logits: bool,
) -> Inference:
    """What a file computes.

    Args:
        model: The model that a user exports.
        network: Result of `deterministic_network`.
        uncertainty: None, "moments" or "ensemble".
        num_samples: Number of draws of an ensemble, None for the default.
        seed: Of the draws.
        from_logits: Whether a softmax follows the output.

    Raises:
        ValueError: If the model has no Bayesian layer, several outputs, or a layer
            that moments cannot pass.
    """
    if uncertainty == "moments":
        return inference_by_moments(model, network, from_logits)
    if uncertainty == "ensemble":
        num_samples = num_samples or _DEFAULT_NUM_SAMPLES
        return inference_by_ensemble(model, network, num_samples, seed, from_logits)
    return inference_at_means(model, network)
