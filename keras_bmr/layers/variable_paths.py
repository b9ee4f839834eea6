"""Finding the variable of a layer by the path of attributes that leads to it."""

import keras


def owner_of(layer: keras.layers.Layer, path: str) -> tuple[object | None, str]:
    """The layer or cell that holds a variable, and the name it has there.

    Args:
        layer: A built layer.
        path: For example "kernel", "cell.kernel" or "_query_dense.kernel".

    Returns:
        The owner, None if there is none, and the last part of the path.
    """
    *sublayers, attribute = path.split(".")
    owner: object | None = layer
    for sublayer in sublayers:
        owner = getattr(owner, sublayer, None)
    return owner, attribute


def variable_at(layer: keras.layers.Layer, path: str) -> keras.Variable | None:
    """The variable at a path of attributes.

    Args:
        layer: A built layer.
        path: As for `owner_of`.

    Returns:
        The variable, or None if the layer has none there.
    """
    owner, attribute = owner_of(layer, path)
    # `kernel` is a property over `_kernel` in some Keras layers, and a plain
    # attribute in others.
    variable = getattr(owner, f"_{attribute}", None)
    return getattr(owner, attribute, None) if variable is None else variable
