"""CIFAR-10 for a benchmark: decoded once, and half epochs of moved, mirrored images."""

import pathlib

import numpy as np
import tensorflow as tf


def load_images(path: pathlib.Path, folder: pathlib.Path):
    """Images as uint8 and labels, for training and testing.

    Args:
        path: An .npz with x_train, y_train, x_test and y_test, or with JPEG files for
            the images: jpeg_train, one after the other, and offset_train.
        folder: Where decoded images are kept for the next time.

    Returns:
        Two pairs of images and labels.
    """
    decoded = folder / "images.npz"
    if not decoded.exists():
        arrays = {}
        with np.load(path) as file:
            for part in ("train", "test"):
                labels = file[f"y_{part}"].reshape(-1).astype("int32")
                if f"x_{part}" in file:
                    images = file[f"x_{part}"]
                else:
                    content = file[f"jpeg_{part}"].tobytes()
                    offset = file[f"offset_{part}"]
                    images = [
                        tf.io.decode_jpeg(content[start:stop]).numpy()
                        for start, stop in zip(offset, offset[1:], strict=False)
                    ]
                arrays |= {f"x_{part}": np.stack(images), f"y_{part}": labels}
        temporary = folder / "writing_images.npz"
        np.savez(temporary, **arrays)
        temporary.replace(decoded)
    with np.load(decoded) as file:
        return tuple(
            (file[f"x_{part}"], file[f"y_{part}"]) for part in ("train", "test")
        )


def half_epoch(x: np.ndarray, y: np.ndarray, part: int, seed: int):
    """Half of the images, mirrored or not, moved by up to four pixels.

    Args:
        x: Images.
        y: Labels.
        part: Which half. 0 and 1 have every image once, so do 2 and 3, and so on; the
            same number is always the same images.
        seed: Of order and movements.

    Returns:
        Images in a random order, and labels.
    """
    order = np.random.default_rng([seed, part // 2]).permutation(len(x))
    chosen = np.array_split(order, 2)[part % 2]
    rng = np.random.default_rng([seed, part, 1])
    down, right = rng.integers(0, 9, (2, len(chosen)))
    padded = np.pad(x[chosen], ((0, 0), (4, 4), (4, 4), (0, 0)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, x.shape[1:3], (1, 2))
    moved = windows[np.arange(len(chosen)), down, right].transpose(0, 2, 3, 1)
    mirrored = rng.random(len(chosen)) < 0.5
    moved[mirrored] = moved[mirrored, :, ::-1]
    return moved, y[chosen]


def in_batches(images: np.ndarray, targets: np.ndarray, size: int) -> tf.data.Dataset:
    """Batches in the order of the images.

    Keras' own data set of arrays has the tuning of tf.data on, for whose next turn the
    end of a fit waits: up to a third of the time on a small machine.

    Args:
        images: Images.
        targets: One per image.
        size: Images per batch.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = tf.data.Dataset.from_tensor_slices((images, targets)).batch(size)
    return dataset.with_options(options)
