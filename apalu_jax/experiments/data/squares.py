"""Squares among which circles are to be found: drawn here, a check of a detector."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apalu_jax.experiments.data import one_class
from apalu_jax.experiments.data.one_class import OneClassImages
from apalu_jax.experiments.data.splits import Dataset

__all__ = ("load",)

_EACH = 8


def load(
    data_dir: Path | None,
    unit: str,
    *,
    size: int = 128,
    train: int | None = None,
    validation: int = 4,
    test: int | None = None,
) -> Dataset:
    """Draws white squares and, in the test split, as many circles of the same area.

    Args:
      data_dir: Not needed.
      unit: There is only ``""``.
      size: Height and width of the images.
      train: How many squares there are to learn from; None for four.
      validation: How many there are besides.
      test: Size of the test split; None for eight squares and eight circles.

    Returns:
      Splits as :func:`~apalu_jax.experiments.data.one_class.to_dataset` has them;
      ``inputs`` are [n, size, size, 3].

    Raises:
      ExperimentError: A size does not fit.

    References:
      M. Rudolph, B. Wandt, B. Rosenhahn, `Same Same But DifferNet
      <https://arxiv.org/abs/2008.12577>`_, WACV 2021: such a set comes with the
      authors' code, to see that everything works; these are other images.

    Examples:
      >>> fold = load(None, "", size=32).splits(0)
      >>> [len(split["inputs"]) for split in fold], int(fold.test["anomalous"].sum())
      ([4, 4, 16], 8)
    """
    normals = max(0, 4 if train is None else train) + max(0, validation)
    rng = np.random.default_rng(0)
    squares, circles = (
        np.stack([_draw(size, rng, circle) for _ in range(count)])
        for circle, count in ((False, _EACH + normals), (True, _EACH))
    )
    pools = OneClassImages(
        squares[_EACH:],
        np.concatenate([squares[:_EACH], circles]),
        np.repeat(np.array([0, 1], np.int32), _EACH),
    )
    return one_class.to_dataset(
        pools,
        train=train,
        validation=validation,
        test=test,
        label="white squares, and circles as the anomalies",
    )


def _draw(size: int, rng: np.random.Generator, circle: bool) -> NDArray[np.uint8]:
    """One shape near the middle; place and area vary a little."""
    half = size * rng.uniform(0.2, 0.22)
    pixels = np.arange(size) + 0.5
    x, y = (np.abs(pixels - size * rng.uniform(0.48, 0.52)) for _ in range(2))
    if circle:
        inside = x[:, None] ** 2 + y**2 <= half**2 * 4 / np.pi
    else:
        inside = np.maximum(x[:, None], y) <= half
    gray = np.where(inside, 255, 0).astype(np.uint8)
    return gray[:, :, None].repeat(3, axis=2)
