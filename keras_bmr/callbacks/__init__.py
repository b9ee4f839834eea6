"""What runs during `model.fit`."""

from keras_bmr.callbacks.kl_annealing import KLAnnealing

__all__ = ["KLAnnealing"]
