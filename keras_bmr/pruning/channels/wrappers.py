"""The rule of TimeDistributed."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_bmr.pruning.channels.calls import Call
from keras_bmr.pruning.channels.passing_rules import FixedRule
from keras_bmr.pruning.channels.registry import register_channel_rule, rule_for
from keras_bmr.pruning.channels.rule import ChannelRule, Recorder, Weights


@register_channel_rule(keras.layers.TimeDistributed)
class TimeDistributedRule(ChannelRule):
    """As the layer inside, at each step; the axis of the steps is left out."""

    def trace(
        self, call: Call, inputs: Sequence[np.ndarray], recorder: Recorder
    ) -> list[np.ndarray]:
        """See `ChannelRule.trace`."""
        layer = call.operation.layer
        if isinstance(layer, keras.Model):
            raise ValueError(
                f"Layer '{call.operation.name}' (TimeDistributed) wraps a model, "
                f"'{layer.name}', whose channels cannot be followed. Wrap its layers "
                "one by one."
            )
        if inputs[0].shape[1] > 1:
            return FixedRule().trace(call, inputs, recorder)
        inner, rule = _inside(call)
        return _with_steps(rule.trace(inner, _without_steps(inputs[:1]), recorder))

    def constants(
        self, call: Call, inputs: Sequence[np.ndarray], weights: Weights
    ) -> list[np.ndarray]:
        """See `ChannelRule.constants`."""
        inner, rule = _inside(call)
        if inputs[0].shape[1] > 1:
            return super().constants(call, inputs, weights)
        return _with_steps(rule.constants(inner, _without_steps(inputs[:1]), weights))

    def reads(
        self,
        call: Call,
        constants: Sequence[np.ndarray],
        alive: Sequence[np.ndarray],
        weights: Weights,
    ) -> list[np.ndarray]:
        """See `ChannelRule.reads`."""
        inner, rule = _inside(call)
        needed = rule.reads(
            inner, _without_steps(constants[:1]), _without_steps(alive), weights
        )
        return _with_steps(needed[:1])

    def shifts(
        self,
        call: Call,
        constants: Sequence[np.ndarray],
        alive: Sequence[np.ndarray],
        weights: Weights,
    ) -> dict[str, np.ndarray]:
        """See `ChannelRule.shifts`."""
        inner, rule = _inside(call)
        shifts = rule.shifts(
            inner, _without_steps(constants[:1]), _without_steps(alive[:1]), weights
        )
        return {f"layer.{path}": shift for path, shift in shifts.items()}

    def config(
        self,
        call: Call,
        inputs: Sequence[np.ndarray],
        outputs: Sequence[np.ndarray],
    ) -> dict[str, Any]:
        """See `ChannelRule.config`."""
        inner, rule = _inside(call)
        changes = rule.config(
            inner, _without_steps(inputs[:1]), _without_steps(outputs)
        )
        config = call.operation.get_config()["layer"]
        # It would be built for the inputs that were.
        config.pop("build_config", None)
        return {"layer": {**config, "config": {**config["config"], **changes}}}


def _inside(call: Call) -> tuple[Call, ChannelRule]:
    layer = call.operation.layer
    inner = dataclasses.replace(
        call,
        operation=layer,
        inputs=call.inputs[:1],
        input_shapes=tuple(_step(shape) for shape in call.input_shapes[:1]),
        output_shapes=tuple(_step(shape) for shape in call.output_shapes),
    )
    return inner, rule_for(layer)


def _step(shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
    return (shape[0], *shape[2:])


def _without_steps(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [np.take(array, 0, axis=1) for array in arrays]


def _with_steps(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [np.expand_dims(array, 1) for array in arrays]
