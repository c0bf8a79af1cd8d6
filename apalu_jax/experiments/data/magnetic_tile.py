"""Magnetic tiles photographed for surface defects: 952 good ones and 392 with one."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from apalu_jax.experiments.data import downloads, one_class
from apalu_jax.experiments.data.downloads import File, Source
from apalu_jax.experiments.data.one_class import OneClassImages
from apalu_jax.experiments.data.pictures import cached, decode, decode_masks
from apalu_jax.experiments.data.splits import Dataset

__all__ = ("SOURCE", "load")

_ARCHIVE = File(
    path="magnetic_tile/magnetic_tile_original.zip",
    sha256="3b3fca721273089fc4c7e41980cec6d56c6df8edf47ca6ffe535501557249db2",
)
_LIST = File(
    path="magnetic_tile/differnet_train_filenames.txt",
    sha256="ddf6ddb1b4a123d9506a4d25e870ad32e2b845386c55201fca8307fdc7e62652",
)

SOURCE = Source(
    title="Magnetic tile surface defects, with DifferNet's training list",
    origin="Y. Huang, C. Qiu, K. Yuan, "
    "https://github.com/abin24/Magnetic-tile-defect-datasets.; "
    "https://github.com/marco-rudolph/differnet",
    license="none stated; for research, the authors ask for a citation",
    files=(_ARCHIVE, _LIST),
    note="no official download of the images as one archive",
)

_GOOD = "MT_Free"


def load(
    data_dir: Path | None,
    unit: str,
    *,
    size: int = 128,
    train: int | None = None,
    validation: int = 10,
    test: int | None = None,
) -> Dataset:
    """Loads the images: normal are the 761 good tiles of DifferNet's training list.

    The test split has the other 191 good tiles and all defective ones.

    Args:
      data_dir: Folder to look in first.
      unit: There is only ``""``.
      size: Height and width that all images, of 1225 sizes, are brought to.
      train: Size of the training split; None for all that validation leaves.
      validation: Size of the validation split, drawn for every seed.
      test: Size of the test split; None for all 583.

    Returns:
      Splits as :func:`~apalu_jax.experiments.data.one_class.to_dataset` has them;
      ``inputs`` are [n, size, size, 3]; for ``mask`` see
      :func:`~apalu_jax.experiments.data.pictures.decode_masks`.

    Raises:
      ExperimentError: A file is damaged or not here, or a size does not fit.
    """
    archive, names = (downloads.fetch(file, data_dir) for file in (_ARCHIVE, _LIST))
    return one_class.to_dataset(
        _read(archive, set(names.read_text().split()), size),
        train=train,
        validation=validation,
        test=test,
        label=SOURCE.title,
    )


def _read(path: Path, listed: set[str], size: int) -> OneClassImages:
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))

        def opened(members: list[str]) -> Iterator[io.BytesIO]:
            return (io.BytesIO(archive.read(member)) for member in members)

        wanted = {f"{_GOOD}/{name}" for name in listed}
        tested = [name for name in names if name not in wanted]
        masks = [f"{name.removesuffix('.jpg')}.png" for name in tested]
        normal = [name for name in names if name in wanted]
        origin = f"{path.stem}-{_ARCHIVE.sha256[:16]}"
        return OneClassImages(
            cached(f"{origin}-train", decode, opened(normal), size),
            cached(f"{origin}-test", decode, opened(tested), size),
            np.array([not name.startswith(f"{_GOOD}/") for name in tested], np.int32),
            cached(f"{origin}-masks", decode_masks, opened(masks), size),
        )
