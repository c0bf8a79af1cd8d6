"""Images: decoding, resizing, and data sets of labeled images."""

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.data.splits import (
    Batch,
    Dataset,
    Indices,
    Splits,
    labeled,
    split_stratified,
)
from apalu_jax.experiments.storage import cached_array

Images: TypeAlias = NDArray[np.uint8]
"""[n, height, width, channels]."""

ImageFile: TypeAlias = Path | IO[bytes]

_File = TypeVar("_File")


class LabeledImages(NamedTuple):
    """The two official splits of a data set, with the classes of the images, [n]."""

    train: Images
    train_labels: NDArray[np.uint8]
    test: Images
    test_labels: NDArray[np.uint8]


def read_image(file: ImageFile, mode: str, name: str = "") -> Images:
    """Decodes an image file to [height, width] ("L") or [height, width, 3] ("RGB").

    An error names the file, by default ``name``, if it is no image, is damaged, or
    claims more than the 89 million pixels that Pillow takes for sound.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # Pillow warns at this number of pixels, and raises at twice as many.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                return np.asarray(image.convert(mode))
    # Besides OSError, a decoder raises whatever a damaged file leads it to, such as
    # SyntaxError, struct.error or zlib.error.
    except Exception as error:
        name = str(file) if isinstance(file, Path) else getattr(file, "name", name)
        raise ExperimentError(f"{name} cannot be read as an image: {error}") from error


def resize(images: Iterable[Images], size: int | None) -> Images:
    """Resizes gray or color images of any sizes to [n, size, size, 1 or 3].

    ``size`` may be None if they have one size.
    """
    from PIL import Image

    def one(image: Images) -> Images:
        if size is not None and image.shape[:2] != (size, size):
            # Pillow's bilinear filter widens with the reduction: an average.
            picture = Image.fromarray(image).resize(
                (size, size), Image.Resampling.BILINEAR
            )
            image = np.asarray(picture)
        return image.reshape(*image.shape[:2], -1)

    return np.stack([one(image) for image in images])


def decode(files: Iterable[ImageFile], size: int) -> Images:
    """Decodes image files to [n, size, size, 3]; gray ones get three equal channels."""
    return resize((read_image(file, "RGB") for file in files), size)


def decode_masks(files: Iterable[ImageFile | None], size: int) -> Images:
    """Decodes masks of defects, of which None has none, to 0 and 1 [n, size, size].

    Pixels of a file are defective from 128 on, those of the result if a quarter of
    them is, as the resizing weighs it. Half of it would lose thin cracks.
    """
    clear = np.zeros((size, size), np.uint8)
    full = (
        clear
        if file is None
        else np.where(read_image(file, "L") >= 128, 255, 0).astype(np.uint8)
        for file in files
    )
    return (resize(full, size)[..., 0] >= 64).astype(np.uint8)


def cached(
    origin: str,
    decode: Callable[[Iterable[_File], int], Images],
    files: Iterable[_File],
    size: int,
) -> Images:
    """Applies ``decode``, or loads the result that is cached under ``origin``."""
    import PIL

    # Another version of Pillow may decode a pixel differently.
    name = f"{origin}-pillow-{PIL.__version__}-{size}"
    return cached_array(name, lambda: decode(files, size), "decoded")


def standardize_brightness(images: Images) -> Images:
    """Gives every image the mean 128 and, unless it is uniform, the deviation 32.

    Values beyond 0 and 255 are clipped.
    """
    x = images.astype(np.float32)
    x -= x.mean(axis=(1, 2, 3), keepdims=True)
    spread = x.std(axis=(1, 2, 3), keepdims=True)
    x *= 32 / np.where(spread > 0, spread, np.float32(1))
    return np.clip(np.round(x + 128), 0, 255).astype(np.uint8)


def pool(images: Images, size: int) -> Images:
    """Makes square images smaller by averages over squares, rounded.

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
    return (sums // factor**2).astype(np.uint8)


def to_dataset(
    images: LabeledImages,
    *,
    size: int,
    train: int | None,
    validation: int,
    test: int | None,
    label: str = "",
) -> Dataset:
    """Makes a classification data set of images that have an official test split.

    ``train`` (None for all that are left) and ``validation`` images are sampled from
    the official training split for each seed, stratified. The test split has the first
    images of each class in a fixed random order, ``test`` together; None for all. All
    are averaged down to ``size``; see :func:`pool`.

    Splits are ``{"inputs", "targets"}``: the images, uint8, and their classes, int32.
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
    inputs, targets = pool(images.train, size), images.train_labels.astype(np.int32)
    tested: Batch = {
        "inputs": pool(images.test[chosen], size),
        "targets": images.test_labels[chosen].astype(np.int32),
    }

    def fold(seed: int) -> Splits:
        sampled, held_out = split_stratified(
            np.arange(len(targets)), targets, seed, first=count, second=validation
        )
        return Splits(
            labeled(inputs, targets, sampled),
            labeled(inputs, targets, held_out),
            tested,
        )

    return Dataset(outputs=classes, splits=fold, label=label)


def _first_of_each(labels: NDArray[np.uint8], count: int | None) -> Indices:
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
