"""Adding up the sums of batches, and making blocks of them."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_bmr.laplace.curvature.blocks import DiagonalBlock, KroneckerBlock
from keras_bmr.laplace.curvature.weights import RuledLayer


class Accumulator:
    """Sums over batches in double precision."""

    def __init__(self) -> None:
        self._totals: list[tf.Variable] = []
        self._structure: Any = None

    def add(self, sums: list[dict[str, Any]]) -> None:
        """Adds the sums of one batch.

        Args:
            sums: What a function of `batch_sums` returned first.
        """
        values = tf.nest.flatten(sums)
        if self._structure is None:
            self._structure = sums
            self._totals = [tf.Variable(tf.cast(v, tf.float64)) for v in values]
            return
        for total, value in zip(self._totals, values, strict=True):
            total.assign_add(tf.cast(value, tf.float64))

    def blocks(
        self, layers: Sequence[RuledLayer], structure: str
    ) -> list[DiagonalBlock] | list[KroneckerBlock]:
        """The blocks of the total.

        Args:
            layers: The layers of the sums.
            structure: "diagonal" or "kronecker".

        Returns:
            One block per weight.
        """
        totals = tf.nest.pack_sequence_as(
            self._structure, [tf.convert_to_tensor(total) for total in self._totals]
        )
        make = _diagonal_block if structure == "diagonal" else _kronecker_block
        return [
            make(ruled, name, own[name])
            for ruled, own in zip(layers, totals, strict=True)
            for name in ruled.variables
        ]


def _diagonal_block(ruled: RuledLayer, name: str, total: tf.Tensor) -> DiagonalBlock:
    return DiagonalBlock(ruled.owner, ruled.prefix + name, total)


def _kronecker_block(
    ruled: RuledLayer, name: str, total: dict[str, tf.Tensor]
) -> KroneckerBlock:
    axes, _ = ruled.rule.matrix_axes(ruled.layer, name)
    return KroneckerBlock(
        layer=ruled.owner,
        name=ruled.prefix + name,
        input_factor=total["input"] / total["count"] if "input" in total else None,
        output_factor=total["output"],
        shape=tuple(ruled.variables[name].shape),
        axes=axes,
    )
