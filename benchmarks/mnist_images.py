"""MNIST for a benchmark."""

import pathlib

import numpy as np


def load_images(path: pathlib.Path):
    """Images in [0, 1] of shape (n, 28, 28, 1) and labels, for training and testing.

    Args:
        path: An .npz with x_train, y_train, x_test and y_test, images as uint8.

    Returns:
        Two pairs of float32 images and int32 labels.
    """
    with np.load(path) as file:
        return tuple(
            (
                file[f"x_{part}"][..., np.newaxis].astype("float32") / 255,
                file[f"y_{part}"].astype("int32"),
            )
            for part in ("train", "test")
        )
