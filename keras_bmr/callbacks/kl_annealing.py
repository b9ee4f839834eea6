"""Warm-up of the KL divergence."""

import warnings

import keras

from keras_bmr.argument_checks import require_integer, require_positive
from keras_bmr.objectives import set_kl_factor


class KLAnnealing(keras.callbacks.Callback):
    """Raises the weight of the KL divergence linearly over the first epochs.

    Early in training the means fit the data while the KL would already pull every
    weight towards the prior; a slow start avoids posteriors that never leave it.

    Args:
        epochs: Positive integer, the epoch from which on the factor is `end`.
        start: Non-negative float, the factor in the first epoch.
        end: Positive float, the final factor; 1 is the evidence lower bound, less
            is a tempered posterior.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> annealing = keras_bmr.callbacks.KLAnnealing(epochs=5)
        >>> model.fit(x, y, epochs=20, callbacks=[annealing])

    References:
        Sonderby, Raiko, Maaloe, Sonderby and Winther, Ladder variational
        autoencoders, NeurIPS 2016, section 2.3.
    """

    def __init__(self, epochs: int = 5, start: float = 0.0, end: float = 1.0) -> None:
        super().__init__()
        require_integer("epochs", epochs, at_least=1)
        require_positive("start", start, or_zero=True)
        require_positive("end", end)
        self.epochs = int(epochs)
        self.start = float(start)
        self.end = float(end)

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Warns if training ends before the factor has reached its end."""
        epochs = self.params.get("epochs")
        if epochs is not None and epochs <= self.epochs:
            warnings.warn(
                f"KLAnnealing reaches the factor {self.end} in epoch "
                f"{self.epochs + 1}, but training ends after epoch {epochs}, so that "
                "the loss never becomes the one asked for. Train for longer, or take "
                "fewer epochs of annealing.",
                stacklevel=2,
            )

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Sets the factor of the epoch."""
        progress = min(epoch / self.epochs, 1.0)
        set_kl_factor(self.model, self.start + (self.end - self.start) * progress)
