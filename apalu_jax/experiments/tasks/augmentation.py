"""Random augmentation of training images that preserves their classes."""

from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax

__all__ = ("Augmentation", "augment")

Augmentation: TypeAlias = Literal["", "flip", "flip-shift"]


def augment(images: Array, key: Array, kind: Augmentation, max_shift: int) -> Array:
    """Augments each image of a batch at random.

    Args:
      images: [n, height, width, channels], of any type.
      key: Key of the random numbers.
      kind: "" for no change; "flip" for a reflection left to right in half of the
        cases; "flip-shift" for a shift besides.
      max_shift: Largest shift in pixels, up or down and left or right, all equally
        likely; zeros move in. It is the random crop of an image padded by
        ``max_shift`` zeros.

    Returns:
      Images of the same shape and type.
    """
    flip_key, shift_key = jax.random.split(key)
    if kind:
        flipped = jax.random.bernoulli(flip_key, shape=(len(images), 1, 1, 1))
        images = jnp.where(flipped, images[:, :, ::-1], images)
    if kind == "flip-shift":
        starts = jax.random.randint(shift_key, (len(images), 2), 0, 2 * max_shift + 1)
        images = _crop(images, starts, max_shift)
    return images


def _crop(images: Array, starts: Array, padding: int) -> Array:
    around = (padding, padding)
    padded = jnp.pad(images, ((0, 0), around, around, (0, 0)))

    def one(image: Array, start: Array) -> Array:
        origin = (start[0], start[1], jnp.zeros_like(start[0]))
        return lax.dynamic_slice(image, origin, images.shape[1:])

    return jax.vmap(one)(padded, starts)
