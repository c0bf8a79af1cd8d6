"""Splits for anomaly detection: normal examples to learn from."""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.data.images import Images, LabeledImages, resize
from apalu_jax.experiments.data.splits import Batch, Dataset, Splits

__all__ = ("OneClassImages", "against_rest", "contrast_range", "to_dataset")


class OneClassImages(NamedTuple):
    """Normal and anomalous images, before they are split.

    Attributes:
      normal: Normal images, uint8 [n, height, width, channels].
      test: Images of the test split, [m, ...].
      anomalous: Which of these are anomalous, 0 or 1, [m].
      masks: Which pixels of these are, 0 or 1, uint8 [m, height, width]; None where
        nobody knows.
    """

    normal: Images
    test: Images
    anomalous: NDArray[np.int32]
    masks: NDArray[np.uint8] | None = None


def against_rest(
    images: LabeledImages, normal: int, size: int | None = None, channels: int = 1
) -> OneClassImages:
    """One class of a labeled data set is normal, all others are anomalous.

    Args:
      images: All images; of the official training split that class alone is used.
      normal: The class.
      size: Height and width; see :func:`resize`. None for that of the images.
      channels: How often a gray image is repeated.

    Returns:
      The pools.

    Raises:
      ExperimentError: There is no such class.
    """
    classes = np.unique(images.train_labels)
    if normal not in classes:
        raise ExperimentError(
            f"`normal` must be one of {', '.join(map(str, classes))}, got {normal!r}."
        )
    splits = []
    for split in (images.train[images.train_labels == normal], images.test):
        split = resize(split[..., 0] if split.shape[-1] == 1 else split, size)
        splits.append(
            split if split.shape[-1] == 3 else split.repeat(channels, axis=-1)
        )
    anomalous = (images.test_labels != normal).astype(np.int32)
    return OneClassImages(splits[0], splits[1], anomalous)


def to_dataset(
    pools: OneClassImages,
    *,
    train: int | None = None,
    validation: int,
    test: int | None = None,
    contrast: bool = False,
    label: str = "",
) -> Dataset:
    """Makes a data set of normal and anomalous images.

    Args:
      pools: All images.
      train: How many normal images the training split has; None for all that are left.
      validation: How many normal images the validation split has. Both are drawn from
        ``pools.normal`` anew for every seed.
      test: How many images the test split has, drawn at random but always the same; all
        if None.
      contrast: Whether images are normalized: less their mean, over the mean of the
        absolute values, and then from the range of all normal images to [0, 1].
      label: What the data are.

    Returns:
      Splits of ``{"inputs", "anomalous"}``, and ``"mask"`` in the test split if it is
      known. ``inputs`` are uint8, or float32 if they are normalized.

    Raises:
      ExperimentError: A size does not fit the data.
    """
    available = len(pools.normal) - validation
    count = available if train is None else train
    if not (validation >= 1 and 1 <= count <= available):
        raise ExperimentError(
            "`train` and `validation` must be at least 1 each and together at most "
            f"{len(pools.normal)}, got {train!r} and {validation!r}."
        )
    m = len(pools.test)
    if test is not None and not 2 <= test <= m:
        raise ExperimentError(f"`test` must be between 2 and {m}, got {test!r}.")
    chosen = np.arange(m)
    if test is not None:
        chosen = np.sort(np.random.default_rng(0).permutation(m)[:test])
    normal: NDArray[Any] = pools.normal
    tested: NDArray[Any] = pools.test[chosen]
    if contrast:
        low, high = contrast_range(pools.normal)
        normal, tested = ((_contrast(x) - low) / (high - low) for x in (normal, tested))
    split: dict[str, NDArray[Any]] = {
        "inputs": tested,
        "anomalous": pools.anomalous[chosen],
    }
    if pools.masks is not None:
        split["mask"] = pools.masks[chosen]
    fold = partial(_fold, normal, split, count, validation)
    return Dataset(outputs=1, splits=fold, label=label)


def contrast_range(images: Images) -> tuple[np.float32, np.float32]:
    """The smallest and the largest value of images after their own normalization.

    Args:
      images: Images [n, height, width, channels], uint8.

    Returns:
      The two values.
    """
    values = _contrast(images)
    return values.min(), values.max()


def _contrast(images: Images) -> NDArray[np.float32]:
    x: NDArray[np.float32] = images.astype(np.float32) / np.float32(255)
    x -= x.mean(axis=(1, 2, 3), keepdims=True)
    spread = np.abs(x).mean(axis=(1, 2, 3), keepdims=True)
    # A uniform image stays zero.
    x /= np.where(spread > 0, spread, np.float32(1))
    return x


def _fold(
    normal: NDArray[Any], test: Batch, train: int, validation: int, seed: int
) -> Splits:
    order = np.random.default_rng(seed).permutation(len(normal))
    splits = order[:validation], order[validation : validation + train]
    held_out, drawn = (
        {"inputs": normal[i], "anomalous": np.zeros(len(i), np.int32)} for i in splits
    )
    return Splits(drawn, held_out, test)
