"""Frozen networks whose outputs the data are given with, instead of images or beside.

A spec's table ``source`` holds what
:class:`~apalu_jax.experiments.sources.options.Options` and
:class:`~apalu_jax.experiments.sources.options.View` list, for example::

    source = { weights = "cifar10", width = 0.25, kind = "pooled", rotations = 8 }
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from apalu_jax.experiments.data.dataset import Batch, Fold
from apalu_jax.experiments.sources import features, networks
from apalu_jax.experiments.sources.options import read

__all__ = ("attach", "label")


def attach(
    fold: Fold, options: Mapping[str, Any], data_dir: Path | None = None
) -> Fold:
    """Gives every part of a fold what a frozen network makes of its images.

    Args:
      fold: Parts whose "inputs" are images, uint8 [n, size, size, 3].
      options: Of the network and what is made of images, by ``kind``. "pooled" replaces
        "inputs" by averages of the last map, float32 [n, rotations, scales * channels];
        "taps" keeps "inputs" and adds maps of VGG by their indices, "tap3", "tap6",
        "tap9" and "tap12", float32 [n, height, width, channels].
      data_dir: Folder to look in first for what the network is trained on.

    Returns:
      Such parts.

    Raises:
      ExperimentError: An option is unknown or does not fit.
    """
    chosen, view = read(options)
    network = networks.load(chosen, data_dir)
    images = np.concatenate([part["inputs"] for part in fold])
    made = (
        {"inputs": features.pooled(network, view, images)}
        if view.kind == "pooled"
        else features.taps(network, images)
    )
    ends = np.cumsum([len(part["inputs"]) for part in fold])
    starts = [0, *ends[:-1]]

    def attached(part: Batch, start: int, end: int) -> Batch:
        return {**part, **{name: array[start:end] for name, array in made.items()}}

    return Fold(*map(attached, fold, starts, ends))


def label(options: Mapping[str, Any], data_dir: Path | None = None) -> str:
    """What the network is, e.g. "VGG, width 1/4, relu, random weights".

    Args:
      options: As of :func:`attach`.
      data_dir: Likewise.

    Returns:
      One line; it says the accuracy of a network that was trained here.
    """
    return networks.load(read(options)[0], data_dir).label
