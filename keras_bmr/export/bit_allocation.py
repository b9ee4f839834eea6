"""Bits for each of several weights, where together they may take a number of bytes."""

from collections.abc import Mapping, Sequence

# Nats for which no byte is spent: a Bayes factor of 1.1 for all weights of a layer.
_NEGLIGIBLE = 0.1


def cheapest_formats(
    options: Sequence[Mapping[str, tuple[int, float]]],
    max_bytes: int,
    or_smallest: bool = False,
) -> list[str] | None:
    """Chooses one option of each weight for the least sum of losses.

    Starts from the fewest bytes and takes the changes of the least loss per byte along
    the lower convex hull of each weight's options, as far as they fit. What one more
    change could still bring is all that is lost against the best choice. Losses of less
    than 0.1 nats count as none, so that bytes may be left over.

    Args:
        options: Bytes and loss of each weight by format.
        max_bytes: Bytes of all weights together.
        or_smallest: Whether to return the choice of the fewest bytes if none fits.

    Returns:
        A format for each weight, or None if none fits.

    References:
        Shoham, Gersho. Efficient bit allocation for an arbitrary set of quantizers.
        IEEE Transactions on Acoustics, Speech, and Signal Processing 36 (1988).
    """
    hulls = [_lower_hull(option) for option in options]
    chosen = [0] * len(hulls)
    left = max_bytes - sum(hull[0][0] for hull in hulls)
    if left < 0 and not or_smallest:
        return None
    while left > 0:
        changes = []
        for position, (hull, current) in enumerate(zip(hulls, chosen, strict=True)):
            num_bytes, loss, _ = hull[current]
            # Later points of the hull save less per byte but may be all that fits.
            changes += [
                (
                    (loss - hull[later][1]) / (hull[later][0] - num_bytes),
                    position,
                    later,
                )
                for later in range(current + 1, len(hull))
                if hull[later][0] - num_bytes <= left
            ]
        if not changes:
            break
        _, position, later = max(changes)
        left -= hulls[position][later][0] - hulls[position][chosen[position]][0]
        chosen[position] = later
    return [hull[index][2] for hull, index in zip(hulls, chosen, strict=True)]


def _lower_hull(
    option: Mapping[str, tuple[int, float]],
) -> list[tuple[int, float, str]]:
    """The options that no mixture of others betters, by growing bytes."""
    points = sorted(
        (size, loss if loss >= _NEGLIGIBLE else 0.0, name)
        for name, (size, loss) in option.items()
    )
    hull: list[tuple[int, float, str]] = []
    for point in points:
        if hull and point[1] >= hull[-1][1]:
            continue
        while len(hull) > 1 and _slope(hull[-1], point) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(point)
    return hull


def _slope(first: tuple[int, float, str], second: tuple[int, float, str]) -> float:
    """Loss per byte from one option to a larger one; negative."""
    return (second[1] - first[1]) / (second[0] - first[0])
