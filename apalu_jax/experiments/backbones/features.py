"""Features of images by a frozen network, computed once for every image.

An image that was seen before in this process is looked up by its SHA-256. Features are
stored in the user's cache folder, in float16, under a name made of the network, the
options and the images.
"""

import hashlib
from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.backbones.config import FeatureConfig
from apalu_jax.experiments.backbones.weights import Network
from apalu_jax.experiments.data.images import Images
from apalu_jax.experiments.models.vgg import COMPARED
from apalu_jax.experiments.storage import cached_array

__all__ = ("feature_maps", "pooled")

# Pixels that the network is given at once.
_CHUNK_PIXELS = 1 << 18
# What a process remembers before it starts afresh.
_REMEMBERED_BYTES = 1 << 30

_Rows = NDArray[np.float16]

_memory: dict[str, dict[bytes, _Rows]] = {}


def pooled(
    network: Network, config: FeatureConfig, images: Images
) -> NDArray[np.float32]:
    """Averages of the last map over its places, from turned and smaller images.

    Args:
      network: The network.
      config: Rotations and scales.
      images: uint8 [n, size, size, 3].

    Returns:
      [n, rotations, scales * channels], the largest scale first.

    Raises:
      ExperimentError: The images are too small for the network at so many scales, or
        not as they must be.
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
        angles = [360 * i / config.rotations for i in range(config.rotations)]
        return np.stack([run(_turn(images, angle)) for angle in angles], axis=1)

    key = f"{network.digest()} pooled {config.rotations} {config.scales}"
    return _looked_up(key, images, compute).astype(np.float32)


def feature_maps(network: Network, images: Images) -> dict[str, NDArray[np.float32]]:
    """The maps of :data:`~apalu_jax.experiments.models.vgg.COMPARED`.

    Args:
      network: VGG.
      images: uint8 [n, size, size, 3].

    Returns:
      "tap3", "tap6", "tap9" and "tap12", [n, height, width, channels].

    Raises:
      ExperimentError: The network has fewer maps, or the images are too small for it or
        not as they must be.
    """
    _check_images(images)
    shapes = [each.shape[1:] for each in jax.eval_shape(network.maps, images[:1])]
    if len(shapes) <= max(COMPARED):
        raise ExperimentError(
            "`network` of the backbone must be vgg for `kind` feature_maps."
        )
    kept = [shapes[i] for i in COMPARED]
    if 0 in kept[-1]:
        raise ExperimentError(
            f"`size` {images.shape[1]} of the images is too small for the backbone."
        )

    def joined(network: Network, images: Array) -> Array:
        maps = network.maps(images)
        return jnp.concatenate(
            [maps[i].reshape(len(images), -1) for i in COMPARED], axis=1
        )

    run = _in_chunks(joined, network)
    rows = _looked_up(f"{network.digest()} taps", images, run)
    ends = np.cumsum([np.prod(shape) for shape in kept])[:-1]
    return {
        f"tap{i}": part.reshape(-1, *shape).astype(np.float32)
        for i, shape, part in zip(
            COMPARED, kept, np.split(rows, ends, axis=1), strict=True
        )
    }


def _check_images(images: Images) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ExperimentError(
            "`inputs` for a backbone must be images, uint8 [n, height, width, 3], got "
            f"{images.dtype} {images.shape}."
        )


def _turn(images: Images, degrees: float) -> Images:
    """Images turned about their middle, counter-clockwise."""
    from PIL import Image

    if degrees == 0:
        return images
    bilinear = Image.Resampling.BILINEAR
    return np.stack(
        [
            np.asarray(Image.fromarray(image).rotate(degrees, bilinear))
            for image in images
        ]
    )


def _in_chunks(
    fn: Callable[[Network, Array], Array], network: Network
) -> Callable[[Images], _Rows]:
    """Applies a function to all images in batches of a fixed size.

    Of a fixed number, so that what an image gives does not depend on the others.
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
            results.append(
                np.asarray(compiled(network.variables, padded))[: len(chunk)]
            )
        rows = np.concatenate(results)
        if not np.abs(rows).max() <= np.finfo(np.float16).max:
            raise ExperimentError(
                "The backbone's outputs must be finite and in the range of float16; "
                "its weights or `mean` and `std` do not fit the images."
            )
        return rows.astype(np.float16)

    return run


def _looked_up(key: str, images: Images, compute: Callable[[Images], _Rows]) -> _Rows:
    """Rows of images that were computed before, and of the others."""
    # Another kind of device rounds differently.
    key = f"{key} {images.shape[1:]} {jax.default_backend()}"
    if sum(row.nbytes for rows in _memory.values() for row in rows.values()) > (
        _REMEMBERED_BYTES
    ):
        _memory.clear()
    known = _memory.setdefault(key, {})
    digests = [hashlib.sha256(image.tobytes()).digest() for image in images]
    indices = {digest: i for i, digest in enumerate(digests) if digest not in known}
    if indices:
        missing = sorted(indices)
        content = key.encode() + b"".join(missing)
        name = f"{hashlib.sha256(content).hexdigest()[:32]}.npy"
        new = images[[indices[digest] for digest in missing]]
        rows = cached_array(name, lambda: compute(new), "features")
        known.update(zip(missing, rows, strict=True))
    return cast(_Rows, np.stack([known[digest] for digest in digests]))
