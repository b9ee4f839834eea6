"""The rule of embeddings."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_bmr.pruning.channels.calls import Call
from keras_bmr.pruning.channels.labels import spread
from keras_bmr.pruning.channels.registry import register_channel_rule
from keras_bmr.pruning.channels.rule import ChannelRule, Recorder, Weights


@register_channel_rule(keras.layers.Embedding)
class EmbeddingRule(ChannelRule):
    """The entries of the vectors are channels."""

    def trace(
        self, call: Call, inputs: Sequence[np.ndarray], recorder: Recorder
    ) -> list[np.ndarray]:
        """See `ChannelRule.trace`."""
        layer = call.operation
        for labels in inputs:
            recorder.fix(labels)
        made = recorder.new(layer, layer.output_dim)
        recorder.weight(layer, "embeddings", 1, made, "incoming")
        return [spread(made, -1, len(call.output_shapes[0]))]

    def constants(
        self, call: Call, inputs: Sequence[np.ndarray], weights: Weights
    ) -> list[np.ndarray]:
        """See `ChannelRule.constants`."""
        gone = ~weights(call.operation).nonzero("embeddings").any(axis=0)
        values = np.where(gone, 0.0, np.nan)
        return [spread(values, -1, len(call.output_shapes[0]))]

    def config(
        self,
        call: Call,
        inputs: Sequence[np.ndarray],
        outputs: Sequence[np.ndarray],
    ) -> dict[str, Any]:
        """See `ChannelRule.config`."""
        return {"output_dim": int(np.count_nonzero(outputs[0]))}

    def output_columns(self, call: Call, axis: int) -> Mapping[str, int] | None:
        """See `ChannelRule.output_columns`."""
        return {"embeddings": 1} if axis == len(call.output_shapes[0]) - 1 else None
