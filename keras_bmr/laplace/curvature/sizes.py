"""Refusing curvatures that cannot fit in memory, before anything is computed."""

import os
from collections.abc import Sequence

from keras_bmr.laplace.curvature.weights import RuledLayer

# The factor of a batch in single precision, the total and its successor in double.
_BYTES_PER_NUMBER = 20


def check_memory(layers: Sequence[RuledLayer], structure: str) -> None:
    """Refuses a curvature that is larger than the memory of the machine.

    Args:
        layers: The layers that shall have a curvature.
        structure: "diagonal" or "kronecker".

    Raises:
        ValueError: If it does not fit; the message says how large it is, which weight
            needs most and what to do.
    """
    sizes = {}
    for ruled in layers:
        for name, variable in ruled.variables.items():
            size = variable.value.shape.num_elements()
            if structure == "kronecker":
                size = ruled.rule.kronecker_size(ruled.layer, name)
            sizes[f"{ruled.owner.path}/{ruled.prefix}{name}"] = size
    needed = _BYTES_PER_NUMBER * sum(sizes.values())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed <= memory:
        return
    largest = max(sizes, key=sizes.__getitem__)
    raise ValueError(
        f"The {structure} curvature needs {needed / 1e9:.1f} GB, of which "
        f"{_BYTES_PER_NUMBER * sizes[largest] / 1e9:.1f} GB for weight '{largest}'; "
        f"this machine has {memory / 1e9:.1f} GB. Use structure='diagonal', or leave "
        "layers out with `skip=`."
    )
