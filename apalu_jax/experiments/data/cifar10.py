"""CIFAR-10: 60,000 photographs of 32 x 32 pixels in ten classes."""

import io
import tarfile
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apalu_jax.experiments.data import downloads
from apalu_jax.experiments.data.downloads import Source, listed
from apalu_jax.experiments.data.images import (
    Images,
    LabeledImages,
    read_image,
    to_dataset,
)
from apalu_jax.experiments.data.splits import Dataset
from apalu_jax.experiments.storage import cached_array

_OFFICIAL = listed("cifar10/cifar-10-binary.tar.gz")
_JPEG = listed("cifar10_jpeg/cifar10_jpeg.npz")

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
) -> Dataset:
    """Loads images; see :func:`~apalu_jax.experiments.data.images.to_dataset`."""
    images, label = read(data_dir)
    return to_dataset(
        images, size=size, train=train, validation=validation, test=test, label=label
    )


def read(data_dir: Path | None) -> tuple[LabeledImages, str]:
    """Reads the official archive or, if only that is at hand, the JPEG copy."""
    (file,) = downloads.choose(SOURCE, data_dir)
    path = downloads.fetch(file, data_dir)
    if file == _OFFICIAL:
        return _read_official(path), "CIFAR-10"
    return _read_jpeg(path), "CIFAR-10 (JPEG copy)"


def _read_official(path: Path) -> LabeledImages:
    """Reads binary files: for each example its label, and its image channel by channel.

    A compressed archive is read from front to back, once.
    """
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
    """Reads, for each split, concatenated JPEG files, their offsets, and labels."""
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
    content = blob.tobytes()
    images = np.empty((len(offsets) - 1, _SIDE, _SIDE, 3), np.uint8)
    for i, (start, end) in enumerate(pairwise(offsets)):
        file = io.BytesIO(content[start:end])
        images[i] = read_image(file, "RGB", f"{_JPEG.path}, image {i}")
    return images
