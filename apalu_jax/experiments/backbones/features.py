"""Features of images by a frozen network, computed once for every image.

The process remembers the features of every image by its SHA-256, in float16: the seeds
of a unit share most images. Averages, which are small, are in the user's cache too.
"""

import functools
import hashlib
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from apalu_jax.experiments import ExperimentError, storage
from apalu_jax.experiments.backbones.config import FeatureConfig
from apalu_jax.experiments.backbones.weights import Network
from apalu_jax.experiments.data.images import Images
from apalu_jax.experiments.models.vgg import COMPARED

# Pixels that the network is given at once.
_CHUNK_PIXELS = 1 << 18

_Rows: TypeAlias = NDArray[np.float16]


# Of more networks, kinds and units the oldest are forgotten, which bounds the memory.
@functools.lru_cache(maxsize=2)
def _remembered(key: str) -> dict[bytes, _Rows]:
    return {}


def pooled(
    network: Network, config: FeatureConfig, images: Images
) -> NDArray[np.float32]:
    """Averages of the last map over its positions, from rotated and smaller images.

    They are [n, rotations, scales * channels], the largest scale first, for ``images``
    uint8 [n, size, size, 3].
    """
    _check_images(images)
    steps = [2**i for i in range(config.scales)]

    def averages(network: Network, images: Array) -> Array:
        maps = [network.maps(images[:, ::step, ::step])[-1] for step in steps]
        if not all(each.size for each in maps):
            raise ExperimentError(
                f"`size` {images.shape[1]} of the images is too small for the backbone "
                f"at {config.scales} `scales`."
            )
        return jnp.concatenate([each.mean(axis=(1, 2)) for each in maps], axis=-1)

    run = _in_chunks(averages, network)

    def compute(images: Images) -> _Rows:
        # Another version or platform rounds otherwise.
        where = f"{jax.__version__} {jax.default_backend()}"
        depends = f"{network.digest()} {config.scales} {images.shape} {where}"
        content = hashlib.sha256(depends.encode())
        content.update(np.ascontiguousarray(images).data)
        name = content.hexdigest()

        def at(degrees: float) -> _Rows:
            rows = storage.cached_array(
                f"{name}-{degrees:g}",
                lambda: run(_rotate(images, degrees)),
                "features",
            )
            return rows.astype(np.float16)

        angles = [360 * i / config.rotations for i in range(config.rotations)]
        return np.stack([at(angle) for angle in angles], axis=1)

    key = f"{network.digest()} pooled {config.rotations} {config.scales}"
    return _look_up(key, images, compute).astype(np.float32)


def feature_maps(network: Network, images: Images) -> dict[str, NDArray[np.float32]]:
    """The maps of :data:`.vgg.COMPARED` for ``images`` uint8 [n, size, size, 3].

    They are "tap3", "tap6", "tap9" and "tap12", [n, height, width, channels].
    """
    _check_images(images)
    shapes = [each.shape[1:] for each in jax.eval_shape(network.maps, images[:1])]
    if len(shapes) <= max(COMPARED):
        raise ExperimentError(
            "`network` of the backbone must be vgg for `kind` feature_maps."
        )
    compared = [shapes[i] for i in COMPARED]
    if 0 in compared[-1]:
        raise ExperimentError(
            f"`size` {images.shape[1]} of the images is too small for the backbone."
        )

    def joined(network: Network, images: Array) -> Array:
        maps = network.maps(images)
        rows = [maps[i].reshape(len(images), -1) for i in COMPARED]
        return jnp.concatenate(rows, axis=1)

    run = _in_chunks(joined, network)
    rows = _look_up(f"{network.digest()} taps", images, run)
    ends = np.cumsum([np.prod(shape) for shape in compared])[:-1]
    return {
        f"tap{i}": columns.reshape(-1, *shape).astype(np.float32)
        for i, shape, columns in zip(
            COMPARED, compared, np.split(rows, ends, axis=1), strict=True
        )
    }


def _check_images(images: Images) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ExperimentError(
            "`inputs` for a backbone must be images, uint8 [n, height, width, 3], got "
            f"{images.dtype} {images.shape}."
        )


def _rotate(images: Images, degrees: float) -> Images:
    """Rotates images about their center, counter-clockwise."""
    from PIL import Image

    if degrees == 0:
        return images
    bilinear = Image.Resampling.BILINEAR
    pictures = (Image.fromarray(image).rotate(degrees, bilinear) for image in images)
    return np.stack([np.asarray(picture) for picture in pictures])


def _in_chunks(
    fn: Callable[[Network, Array], Array], network: Network
) -> Callable[[Images], _Rows]:
    """Applies a function to all images in batches of a fixed size.

    A fixed one, so that the features of an image do not depend on the others.
    """
    # The weights are no constants of the program: that would compile for long.
    compiled = jax.jit(
        lambda variables, x: fn(network._replace(variables=variables), x)
    )

    def run(images: Images) -> _Rows:
        count = max(1, _CHUNK_PIXELS // (images.shape[1] * images.shape[2]))
        results = []
        for start in range(0, len(images), count):
            chunk = images[start : start + count]
            padded = np.zeros((count, *images.shape[1:]), np.uint8)
            padded[: len(chunk)] = chunk
            outputs = np.asarray(compiled(network.variables, padded))
            results.append(outputs[: len(chunk)])
        rows = np.concatenate(results)
        if not np.abs(rows).max() <= np.finfo(np.float16).max:
            raise ExperimentError(
                "The backbone's outputs must be finite and in the range of float16; "
                "its weights or `mean` and `std` do not fit the images."
            )
        return rows.astype(np.float16)

    return run


def _look_up(key: str, images: Images, compute: Callable[[Images], _Rows]) -> _Rows:
    """Rows of the images; those that are not remembered are computed."""
    known = _remembered(f"{key} {images.shape[1:]}")
    digests = [hashlib.sha256(image.tobytes()).digest() for image in images]
    new = {d: image for d, image in zip(digests, images, strict=True) if d not in known}
    if new:
        known.update(zip(new, compute(np.stack(list(new.values()))), strict=True))
    return np.stack([known[digest] for digest in digests])
