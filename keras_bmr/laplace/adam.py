"""Maximising a function of few tensors."""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

_FIRST_DECAY, _SECOND_DECAY, _EPSILON = 0.9, 0.999, 1e-8


def maximise(
    objective: Callable[[list[tf.Tensor]], tf.Tensor],
    start: Sequence[np.ndarray],
    steps: int,
    learning_rate: float,
    limit: float,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Adam with its usual decay rates, in one compiled loop.

    Args:
        objective: Maps the parameters to a float64 scalar.
        start: Float64 arrays, the parameters to begin with.
        steps: Number of steps.
        learning_rate: Step size.
        limit: Largest magnitude of a parameter.

    Returns:
        The parameters after the last step, and the objective before each of them.

    References:
        Kingma and Ba, Adam, arXiv 1412.6980, algorithm 1.
    """

    def step(number, parameters, first, second, history):
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            value = objective(parameters)
        gradients = tape.gradient(value, parameters, unconnected_gradients="zero")
        history = history.write(number, value)
        power = tf.cast(number + 1, tf.float64)
        rate = learning_rate * tf.sqrt(1 - _SECOND_DECAY**power)
        rate /= 1 - _FIRST_DECAY**power
        first = _moving_averages(first, gradients, _FIRST_DECAY)
        squares = [gradient**2 for gradient in gradients]
        second = _moving_averages(second, squares, _SECOND_DECAY)
        parameters = [
            tf.clip_by_value(
                parameter + rate * mean / (tf.sqrt(square) + _EPSILON), -limit, limit
            )
            for parameter, mean, square in zip(parameters, first, second, strict=True)
        ]
        return number + 1, parameters, first, second, history

    @tf.function(autograph=False)
    def run():
        parameters = [tf.constant(value, tf.float64) for value in start]
        zeros = [tf.zeros_like(parameter) for parameter in parameters]
        history = tf.TensorArray(tf.float64, size=steps)
        _, parameters, _, _, history = tf.while_loop(
            lambda number, *_: number < steps,
            step,
            (tf.constant(0), parameters, zeros, zeros, history),
        )
        return parameters, history.stack()

    # A concrete function: TensorFlow warns of functions that are traced again and
    # again, as this one is with every fit.
    parameters, history = run.get_concrete_function()()
    return [parameter.numpy() for parameter in parameters], history.numpy()


def _moving_averages(
    averages: Sequence[tf.Tensor], values: Sequence[tf.Tensor], decay: float
) -> list[tf.Tensor]:
    return [
        decay * average + (1 - decay) * value
        for average, value in zip(averages, values, strict=True)
    ]
