"""What a Bayesian model is trained for, and how its predictions are judged."""

from keras_bmr.objectives.kl_weight import kl_factor, set_kl_factor, set_num_examples

__all__ = ["kl_factor", "set_kl_factor", "set_num_examples"]
