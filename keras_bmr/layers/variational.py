"""The mixin that turns a Keras layer into a Bayesian one.

The only place that knows how weights are drawn, where the KL divergence enters the
loss, what a pruning mask does and how all of it is saved.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_bmr import posteriors, priors
from keras_bmr.argument_checks import require_integer
from keras_bmr.layers.random_weight import (
    KLRegularizer,
    PrunedStay,
    RandomWeight,
)
from keras_bmr.layers.registry import deterministic_class
from keras_bmr.layers.substitution import call_with_values
from keras_bmr.layers.variable_paths import variable_at
from keras_bmr.layers.weights_with_posteriors import WeightsWithPosteriors
from keras_bmr.posteriors.sampling import fold_in, fold_replica, is_sampling, scope_seed

_NUM_EXAMPLES = "num_examples"


class Variational(WeightsWithPosteriors):
    """Mixin: weights with posteriors, for a subclass of a `keras.layers.Layer`.

    Subclasses name the random weights in `RANDOM_WEIGHTS` and repeat the signatures
    of `build` and `call` of their Keras parent, which Keras inspects.

    Attributes:
        ESTIMATORS: Names of the estimators that the class can use, its default first.
        RANDOM_WEIGHTS: Maps the name of each weight that has a posterior to the path
            of its variable in the Keras layer, for example "cell.kernel".
        BIASES: The same for the weights that join them under `bayesian_bias`.

    Args:
        *args: Positional arguments of the Keras parent.
        posterior: Posterior family: a name, a config or a
            `keras_bmr.posteriors.Posterior`.
        prior: Prior: a name, a config or a `keras_bmr.priors.Prior`. None stands
            for the default of the posterior family.
        estimator: How the loss is estimated in training; one of `ESTIMATORS` of
            the class. None stands for the first of them.
        bayesian_bias: Whether the bias gets a posterior too.
        num_examples: Number of training examples; usually set for the whole model
            by `keras_bmr.set_num_examples`.
        seed: Integer seed of the noise, and of the dropout of a Keras parent that
            takes one. Two layers with the same seed draw the same noise; None takes
            a new one.
        **kwargs: Keyword arguments of the Keras parent.

    Raises:
        ValueError: If an argument is invalid.
    """

    ESTIMATORS: tuple[str, ...] = ("reparameterization",)
    RANDOM_WEIGHTS: Mapping[str, str] = {"kernel": "kernel"}
    BIASES: Mapping[str, str] = {"bias": "bias"}

    def __init__(
        self,
        *args: Any,
        posterior: Any = "mean_field_normal",
        prior: Any = None,
        estimator: str | None = None,
        bayesian_bias: bool = False,
        num_examples: int | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        if "seed" in inspect.signature(super().__init__).parameters:
            kwargs["seed"] = seed
        super().__init__(*args, **kwargs)
        self._posterior_family = posteriors.get(posterior)
        if prior is None:
            prior = self._posterior_family.default_prior
        self._prior_family = priors.get(prior)
        self._prior_family.check_posterior(self._posterior_family)
        self.estimator = self.ESTIMATORS[0] if estimator is None else estimator
        if self.estimator not in self.ESTIMATORS:
            raise ValueError(
                f"Invalid value for `estimator` of {type(self).__name__}: expected "
                f"one of {self.ESTIMATORS}. Received: estimator={estimator!r}"
            )
        self.bayesian_bias = bool(bayesian_bias)
        if num_examples is not None:
            require_integer("num_examples", num_examples, at_least=1)
        self.num_examples = num_examples
        self.seed = seed
        self._noise_seed = keras.random.SeedGenerator(seed)
        self._random: dict[str, RandomWeight] = {}

    # --- What a subclass says of itself ---

    @classmethod
    def random_weights(cls, layer: keras.layers.Layer) -> dict[str, keras.Variable]:
        """The weights of a Keras layer that get a posterior, by name.

        Args:
            layer: A built layer of the Keras parent class or of this one.

        Returns:
            Its variables, in a fixed order; those of sublayers may be among them.
        """
        return _variables_at(layer, cls.RANDOM_WEIGHTS)

    def location_variables(
        self, layer: keras.layers.Layer
    ) -> dict[str, keras.Variable]:
        """As `random_weights`, with the bias if this layer has a Bayesian one.

        Args:
            layer: A built layer of the Keras parent class or of this one.

        Returns:
            Its variables by name.
        """
        locations = self.random_weights(layer)
        if self.bayesian_bias:
            locations = {**locations, **_variables_at(layer, self.BIASES)}
        return locations

    # --- Building ---

    def build(self, *args: Any, **kwargs: Any) -> None:
        """Builds the Keras parent, then what its posteriors need."""
        super().build(*args, **kwargs)
        self.kl_weight = self.add_weight(
            name="kl_weight",
            shape=(),
            initializer=keras.initializers.Constant(1.0 / (self.num_examples or 1)),
            trainable=False,
            dtype="float32",
            autocast=False,
        )
        random = {}
        for name, location in self.location_variables(self).items():
            if location.dtype not in ("float32", "float64"):
                raise ValueError(
                    f"Weight '{name}' of layer '{self.name}' must be a float32 or "
                    "float64 variable to have a posterior. For half precision use "
                    "the dtype policy 'mixed_float16' or 'mixed_bfloat16'; quantise "
                    "after training, with `keras_bmr.export_tflite`. Received: "
                    f"dtype={location.dtype!r}"
                )
            add = self._add_weight_of(name, location.dtype)
            mask = add(
                name="mask",
                shape=location.shape,
                initializer="ones",
                trainable=False,
                dtype="bool",
            )
            random[name] = RandomWeight(
                location=location,
                mask=mask,
                posterior_state=self._posterior_family.add_weights(add, location.shape),
                prior_state=self._prior_family.add_weights(add, location.shape),
            )
            # Outside `call`, where the KL is computed, nothing is autocast; inside,
            # half precision would round the location before it is scaled.
            location.regularizer = KLRegularizer(self, name, location.regularizer)
            location.constraint = PrunedStay(
                mask,
                self._posterior_family.pruned_location,
                location.constraint,
                functools.partial(self.update_closed_forms, name),
            )
        if not random:
            raise ValueError(
                f"Layer '{self.name}' has no weight that could get a posterior, none "
                f"of {sorted(self.RANDOM_WEIGHTS)}. Use the Keras layer instead, or "
                "change the arguments that leave its weights out."
            )
        self._random = random

    def _add_weight_of(self, weight_name: str, dtype: str) -> Callable:
        def add_weight(name: str, **kwargs: Any) -> keras.Variable:
            options = {"dtype": dtype, "autocast": False, **kwargs}
            return self.add_weight(name=f"{weight_name}_{name}", **options)

        return add_weight

    # --- Calling ---

    def call(self, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
        """Calls the Keras parent with drawn weights, or with their means."""
        if self.draws_weights(training):
            values = self.drawn_weights()
        else:
            values = self.posterior_means()
        replaced = {id(self._random[name].location): v for name, v in values.items()}
        return call_with_values(
            self, super().call, replaced, *args, training=training, **kwargs
        )

    def draws_weights(self, training: bool | None) -> bool:
        """Whether a call draws weights rather than taking their means."""
        return bool(training) or is_sampling()

    def drawn_weights(self) -> dict[str, tf.Tensor]:
        """One draw of the random weights by name, as a call takes it."""
        seeds = self.next_seeds(len(self._random))
        return {
            name: self._posterior_family.sample(self.scaled_draw(name, seed), seed)
            for name, seed in zip(self._random, seeds, strict=True)
        }

    def next_seeds(self, count: int) -> list[tf.Tensor]:
        """Independent seeds for one call of the layer."""
        if (fixed := scope_seed()) is None:
            seed = tf.cast(self._noise_seed.next(), tf.int64)
        else:
            # The layer's own seed tells layers apart. Its counter must not matter, nor
            # advance, or looking at predictions would change the training after it.
            own = tf.cast(self._noise_seed.state.value, tf.int64)
            seed = fold_in(tf.stack([own[0], tf.zeros((), tf.int64)]), fixed)
        return [fold_in(fold_replica(seed), i) for i in range(count)]

    def scaled_draw(self, name: str, seed: tf.Tensor) -> tfd.Distribution:
        """The posterior of a weight, given a draw of its prior's random scale."""
        weight = self._random[name]
        # Not the seed of the weight's own noise, which would tie the two together.
        folded = fold_in(seed, 1)
        scale = self._prior_family.sample_scale(weight.prior_state, folded)
        return self._scaled(weight, scale)

    # --- Saving ---

    def save_own_variables(self, store: Any) -> None:
        """Saves all variables of the layer, the parents' and those added here."""
        keras.layers.Layer.save_own_variables(self, store)
        store[_NUM_EXAMPLES] = np.array(self.num_examples or 1)

    def load_own_variables(self, store: Any) -> None:
        """Loads all variables of the layer; the KL weight fits its `num_examples`."""
        values = {key: store[key] for key in store.keys() if key != _NUM_EXAMPLES}
        keras.layers.Layer.load_own_variables(self, values)
        if _NUM_EXAMPLES in store.keys():
            saved, own = int(store[_NUM_EXAMPLES][()]), self.num_examples or 1
            if saved != own:
                # The factor of annealing is what counts, not the size of other data.
                self.kl_weight.assign(self.kl_weight.value * (saved / own))

    def deterministic_layer(self) -> keras.layers.Layer:
        """A new Keras layer that computes the same, given the means as its weights."""
        return deterministic_class(type(self)).from_config(self.parent_config())

    def parent_config(self) -> dict[str, Any]:
        """The arguments of the Keras parent's constructor alone."""
        return super().get_config()

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, the Keras parent's included."""
        return {
            **self.parent_config(),
            "posterior": keras.saving.serialize_keras_object(self._posterior_family),
            "prior": keras.saving.serialize_keras_object(self._prior_family),
            "estimator": self.estimator,
            "bayesian_bias": self.bayesian_bias,
            "num_examples": self.num_examples,
            "seed": self.seed,
        }


def _variables_at(
    layer: keras.layers.Layer, paths: Mapping[str, str]
) -> dict[str, keras.Variable]:
    """The variables at the paths of attributes that the layer has."""
    found = {name: variable_at(layer, path) for name, path in paths.items()}
    return {name: value for name, value in found.items() if value is not None}
