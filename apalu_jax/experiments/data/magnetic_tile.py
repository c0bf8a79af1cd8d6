"""Magnetic tiles photographed for surface defects: 952 good ones and 392 with one."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from apalu_jax.experiments.data import downloads
from apalu_jax.experiments.data.downloads import Source, listed
from apalu_jax.experiments.data.images import cached, decode, decode_masks
from apalu_jax.experiments.data.one_class import Described, OneClassImages, make_loader

_ARCHIVE = listed("magnetic_tile/magnetic_tile_original.zip")
_LIST = listed("magnetic_tile/differnet_train_filenames.txt")

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


def read(data_dir: Path | None, size: int, unit: str = "") -> Described:
    """Reads the images, of 1225 sizes, with masks.

    Normal are the 761 good tiles of DifferNet's training list. The test split has the
    other 191 good tiles and all defective ones.
    """
    path, training = (downloads.fetch(file, data_dir) for file in (_ARCHIVE, _LIST))
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))

        def opened(members: list[str]) -> Iterator[IO[bytes]]:
            for member in members:
                with archive.open(member) as file:
                    yield file

        wanted = {f"{_GOOD}/{name}" for name in training.read_text().split()}
        tested = [name for name in names if name not in wanted]
        masks = [f"{name.removesuffix('.jpg')}.png" for name in tested]
        normal = [name for name in names if name in wanted]
        origin = f"{path.stem}-{_ARCHIVE.sha256[:16]}"
        images = OneClassImages(
            cached(f"{origin}-train", decode, opened(normal), size),
            cached(f"{origin}-test", decode, opened(tested), size),
            np.array([not name.startswith(f"{_GOOD}/") for name in tested], np.int32),
            cached(f"{origin}-masks", decode_masks, opened(masks), size),
        )
    return images, SOURCE.title


load = make_loader(read)
