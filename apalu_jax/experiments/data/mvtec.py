"""MVTec AD: 15 categories of objects and textures, good and defective.

Its categories are read from the user's own copy, in the official layout::

    DATA_DIR/mvtec_ad/bottle/train/good/000.png
    DATA_DIR/mvtec_ad/bottle/test/good/000.png
    DATA_DIR/mvtec_ad/bottle/test/broken_large/000.png
    DATA_DIR/mvtec_ad/bottle/ground_truth/broken_large/000_mask.png

One of them, "screw", may also be had in 256 x 256 pixels without masks, in one file.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.data import downloads
from apalu_jax.experiments.data.downloads import Source, listed
from apalu_jax.experiments.data.images import cached, decode, decode_masks, resize
from apalu_jax.experiments.data.one_class import Described, OneClassImages, make_loader

_SCREW = listed("mvtec_screw_256/screw_256.npz")

SOURCE = Source(
    title='MVTec AD, category "screw" in 256 x 256 pixels',
    origin="MVTec Software GmbH, "
    "https://www.mvtec.com/company/research/datasets/mvtec-ad",
    license="CC BY-NC-SA 4.0: not for commercial use",
    files=(_SCREW,),
    note="no official download in this size; a copy of the original, all categories or "
    "some, is read from the folder mvtec_ad",
)

CATEGORIES = (
    *("bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather"),
    *("metal_nut", "pill", "screw", "tile", "toothbrush", "transistor", "wood"),
    "zipper",
)
"""Names of the categories, and of their folders."""

_FOLDER = "mvtec_ad"


def read(data_dir: Path | None, size: int, unit: str = "") -> Described:
    """Reads a category of the user's copy, with masks, or ``""``, the screws."""
    if unit:
        return _read_copy(unit, data_dir, size), f"MVTec AD, {unit}"
    with np.load(downloads.fetch(_SCREW, data_dir)) as arrays:
        normal, tested = (
            resize(arrays[name], size).repeat(3, axis=-1)
            for name in ("x_train", "x_test")
        )
        images = OneClassImages(normal, tested, arrays["y_test"].astype(np.int32))
    return images, SOURCE.title


load = make_loader(read)


def _read_copy(category: str, data_dir: Path | None, size: int) -> OneClassImages:
    folder = _find(category, data_dir)
    normal = _list(folder, "train/good/*.png")
    tested = _list(folder, "test/*/*.png")
    masks = [
        None
        if path.parent.name == "good"
        else folder / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
        for path in tested
    ]
    given = [mask for mask in masks if mask is not None]
    for mask in given:
        if not mask.is_file():
            raise ExperimentError(f"{mask} is missing from the copy of MVTec AD.")
    origin = f"mvtec-{category}-{_state(folder, [*normal, *tested, *given])}"
    return OneClassImages(
        cached(f"{origin}-train", decode, normal, size),
        cached(f"{origin}-test", decode, tested, size),
        np.array([mask is not None for mask in masks], np.int32),
        cached(f"{origin}-masks", decode_masks, masks, size),
    )


def _find(category: str, data_dir: Path | None) -> Path:
    if category not in CATEGORIES:
        raise ExperimentError(
            f"`unit` must be a category of MVTec AD, one of {', '.join(CATEGORIES)}, "
            f"got {category!r}."
        )
    folders = [folder / _FOLDER / category for folder in downloads.folders(data_dir)]
    for folder in folders:
        if folder.is_dir():
            return folder
    raise ExperimentError(
        f"The category {category} of MVTec AD is in none of "
        f"{', '.join(map(str, folders))}; put your copy there, in its official layout "
        f"({category}/train/good, test, ground_truth), from {SOURCE.origin}."
    )


def _list(folder: Path, pattern: str) -> list[Path]:
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise ExperimentError(
            f"{folder} must have files {pattern}, as MVTec AD has; there are none."
        )
    return paths


def _state(folder: Path, paths: Sequence[Path]) -> str:
    """Hashes names, sizes and times: another value once a file is added or replaced."""
    entries = []
    for path in paths:
        status = path.stat()
        entries.append((str(path.relative_to(folder)), status.st_size, status.st_mtime))
    return hashlib.sha256(repr(entries).encode()).hexdigest()[:16]
