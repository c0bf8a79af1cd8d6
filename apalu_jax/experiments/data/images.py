"""Labeled images: downscaling and splits."""

from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.data.splits import Dataset, Splits

__all__ = ("Images", "LabeledImages", "pool", "resize", "to_dataset")

Images: TypeAlias = NDArray[np.uint8]
"""[n, height, width, channels]."""


class LabeledImages(NamedTuple):
    """The two official splits of a data set.

    Attributes:
      train: Images for training and validation.
      train_labels: Their classes, [n].
      test: Images for the test.
      test_labels: Their classes, [n].
    """

    train: Images
    train_labels: NDArray[np.uint8]
    test: Images
    test_labels: NDArray[np.uint8]


def pool(images: Images, size: int) -> Images:
    """Makes images smaller by averages over squares, rounded.

    Args:
      images: Square images.
      size: Their new height and width, a divisor of the present one.

    Returns:
      Images [n, size, size, channels].

    Raises:
      ExperimentError: ``size`` is not such a divisor.

    Examples:
      >>> image = np.array([[0, 1, 9, 9], [2, 3, 9, 9]] * 2, np.uint8)
      >>> pool(image[None, :, :, None], 2)[0, :, :, 0].tolist()
      [[2, 9], [2, 9]]
    """
    side = images.shape[1]
    if not 1 <= size <= side or side % size:
        raise ExperimentError(f"`size` must be a divisor of {side}, got {size!r}.")
    factor = side // size
    if factor == 1:
        return images
    sums = np.full((len(images), size, size, images.shape[3]), factor**2 // 2, "u4")
    for i in range(factor):
        for j in range(factor):
            sums += images[:, i::factor, j::factor]
    means: Images = (sums // factor**2).astype(np.uint8)
    return means


def resize(images: Iterable[NDArray[np.uint8]], size: int | None) -> Images:
    """Images of any sizes as squares of one size, by area where they become smaller.

    Args:
      images: Gray [height, width] or color [height, width, 3], of one kind.
      size: New height and width; None if they shall stay.

    Returns:
      Images [n, size, size, 1 or 3].
    """
    from PIL import Image

    def one(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if size is not None and image.shape[:2] != (size, size):
            # Pillow's bilinear filter widens with the reduction: an average.
            picture = Image.fromarray(image).resize(
                (size, size), Image.Resampling.BILINEAR
            )
            image = np.asarray(picture)
        return image.reshape(*image.shape[:2], -1)

    return np.stack([one(image) for image in images])


def to_dataset(
    images: LabeledImages,
    *,
    size: int,
    train: int | None,
    validation: int,
    test: int | None,
    label: str = "",
) -> Dataset:
    """Makes a data set of images that have an official test split.

    Args:
      images: All images.
      size: Height and width that they shall have; see :func:`pool`.
      train: Size of the training split; all remaining images if None.
      validation: Size of the validation split. Both are sampled from the official
        training split for each seed, stratified.
      test: Size of the test split, the first images of each class in a fixed random
        order; all if None.
      label: Description of the data.

    Returns:
      Splits of ``{"inputs", "targets"}``: the images, uint8, and their classes, int32.

    Raises:
      ExperimentError: A size does not fit the data.
    """
    classes = len(np.unique(images.train_labels))
    available = len(images.train_labels) - validation
    count = available if train is None else train
    # A stratified split needs one image of each class in each split.
    if min(count, validation) < classes or count > available:
        raise ExperimentError(
            f"`train` and `validation` must be at least {classes} each and together "
            f"at most {len(images.train_labels)}, got {train!r} and {validation!r}."
        )
    chosen = _first_of_each(images.test_labels, test)
    small = images._replace(
        train=pool(images.train, size),
        train_labels=images.train_labels.astype(np.int32),
        test=pool(images.test[chosen], size),
        test_labels=images.test_labels[chosen].astype(np.int32),
    )
    fold = partial(_fold, small, count, validation)
    return Dataset(outputs=classes, splits=fold, label=label)


def _first_of_each(labels: NDArray[Any], count: int | None) -> NDArray[Any]:
    """Indices of ``count`` examples, as many of each class, in a random order."""
    classes = np.unique(labels)
    if count is None:
        chosen = np.arange(len(labels))
    else:
        rows = [np.flatnonzero(labels == each) for each in classes]
        share, rest = divmod(count, len(classes))
        if rest or not 1 <= share <= min(map(len, rows)):
            raise ExperimentError(
                f"`test` must be a multiple of {len(classes)} and at most "
                f"{min(map(len, rows)) * len(classes)}, got {count!r}."
            )
        chosen = np.concatenate([row[:share] for row in rows])
    return np.random.default_rng(0).permutation(chosen)


def _fold(images: LabeledImages, train: int, validation: int, seed: int) -> Splits:
    from sklearn.model_selection import train_test_split

    indices = train_test_split(
        np.arange(len(images.train_labels)),
        train_size=train,
        test_size=validation,
        stratify=images.train_labels,
        random_state=seed,
    )
    drawn, held_out = (
        {"inputs": images.train[i], "targets": images.train_labels[i]} for i in indices
    )
    return Splits(
        drawn, held_out, {"inputs": images.test, "targets": images.test_labels}
    )
