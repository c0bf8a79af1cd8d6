"""MNIST: 70,000 handwritten digits of 28 x 28 pixels."""

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apalu_jax.experiments.data import downloads, one_class
from apalu_jax.experiments.data.downloads import Source, listed
from apalu_jax.experiments.data.images import LabeledImages, to_dataset
from apalu_jax.experiments.data.splits import Dataset

_OFFICIAL = tuple(
    listed(f"mnist/{name}-ubyte.gz")
    for name in (
        "train-images-idx3",
        "train-labels-idx1",
        "t10k-images-idx3",
        "t10k-labels-idx1",
    )
)
_NPZ = listed("mnist/mnist.npz")

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
    """Loads images; see :func:`~apalu_jax.experiments.data.images.to_dataset`.

    With ``normal``, the digit that is normal, the data set is one for anomaly
    detection, of ``channels`` times the gray image; see
    :func:`~apalu_jax.experiments.data.one_class.to_dataset`.
    """
    images = read(data_dir)
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


def read(data_dir: Path | None) -> LabeledImages:
    """Reads the four official files, or the same arrays from one."""
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


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """Reads a magic number, whose last byte is the rank; the shape; the values."""
    content = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(content, ">u4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)
