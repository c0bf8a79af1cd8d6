"""Frozen backbones: features that replace or accompany the images.

A spec's table ``backbone`` holds the fields of
:class:`~apalu_jax.experiments.backbones.config.FeatureConfig`, for example::

    backbone = { weights = "cifar10", width = 0.25, kind = "pooled", rotations = 8 }
"""

from pathlib import Path

import numpy as np

from apalu_jax.experiments.backbones import features, weights
from apalu_jax.experiments.backbones.config import FeatureConfig
from apalu_jax.experiments.data.splits import Batch, Splits
from apalu_jax.experiments.schema import Options, convert

__all__ = ("attach", "label")


def attach(fold: Splits, options: Options, data_dir: Path | None = None) -> Splits:
    """Adds the features of a frozen network to splits of images [n, size, size, 3].

    ``options`` are fields of :class:`.config.FeatureConfig`. The kind "pooled" replaces
    "inputs" by averages of the last map, float32 [n, rotations, scales * channels];
    "feature_maps" keeps "inputs" and adds maps of VGG by their indices, "tap3", "tap6",
    "tap9" and "tap12", float32 [n, height, width, channels].
    """
    config = convert(options, FeatureConfig, "backbone")
    network = weights.load(config.backbone, data_dir)
    images = np.concatenate([split["inputs"] for split in fold])
    made = (
        {"inputs": features.pooled(network, config, images)}
        if config.kind == "pooled"
        else features.feature_maps(network, images)
    )
    ends = np.cumsum([len(split["inputs"]) for split in fold])

    def attached(split: Batch, end: int) -> Batch:
        own = slice(end - len(split["inputs"]), end)
        return {**split, **{name: array[own] for name, array in made.items()}}

    return Splits(*map(attached, fold, ends))


def label(options: Options, data_dir: Path | None = None) -> str:
    """Describes the network in one line, e.g. "VGG16, width 1/4, relu, random weights".

    It includes the accuracy of a network that was trained here.
    """
    config = convert(options, FeatureConfig, "backbone")
    return weights.load(config.backbone, data_dir).label
