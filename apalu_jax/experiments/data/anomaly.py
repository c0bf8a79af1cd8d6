"""Images to detect anomalies in, one data set or category a unit."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.data import (
    cifar10,
    magnetic_tile,
    mnist,
    mvtec,
    squares,
)
from apalu_jax.experiments.data.downloads import Source
from apalu_jax.experiments.data.pictures import standardize_brightness
from apalu_jax.experiments.data.splits import Dataset, Splits

__all__ = ("SOURCE", "UNITS", "load")

SOURCE = Source(
    title="Anomalies: MNIST, CIFAR-10, magnetic tiles, MVTec AD, drawn squares",
    origin="the sets of these names",
    license="that of the set",
    note="the squares are drawn here",
)

UNITS: Mapping[str, Callable[..., Dataset]] = {
    "squares": partial(squares.load, unit=""),
    "tile": partial(magnetic_tile.load, unit=""),
    "screw": partial(mvtec.load, unit=""),
    **{f"mvtec-{name}": partial(mvtec.load, unit=name) for name in mvtec.CATEGORIES},
    **{
        f"mnist-{digit}": partial(mnist.load, unit="", normal=digit, channels=3)
        for digit in range(10)
    },
    **{
        f"cifar10-{label}": partial(cifar10.load, unit="", normal=label)
        for label in range(10)
    },
}
"""Loaders by the names of the units."""


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
    """Loads one unit.

    Args:
      data_dir: Folder to look in first.
      unit: "squares" (drawn here: four squares to learn from, squares and circles to
        tell apart; also ``""``), "tile" (magnetic tiles), "screw" (of MVTec AD, in
        256 x 256), "mvtec-" and a category of the user's own copy of MVTec AD, "mnist-"
        and a digit, or "cifar10-" and a class: one against the rest.
      size: Height and width that all images are brought to.
      train: How many normal images the training split has; None for all that are left,
        and for four squares.
      validation: How many normal images the validation split has, drawn by seed.
      test: How many images the test split has, always the same; None for all.
      standardize: Whether brightness and contrast are equalized, see
        :func:`~apalu_jax.experiments.data.pictures.standardize_brightness`. The good
        screws of the test split are darker than all others, so that brightness alone
        would detect them.

    Returns:
      Splits of ``{"inputs", "anomalous"}``, ``inputs`` uint8 [n, size, size, 3],
      ``anomalous`` int32 [n]; for "tile" and the user's MVTec AD the test split has
      ``"mask"`` too, uint8 0 or 1 [n, size, size].

    Raises:
      ExperimentError: There is no such unit, its files are missing or damaged, or a
        size does not fit.
    """
    name = unit or "squares"
    if name not in UNITS:
        raise ExperimentError(
            f"`units` of anomaly must be among {', '.join(UNITS)}, got {unit!r}."
        )
    dataset = UNITS[name](
        data_dir, size=size, train=train, validation=validation, test=test
    )
    if not standardize:
        return dataset

    def fold(seed: int) -> Splits:
        splits = dataset.splits(seed)
        return Splits(
            *({**p, "inputs": standardize_brightness(p["inputs"])} for p in splits)
        )

    return replace(dataset, splits=fold)
