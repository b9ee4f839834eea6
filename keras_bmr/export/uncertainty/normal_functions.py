"""Functions of a standard normal number by operations that TFLite has."""

import math

import tensorflow as tf

# Of x, x^3, ..., x^9 in the logit of the distribution function: a minimax fit on
# [0, 7], found by least squares with weights renewed until the error was level, 1.5e-6.
# The last one is positive, so that x may be of any size.
_LOGIT = (1.59573943, 0.0727845527, -0.000175639656, -0.0000733898085, 0.00000285019673)
# Added to variances: the smallest number that float16 files do not round to zero. Its
# root, 2.4e-4, is little beside the arguments of activations.
_TINY = 2.0**-24
_LOG_DENSITY_AT_ZERO = -0.5 * math.log(2 * math.pi)


def distribution_function(x: tf.Tensor, square: tf.Tensor) -> tf.Tensor:
    """Probability that a standard normal number is at most x, within 2e-6.

    TFLite has no error function, and every operation counts. The logit of the
    distribution function is close to an odd polynomial.

    Args:
        x: Tensor.
        square: Its square.

    Returns:
        Tensor of the same shape.

    References:
        Bowling, Khasawneh, Kaewkuekool and Cho, A logistic approximation to the
        cumulative normal distribution, Journal of Industrial Engineering and
        Management 2 (2009), equation 10 (with two terms, within 1.4e-4).
    """
    # Beyond 8 the distribution function is 0 or 1 to single precision. LiteRT's
    # sigmoid is nan for numbers beyond 1e25.
    square = tf.minimum(square, 64.0)
    polynomial = _LOGIT[-1]
    for coefficient in reversed(_LOGIT[:-1]):
        polynomial = polynomial * square + coefficient
    return tf.sigmoid(polynomial * x)


def density(square: tf.Tensor) -> tf.Tensor:
    """Density of the standard normal distribution at a number of a given square.

    Args:
        square: Tensor.

    Returns:
        Tensor of the same shape.
    """
    return tf.exp(-0.5 * square + _LOG_DENSITY_AT_ZERO)


def deviation_of(variance: tf.Tensor) -> tf.Tensor:
    """The standard deviation, positive also where a variance is zero.

    Args:
        variance: Tensor.

    Returns:
        Tensor of the same shape.
    """
    return tf.sqrt(variance + _TINY)
