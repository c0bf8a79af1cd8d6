"""Image files of any sizes as arrays of one size."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from apalu_jax.experiments.data.images import Images, resize
from apalu_jax.experiments.storage import cached_array

__all__ = ("cached", "decode", "decode_masks", "standardize_brightness")


def decode(pictures: Iterable[Path | IO[bytes]], size: int) -> Images:
    """Decodes pictures and makes them squares of one size.

    Args:
      pictures: Files that Pillow reads, gray or color.
      size: Height and width.

    Returns:
      Images [n, size, size, 3], gray ones with three equal channels.
    """
    return resize((_read(each, "RGB") for each in pictures), size)


def decode_masks(
    pictures: Iterable[Path | IO[bytes] | None], size: int
) -> NDArray[np.uint8]:
    """Decodes masks of defects and makes them squares of one size.

    Args:
      pictures: Files whose pixels are defective from 128 on; None where nothing is.
      size: Height and width.

    Returns:
      Masks [n, size, size] of 0 and 1, which is where a quarter of a pixel or more, as
      the resizing weighs it, is defective: half of it would lose thin cracks.
    """
    clear = np.zeros((size, size), np.uint8)
    whole = (
        clear
        if each is None
        else np.where(_read(each, "L") >= 128, 255, 0).astype(np.uint8)
        for each in pictures
    )
    masks = resize(whole, size)[..., 0]
    return (masks >= 64).astype(np.uint8)


def cached(
    origin: str, decode: Callable[..., NDArray[np.uint8]], pictures: Any, size: int
) -> NDArray[np.uint8]:
    """Decodes pictures, or loads the result from the cache.

    Args:
      origin: Identifies the pictures, in the name of the cached file.
      decode: :func:`decode` or :func:`decode_masks`.
      pictures: Its first argument.
      size: Its second one.

    Returns:
      The decoded array.
    """
    import PIL

    # Another version of Pillow may decode a pixel differently.
    name = f"{origin}-pillow-{PIL.__version__}-{size}"
    return cached_array(name, lambda: decode(pictures, size), "decoded")


def standardize_brightness(images: Images) -> Images:
    """Every image with the same mean, 128, and the same deviation, 32, where it varies.

    Args:
      images: [n, height, width, channels].

    Returns:
      Such images; values beyond 0 and 255 are cut.
    """
    x = images.astype(np.float32)
    x -= x.mean(axis=(1, 2, 3), keepdims=True)
    spread = x.std(axis=(1, 2, 3), keepdims=True)
    x *= 32 / np.where(spread > 0, spread, np.float32(1))
    return np.clip(np.round(x + 128), 0, 255).astype(np.uint8)


def _read(picture: Path | IO[bytes], mode: str) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(picture) as image:
        return np.asarray(image.convert(mode))
