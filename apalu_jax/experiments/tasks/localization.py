"""Localization of anomalies in images by maps of pixels."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

__all__ = (
    "max_pool_to",
    "pixel_auroc",
    "smoothed",
    "evenly_spaced_anomalies",
)

# Of the published protocol, whose images are 128 x 128.
_SIGMA = 4 / 128


def evenly_spaced_anomalies(anomalous: Array, count: int) -> Array:
    """Indices of anomalous examples, evenly spaced among them; jit-safe.

    Args:
      anomalous: 0 or 1, [n].
      count: How many are wanted, at least 1; some come twice where there are fewer.

    Returns:
      Indices, [count].

    Examples:
      >>> print(evenly_spaced_anomalies(jnp.array([1, 0, 1, 1, 0, 1]), 2))
      [0 3]
    """
    order = jnp.argsort(-anomalous, stable=True)
    return order[jnp.arange(count) * anomalous.sum() // count]


def smoothed(gradients: NDArray[Any]) -> NDArray[np.float64]:
    """Makes maps from gradients.

    Absolute values, the largest over the channels, smoothed by a Gaussian (sigma is 4
    pixels of 128) and opened by 3 x 3: narrower structures disappear.

    Args:
      gradients: [n, height, width, channels].

    Returns:
      Maps [n, height, width].
    """
    from scipy import ndimage

    maps = np.abs(np.asarray(gradients, np.float64)).max(axis=-1)
    sigma = _SIGMA * maps.shape[1]
    maps = ndimage.gaussian_filter(maps, (0, sigma, sigma))
    opened: NDArray[np.float64] = ndimage.grey_opening(maps, size=(1, 3, 3))
    return opened


def pixel_auroc(maps: NDArray[Any], masks: NDArray[Any]) -> float:
    """Area under the ROC curve of the pixels of all images.

    Args:
      maps: Larger for what looks less normal, [n, height, width].
      masks: 1 for an anomalous pixel, else 0, of that shape.

    Returns:
      The area under the ROC curve; NaN where a map is not finite, 0.5 where all pixels
      are of one kind.
    """
    from sklearn.metrics import roc_auc_score

    if not np.isfinite(maps).all():
        return float("nan")
    if len(np.unique(masks)) < 2:
        return 0.5
    return float(roc_auc_score(masks.ravel(), maps.ravel()))


def max_pool_to(images: NDArray[Any], size: int) -> NDArray[Any]:
    """Max-pools maps to at most ``size`` x ``size``.

    Args:
      images: [n, height, width], square.
      size: The largest height and width of the result.

    Returns:
      [n, k, k].
    """
    n, side, _ = images.shape
    factor = -(-side // size)
    pooled = side // factor
    cut = images[:, : pooled * factor, : pooled * factor]
    largest: NDArray[Any] = cut.reshape(n, pooled, factor, pooled, factor).max(
        axis=(2, 4)
    )
    return largest
