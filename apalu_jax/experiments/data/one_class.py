"""Data sets for anomaly detection: normal examples to learn from."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.data.images import Images, LabeledImages, resize
from apalu_jax.experiments.data.splits import Batch, Dataset, Numbers, Splits


class OneClassImages(NamedTuple):
    """Normal and anomalous images, before they are split.

    ``normal``, and ``test`` for the test split, are uint8 [n, height, width, channels];
    ``anomalous`` is 1 for each test image that is anomalous, else 0, [n]; ``masks`` are
    the same for each of their pixels, uint8 [n, height, width], None if unknown.
    """

    normal: Images
    test: Images
    anomalous: NDArray[np.int32]
    masks: NDArray[np.uint8] | None = None


def against_rest(
    images: LabeledImages, normal: int, size: int | None = None, channels: int = 1
) -> OneClassImages:
    """Takes one class of a labeled data set as normal, all others as anomalous.

    ``size`` is the new height and width, ``channels`` how often a gray image is
    repeated.
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
    images: OneClassImages,
    *,
    train: int | None = None,
    validation: int,
    test: int | None = None,
    contrast: bool = False,
    label: str = "",
) -> Dataset:
    """Makes a data set of normal and anomalous images.

    ``train`` (None for all that are left) and ``validation`` normal images are sampled
    for each seed; ``test`` is the size of the test split, a fixed random choice (None
    for all). With ``contrast``, images are normalized: less their mean, over the mean
    of the absolute values, and then from the range of all normal images to [0, 1].

    Splits are ``{"inputs", "anomalous"}``, with ``"mask"`` in the test split if it is
    known. ``inputs`` are uint8, or float32 if they are normalized.
    """
    available = len(images.normal) - validation
    count = available if train is None else train
    if not (validation >= 1 and 1 <= count <= available):
        raise ExperimentError(
            "`train` and `validation` must be at least 1 each and together at most "
            f"{len(images.normal)}, got {train!r} and {validation!r}."
        )
    m = len(images.test)
    if test is not None and not 2 <= test <= m:
        raise ExperimentError(f"`test` must be between 2 and {m}, got {test!r}.")
    chosen = np.arange(m)
    if test is not None:
        chosen = np.sort(np.random.default_rng(0).permutation(m)[:test])
    normal: Numbers = images.normal
    tested: Numbers = images.test[chosen]
    if contrast:
        low, high = contrast_range(images.normal)
        normal, tested = ((_contrast(x) - low) / (high - low) for x in (normal, tested))
    split = {"inputs": tested, "anomalous": images.anomalous[chosen]}
    if images.masks is not None:
        split["mask"] = images.masks[chosen]

    def sample(indices: NDArray[np.int64]) -> Batch:
        zeros = np.zeros(len(indices), np.int32)
        return {"inputs": normal[indices], "anomalous": zeros}

    def fold(seed: int) -> Splits:
        order = np.random.default_rng(seed).permutation(len(normal))
        held_out, rest = order[:validation], order[validation : validation + count]
        return Splits(sample(rest), sample(held_out), split)

    return Dataset(outputs=1, splits=fold, label=label)


Described: TypeAlias = tuple[OneClassImages, str]
"""Images [n, size, size, 3] and a label of the data."""


def make_loader(
    read: Callable[[Path | None, int, str], Described],
) -> Callable[..., Dataset]:
    """Makes the function ``load`` of a module; see :func:`to_dataset`."""

    def load(
        data_dir: Path | None,
        unit: str,
        *,
        size: int = 128,
        train: int | None = None,
        validation: int = 10,
        test: int | None = None,
    ) -> Dataset:
        images, label = read(data_dir, size, unit)
        return to_dataset(
            images, train=train, validation=validation, test=test, label=label
        )

    return load


def contrast_range(images: Images) -> tuple[np.float32, np.float32]:
    """Finds the smallest and largest value of images after their own normalization."""
    values = _contrast(images)
    return values.min(), values.max()


def _contrast(images: Images) -> NDArray[np.float32]:
    x = images.astype(np.float32) / np.float32(255)
    x -= x.mean(axis=(1, 2, 3), keepdims=True)
    spread = np.abs(x).mean(axis=(1, 2, 3), keepdims=True)
    # A uniform image stays zero.
    x /= np.where(spread > 0, spread, np.float32(1))
    return x
