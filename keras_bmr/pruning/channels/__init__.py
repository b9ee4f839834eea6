"""Channels: which belong together, and the model without those that are gone."""

from keras_bmr.pruning.channels.graph import ChannelGraph, WeightAxis
from keras_bmr.pruning.channels.passing_rules import (
    ChannelwiseRule,
    ElementwiseRule,
    FixedRule,
)
from keras_bmr.pruning.channels.pruning import prune_channels, widths
from keras_bmr.pruning.channels.registry import register_channel_rule
from keras_bmr.pruning.channels.rule import ChannelRule
from keras_bmr.pruning.channels.shrink import shrink

__all__ = [
    "ChannelGraph",
    "ChannelRule",
    "ChannelwiseRule",
    "ElementwiseRule",
    "FixedRule",
    "WeightAxis",
    "prune_channels",
    "register_channel_rule",
    "shrink",
    "widths",
]
