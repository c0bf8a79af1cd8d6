"""MNIST: 70,000 handwritten digits of 28 x 28 pixels."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apalu_jax.experiments.data import downloads, one_class
from apalu_jax.experiments.data.downloads import File, Source
from apalu_jax.experiments.data.images import LabeledImages, to_dataset
from apalu_jax.experiments.data.splits import Dataset

__all__ = ("SOURCE", "load")

# The authors' own address does not serve the files any more.
_MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"

_OFFICIAL = tuple(
    File(path=f"mnist/{name}", sha256=sha256, url=_MIRROR + name)
    for name, sha256 in (
        (
            "train-images-idx3-ubyte.gz",
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        (
            "train-labels-idx1-ubyte.gz",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        (
            "t10k-images-idx3-ubyte.gz",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        (
            "t10k-labels-idx1-ubyte.gz",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    )
)
_NPZ = File(
    path="mnist/mnist.npz",
    sha256="06af5dfe73b70e3bc1c36439982b18a8d76803db9b544f6fdf838a37fbb01b64",
)

SOURCE = Source(
    title="MNIST",
    origin="Y. LeCun, C. Cortes, C. Burges, http://yann.lecun.com/exdb/mnist/",
    license="CC BY-SA 3.0, according to the documentation of Keras",
    files=_OFFICIAL,
    alternatives=((_NPZ,),),
    note="or the same arrays in one mnist.npz",
)


def load(
    data_dir: Path | None,
    unit: str,
    *,
    size: int = 28,
    train: int | None = None,
    validation: int = 5000,
    test: int | None = None,
    normal: int | None = None,
    channels: int = 1,
    contrast: bool = False,
) -> Dataset:
    """Loads the four official files, or the same arrays from one.

    Args:
      data_dir: Folder to look in first.
      unit: There is only ``""``.
      size: Height and width; the images are averaged down to it.
      train: Size of the training split; None for all that validation leaves.
      validation: Size of the validation split, drawn for every seed.
      test: Size of the test split; None for all 10,000.
      normal: The digit that is normal, where anomalies are to be detected; None for
        classification. The next two are for the former.
      channels: How often the gray image is repeated.
      contrast: See :func:`~apalu_jax.experiments.data.one_class.to_dataset`.

    Returns:
      Splits as :func:`~apalu_jax.experiments.data.images.to_dataset` has them, or its
      namesake in :mod:`~apalu_jax.experiments.data.one_class`; ``inputs`` are
      [n, size, size, channels].

    Raises:
      ExperimentError: A file is damaged or cannot be had, or a size does not fit.
    """
    images = _read(data_dir)
    if normal is None:
        return to_dataset(
            images, size=size, train=train, validation=validation, test=test
        )
    return one_class.to_dataset(
        one_class.against_rest(images, normal, size, channels),
        train=train,
        validation=validation,
        test=test,
        contrast=contrast,
    )


def _read(data_dir: Path | None) -> LabeledImages:
    chosen = downloads.choose(SOURCE, data_dir)
    paths = [downloads.fetch(file, data_dir) for file in chosen]
    if chosen == _OFFICIAL:
        arrays = [_read_idx(path) for path in paths]
    else:
        with np.load(paths[0]) as stored:
            arrays = [
                stored[name] for name in ("x_train", "y_train", "x_test", "y_test")
            ]
    return LabeledImages(
        arrays[0][..., None], arrays[1], arrays[2][..., None], arrays[3]
    )


def _read_idx(path: Path) -> NDArray[Any]:
    """Bytes: a magic number, of which the last is the rank; the shape; the values."""
    content = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(content, ">u4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)
