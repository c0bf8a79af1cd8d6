"""Changes of training images that keep their classes."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from apalu_jax.experiments import ExperimentError

__all__ = ("AUGMENTATIONS", "augment")

AUGMENTATIONS = ("", "flip", "flip-shift")


def augment(images: Array, key: Array, kind: str, shift: int) -> Array:
    """Changes each image of a batch at random.

    Args:
      images: [n, height, width, colours], of any type.
      key: What the draws come from.
      kind: "" for no change; "flip" for a reflection left to right in half of the
        cases; "flip-shift" for a shift besides.
      shift: Largest shift in pixels, up or down and left or right, all equally likely;
        zeros move in. It is the random crop of an image padded by ``shift`` zeros.

    Returns:
      Images of the same shape and type.

    Raises:
      ExperimentError: There is no such kind.
    """
    if kind not in AUGMENTATIONS:
        raise ExperimentError(
            f"`augment` must be one of {', '.join(map(repr, AUGMENTATIONS))}, got "
            f"{kind!r}."
        )
    flip_key, shift_key = jax.random.split(key)
    if kind:
        flipped = jax.random.bernoulli(flip_key, shape=(len(images), 1, 1, 1))
        images = jnp.where(flipped, images[:, :, ::-1], images)
    if kind == "flip-shift":
        starts = jax.random.randint(shift_key, (len(images), 2), 0, 2 * shift + 1)
        images = _crop(images, starts, shift)
    return images


def _crop(images: Array, starts: Array, padding: int) -> Array:
    around = (padding, padding)
    padded = jnp.pad(images, ((0, 0), around, around, (0, 0)))

    def one(image: Array, start: Array) -> Array:
        origin = (start[0], start[1], jnp.zeros_like(start[0]))
        return lax.dynamic_slice(image, origin, images.shape[1:])

    return jax.vmap(one)(padded, starts)
