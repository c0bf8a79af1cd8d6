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
from apalu_jax.experiments.data import downloads, one_class
from apalu_jax.experiments.data.downloads import File, Source
from apalu_jax.experiments.data.images import resize
from apalu_jax.experiments.data.one_class import OneClassImages
from apalu_jax.experiments.data.pictures import cached, decode, decode_masks
from apalu_jax.experiments.data.splits import Dataset

__all__ = ("CATEGORIES", "SOURCE", "load")

_SCREW = File(
    path="mvtec_screw_256/screw_256.npz",
    sha256="2e228d81fe45374d55862883551bf989be718497c887976b7768ed1387010820",
)

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


def load(
    data_dir: Path | None,
    unit: str,
    *,
    size: int = 128,
    train: int | None = None,
    validation: int = 10,
    test: int | None = None,
) -> Dataset:
    """Loads one category.

    Args:
      data_dir: Folder to look in first.
      unit: One of :data:`CATEGORIES`, from the user's copy; ``""`` for the screws in
        256 x 256.
      size: Height and width that all images are brought to.
      train: Size of the training split; None for all that validation leaves.
      validation: Size of the validation split, drawn for every seed from the category's
        training images.
      test: Size of the test split; None for all of the category's.

    Returns:
      Splits as :func:`~apalu_jax.experiments.data.one_class.to_dataset` has them;
      ``inputs`` are [n, size, size, 3]. The user's copy gives a ``mask``, for which see
      :func:`~apalu_jax.experiments.data.pictures.decode_masks`.

    Raises:
      ExperimentError: The category or a file of it is not here, a file is damaged, or a
        size does not fit.
    """
    if unit:
        pools, label = _read_copy(unit, data_dir, size), f"MVTec AD, {unit}"
    else:
        pools, label = (
            _read_screws(downloads.fetch(_SCREW, data_dir), size),
            SOURCE.title,
        )
    return one_class.to_dataset(
        pools, train=train, validation=validation, test=test, label=label
    )


def _read_screws(path: Path, size: int) -> OneClassImages:
    with np.load(path) as arrays:
        normal, tested = (
            resize(arrays[name], size).repeat(3, axis=-1)
            for name in ("x_train", "x_test")
        )
        return OneClassImages(normal, tested, arrays["y_test"].astype(np.int32))


def _read_copy(category: str, data_dir: Path | None, size: int) -> OneClassImages:
    folder = _find(category, data_dir)
    normal = _list(folder, "train/good/*.png")
    tested = _list(folder, "test/*/*.png")
    good = [path.parent.name == "good" for path in tested]
    masks = [
        None
        if is_good
        else folder / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
        for path, is_good in zip(tested, good, strict=True)
    ]
    given = [mask for mask in masks if mask is not None]
    for mask in given:
        if not mask.is_file():
            raise ExperimentError(f"{mask} is missing from the copy of MVTec AD.")
    origin = f"mvtec-{category}-{_state(folder, [*normal, *tested, *given])}"

    return OneClassImages(
        cached(f"{origin}-train", decode, normal, size),
        cached(f"{origin}-test", decode, tested, size),
        np.array([not is_good for is_good in good], np.int32),
        cached(f"{origin}-masks", decode_masks, masks, size),
    )


def _find(category: str, data_dir: Path | None) -> Path:
    """The first folder of the category."""
    if category not in CATEGORIES:
        raise ExperimentError(
            f"`unit` must be a category of MVTec AD, one of {', '.join(CATEGORIES)}, "
            f"got {category!r}."
        )
    places = [place / _FOLDER / category for place in downloads.folders(data_dir)]
    for place in places:
        if place.is_dir():
            return place
    raise ExperimentError(
        f"The category {category} of MVTec AD is in none of "
        f"{', '.join(map(str, places))}; put your copy there, in its official layout "
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
    """Changes where a file is added, taken away or replaced."""
    entries = [
        (
            str(path.relative_to(folder)),
            (status := path.stat()).st_size,
            status.st_mtime,
        )
        for path in paths
    ]
    return hashlib.sha256(repr(entries).encode()).hexdigest()[:16]
