"""CIFAR-10: 60,000 photographs of 32 x 32 pixels in ten classes."""

import io
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apalu_jax.experiments.data import downloads, one_class
from apalu_jax.experiments.data.downloads import File, Source
from apalu_jax.experiments.data.images import (
    Images,
    LabeledImages,
    to_dataset,
)
from apalu_jax.experiments.data.splits import Dataset
from apalu_jax.experiments.storage import cached_array

__all__ = ("SOURCE", "load")

_OFFICIAL = File(
    path="cifar10/cifar-10-binary.tar.gz",
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
)
_JPEG = File(
    path="cifar10_jpeg/cifar10_jpeg.npz",
    sha256="793d48a952cd2cd304ab1713b9124f1e40d57641d9b1910a996bf735443186c8",
)

SOURCE = Source(
    title="CIFAR-10",
    origin="A. Krizhevsky, V. Nair, G. Hinton, "
    "https://www.cs.toronto.edu/~kriz/cifar.html",
    license="none stated; the authors ask for a citation",
    files=(_OFFICIAL,),
    alternatives=((_JPEG,),),
    note="or a copy whose images were compressed as JPEG, which results then say",
)

_SIDE = 32
_TRAIN_FILES = [f"data_batch_{i}.bin" for i in range(1, 6)]
_TEST_FILES = ["test_batch.bin"]


def load(
    data_dir: Path | None,
    unit: str,
    *,
    size: int = _SIDE,
    train: int | None = None,
    validation: int = 5000,
    test: int | None = None,
    normal: int | None = None,
) -> Dataset:
    """Loads the official archive or, where only that is at hand, the JPEG copy.

    Args:
      data_dir: Folder to look in first.
      unit: There is only ``""``.
      size: Height and width; the images are averaged down to it.
      train: Size of the training split; None for all that validation leaves.
      validation: Size of the validation split, drawn for every seed.
      test: Size of the test split; None for all 10,000.
      normal: The class that is normal, where anomalies are to be detected; None for
        classification.

    Returns:
      Splits as :func:`~apalu_jax.experiments.data.images.to_dataset` has them, or its
      namesake in :mod:`~apalu_jax.experiments.data.one_class`;
      ``inputs`` are [n, size, size, 3], red, green and blue.

    Raises:
      ExperimentError: A file is damaged or cannot be had, or a size does not fit.
    """
    (file,) = downloads.choose(SOURCE, data_dir)
    path = downloads.fetch(file, data_dir)
    if file == _OFFICIAL:
        images, label = _read_official(path), "CIFAR-10"
    else:
        images, label = _read_jpeg(path), "CIFAR-10 (JPEG copy)"
    if normal is None:
        return to_dataset(
            images,
            size=size,
            train=train,
            validation=validation,
            test=test,
            label=label,
        )
    return one_class.to_dataset(
        one_class.against_rest(images, normal, size),
        train=train,
        validation=validation,
        test=test,
        label=label,
    )


def _read_official(path: Path) -> LabeledImages:
    """Each example is a byte with its label, and its image color by color."""
    # A compressed archive is read from front to back, once.
    with tarfile.open(path, "r|gz") as archive:
        contents = {
            member.name.rpartition("/")[2]: content.read()
            for member in archive
            if (content := archive.extractfile(member)) is not None
        }
    splits = []
    for names in (_TRAIN_FILES, _TEST_FILES):
        joined = np.frombuffer(b"".join(contents[name] for name in names), np.uint8)
        rows = joined.reshape(-1, 1 + 3 * _SIDE**2)
        planes = rows[:, 1:].reshape(-1, 3, _SIDE, _SIDE)
        splits += [np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), rows[:, 0]]
    return LabeledImages(*splits)


def _read_jpeg(path: Path) -> LabeledImages:
    """For each split, JPEG files one after another, where each starts, and labels."""
    import PIL

    # Another version of Pillow may decode a pixel differently.
    origin = f"{path.stem}-{_JPEG.sha256[:16]}-pillow-{PIL.__version__}"
    splits = []
    with np.load(path) as arrays:
        for split in ("train", "test"):
            blob, offsets = arrays[f"jpeg_{split}"], arrays[f"offset_{split}"]
            images = cached_array(
                f"{origin}-{split}", partial(_decode, blob, offsets), "decoded"
            )
            splits += [images, arrays[f"y_{split}"]]
    return LabeledImages(*splits)


def _decode(blob: NDArray[np.uint8], offsets: NDArray[np.int64]) -> Images:
    from PIL import Image

    content = blob.tobytes()
    images = np.empty((len(offsets) - 1, _SIDE, _SIDE, 3), np.uint8)
    for i, (start, end) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):
        with Image.open(io.BytesIO(content[start:end])) as image:
            images[i] = np.asarray(image)
    return images
