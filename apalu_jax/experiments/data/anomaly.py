"""Images to detect anomalies in, one data set or category a unit.

The units are "squares" (synthetic; also ``""``), "tile" (magnetic tiles), "screw" (of
MVTec AD, in 256 x 256), "mvtec-" and a category of the user's own copy of MVTec AD,
"mnist-" and a digit, and "cifar10-" and a class: one against the rest.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.data import cifar10, magnetic_tile, mnist, mvtec
from apalu_jax.experiments.data.downloads import Source
from apalu_jax.experiments.data.images import Images, standardize_brightness
from apalu_jax.experiments.data.one_class import (
    Described,
    OneClassImages,
    against_rest,
    to_dataset,
)
from apalu_jax.experiments.data.splits import Dataset, Splits

SOURCE = Source(
    title="Anomalies: MNIST, CIFAR-10, magnetic tiles, MVTec AD, synthetic squares",
    origin="the sets of these names",
    license="that of the set",
    note="the squares are synthetic",
)


def load(
    data_dir: Path | None,
    unit: str,
    *,
    size: int = 128,
    train: int | None = None,
    validation: int = 10,
    test: int | None = None,
    standardize: bool = False,
) -> Dataset:
    """Loads one unit, images resized to ``size``; see :func:`.one_class.to_dataset`.

    ``train`` is by default four of "squares". With ``standardize``, brightness and
    contrast are equalized, see :func:`.images.standardize_brightness`: the good screws
    of the test split are darker than all others, so that brightness alone would detect
    them. Units "tile" and "mvtec-" have masks.
    """
    name = unit or "squares"
    if name not in UNITS:
        raise ExperimentError(
            f"`units` of anomaly must be among {', '.join(UNITS)}, got {unit!r}."
        )
    if name == "squares":
        normal = max(0, 4 if train is None else train) + max(0, validation)
        images, label = _squares(data_dir, size, normal)
    else:
        images, label = UNITS[name](data_dir, size)
    dataset = to_dataset(
        images, train=train, validation=validation, test=test, label=label
    )
    if not standardize:
        return dataset

    def fold(seed: int) -> Splits:
        splits = dataset.splits(seed)
        return Splits(
            *({**s, "inputs": standardize_brightness(s["inputs"])} for s in splits)
        )

    return replace(dataset, splits=fold)


def _squares(data_dir: Path | None, size: int, normal: int = 8) -> Described:
    """Makes white squares; eight more and eight circles of the same area are the test.

    A sanity check of a detector. The code of DifferNet (https://arxiv.org/abs/2008.12577)
    comes with such a set, to see that everything works; these are other images.
    """
    rng = np.random.default_rng(0)
    squares, circles = (
        np.stack([_shape(size, rng, circle) for _ in range(count)])
        for circle, count in ((False, 8 + normal), (True, 8))
    )
    images = OneClassImages(
        squares[8:],
        np.concatenate([squares[:8], circles]),
        np.repeat(np.array([0, 1], np.int32), 8),
    )
    return images, "white squares, and circles as the anomalies"


def _shape(size: int, rng: np.random.Generator, circle: bool) -> Images:
    """One shape near the middle; position and area vary a little."""
    half = size * rng.uniform(0.2, 0.22)
    pixels = np.arange(size) + 0.5
    x, y = (np.abs(pixels - size * rng.uniform(0.48, 0.52)) for _ in range(2))
    if circle:
        inside = x[:, None] ** 2 + y**2 <= half**2 * 4 / np.pi
    else:
        inside = np.maximum(x[:, None], y) <= half
    gray = np.where(inside, 255, 0).astype(np.uint8)
    return gray[:, :, None].repeat(3, axis=2)


def _digit(data_dir: Path | None, size: int, normal: int) -> Described:
    return against_rest(mnist.read(data_dir), normal, size, channels=3), ""


def _photograph(data_dir: Path | None, size: int, normal: int) -> Described:
    images, label = cifar10.read(data_dir)
    return against_rest(images, normal, size), label


UNITS: Mapping[str, Callable[[Path | None, int], Described]] = {
    "squares": _squares,
    "tile": magnetic_tile.read,
    "screw": mvtec.read,
    **{f"mvtec-{name}": partial(mvtec.read, unit=name) for name in mvtec.CATEGORIES},
    **{f"mnist-{digit}": partial(_digit, normal=digit) for digit in range(10)},
    **{f"cifar10-{label}": partial(_photograph, normal=label) for label in range(10)},
}
"""Readers by the names of the units."""
