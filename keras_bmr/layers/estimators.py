"""Estimators of the output of a linear layer whose weights are random.

Each takes the layer's linear map and the posterior of the kernel and returns the
output before bias and activation. They agree in mean and variance and differ in what
is shared: plain reparameterisation draws one kernel for the batch, flipout makes the
draws of the examples uncorrelated, local reparameterisation draws the outputs.
"""

from typing import Any

import keras
import tensorflow as tf
from keras import ops
from tensorflow_probability import distributions as tfd

from keras_bmr.posteriors.sampling import fold_in, random_signs, standard_normal


def local_reparameterization(
    layer: Any, inputs: tf.Tensor, kernel: tfd.Distribution, seed: tf.Tensor
) -> tf.Tensor:
    """Draws every output from its own Normal.

    The mean is linear in the means of the weights, the variance in their variances.
    Outputs of one example that share weights (the pixels of a convolution) are drawn
    independently: their variances are right, their covariance is 0.

    Args:
        layer: The layer, for `linear` and `linear_of_squares`.
        inputs: Input of the layer.
        kernel: Posterior of the kernel.
        seed: Integer tensor of shape (2,).

    Returns:
        Output before bias and activation, in the dtype of `inputs`.

    References:
        Kingma, Salimans and Welling, Variational dropout and the local
        reparameterization trick, NeurIPS 2015, equation 6.
    """
    mean, variance = layer.moments(kernel)
    compute_dtype = layer.compute_dtype
    # The squares of small scales are zero in half precision.
    dtype = "float32" if compute_dtype == "float16" else compute_dtype
    output_mean = layer.linear(inputs, ops.cast(mean, compute_dtype))
    output_variance = layer.linear_of_squares(inputs, ops.cast(variance, dtype))
    # The floor keeps the gradient of the root finite where all inputs are zero.
    deviation = ops.sqrt(ops.maximum(output_variance, 1e-30))
    noise = standard_normal(ops.shape(output_mean), seed, dtype)
    return output_mean + ops.cast(deviation * noise, compute_dtype)


def flipout(
    layer: Any, inputs: tf.Tensor, kernel: tfd.Distribution, seed: tf.Tensor
) -> tf.Tensor:
    """Draws one kernel and flips its deviation by signs of every example's own.

    The signs are one per example and channel, shared by all positions, so that the
    covariance between positions is that of a common kernel.

    Args:
        layer: The layer, for `linear` and the axes of its channels.
        inputs: Input of the layer.
        kernel: Posterior of the kernel. What is flipped is the symmetric part of its
            deviation, see `Posterior.centre_and_deviation`.
        seed: Integer tensor of shape (2,).

    Returns:
        Output before bias and activation, in the dtype of `inputs`.

    References:
        Wen, Vicol, Ba, Tran and Grosse, Flipout: efficient pseudo-independent
        weight perturbations on mini-batches, ICLR 2018, equation 4.
    """
    dtype = layer.compute_dtype
    # `scaled_draw` of the layer has folded 1 in.
    noise_seed, input_seed, output_seed = (fold_in(seed, i) for i in (2, 3, 4))
    centre, deviation = layer.centre_and_deviation(kernel, noise_seed)
    output = layer.linear(inputs, ops.cast(centre, dtype))
    input_shape, output_shape = ops.shape(inputs), ops.shape(output)

    def signs(shape: Any, axes: tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
        kept = {axis % len(shape) for axis in axes} | {0}
        reduced = [n if i in kept else 1 for i, n in enumerate(shape)]
        return random_signs(reduced, seed, keras.backend.standardize_dtype(dtype))

    flipped = inputs * signs(input_shape, layer.input_channel_axes, input_seed)
    perturbation = layer.linear(flipped, ops.cast(deviation, dtype))
    output_signs = signs(output_shape, layer.output_channel_axes, output_seed)
    return output + perturbation * output_signs


def reparameterization(
    layer: Any, inputs: tf.Tensor, kernel: tfd.Distribution, seed: tf.Tensor
) -> tf.Tensor:
    """Draws one kernel for the whole batch.

    Args:
        layer: The layer, for `linear`.
        inputs: Input of the layer.
        kernel: Posterior of the kernel.
        seed: Integer tensor of shape (2,).

    Returns:
        Output before bias and activation, in the dtype of `inputs`.

    References:
        Kingma and Welling, Auto-encoding variational Bayes, ICLR 2014, section 2.4.
    """
    return layer.linear(
        inputs, ops.cast(layer.sample(kernel, seed), layer.compute_dtype)
    )


ESTIMATORS = {
    "local_reparameterization": local_reparameterization,
    "flipout": flipout,
    "reparameterization": reparameterization,
}
