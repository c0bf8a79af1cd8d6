"""Knowledge distillation: images that the student fails on are anomalous.

Gradients of their scores localize the anomalies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from apalu_jax.experiments.data.splits import Batch, Numbers
from apalu_jax.experiments.models.vgg import COMPARED
from apalu_jax.experiments.tasks.base import (
    DeviceBatch,
    Loss,
    Predictions,
    Variables,
    in_batches,
)
from apalu_jax.experiments.tasks.detection import CHANCE, Detector

# The score leaves out the first map, as the paper does in testing.
_TESTED = COMPARED[1:]

# Maps in a figure, and their largest size.
_SHOWN = 4
_SHOWN_SIZE = 32

# The smallest product of lengths that is divided by.
_TINY = 1e-8

# Smoothing of the published protocol, whose images are 128 x 128.
_SIGMA = 4 / 128


@dataclass(frozen=True, kw_only=True)
class Distillation(Detector):
    r"""Maps like a frozen teacher's, from ``{"inputs", "anomalous", "tap3", ...}``.

    With the student's map :math:`c_I` and the teacher's :math:`s_I`, both flattened,
    the loss of an image is the sum over the taps I of
    :math:`1 - \cos(c_I, s_I) + \lambda \, \overline{(c_I - s_I)^2}`. It is the score
    too, without the first tap. ``inputs`` are images, uint8; the student gets
    ``x / 255``.

    Metrics are, besides those of every detector, "pixel_auroc" if the test split holds
    "mask". It is that of maps of a few anomalous images: the gradient of the score with
    respect to the image, see :func:`smoothed`. It is taken through the student; the
    teacher's maps are given with the data and do not change.

    Attributes:
      network: From images to a list of maps.
      lam: Weight of the squared error; 0 compares directions only.
      maps: Number of anomalous images that get maps, evenly spaced in the split.

    References:
      M. Salehi et al., "Multiresolution Knowledge Distillation for Anomaly Detection",
      CVPR 2021, equations 1 to 4.
    """

    levels: ClassVar[Mapping[str, float]] = {**CHANCE, "pixel_auroc": 0.5}

    lam: float = 0.5
    maps: int = 16
    eval_batch_size: int = 500

    def network_inputs(self, inputs: Array) -> Array:
        """Images in [0, 1]."""
        return inputs.astype(jnp.float32) / 255

    def loss(self, variables: Variables, batch: DeviceBatch, key: Array) -> Loss:
        """Mean distance over a batch."""
        maps, carried = self.apply_train(variables, batch["inputs"])
        return self._distances(maps, batch, COMPARED).mean(), carried

    def predict(self, variables: Variables, split: DeviceBatch) -> DeviceBatch:
        """The score of each image, [n], and gradients [maps, height, width, 3]."""

        def score(inputs: Array, taps: DeviceBatch) -> Array:
            maps: Any = self.network.apply(variables, inputs, train=False)
            return self._distances(maps, taps, _TESTED)

        taps = {name: split[name] for name in map(_name, _TESTED)}
        scores = in_batches(
            lambda some: score(self.network_inputs(some["inputs"]), some),
            {"inputs": split["inputs"], **taps},
            self.eval_batch_size,
        )
        if "mask" not in split:
            return {"score": scores}
        chosen = evenly_spaced_anomalies(split["anomalous"], self.maps)
        own = {name: array[chosen] for name, array in taps.items()}
        gradient = jax.grad(lambda inputs: score(inputs, own).sum())
        images = self.network_inputs(split["inputs"][chosen])
        return {"score": scores, "chosen": chosen, "gradients": gradient(images)}

    def metrics(
        self, predictions: Predictions, split: Batch, validation: Predictions
    ) -> dict[str, float]:
        """Detection of anomalous images and, by the maps, of their pixels."""
        found = super().metrics(predictions, split, validation)
        if "gradients" in predictions:
            masks = split["mask"][predictions["chosen"]]
            found["pixel_auroc"] = pixel_auroc(
                smoothed(predictions["gradients"]), masks
            )
        return found

    def figure_data(self, predictions: Predictions, split: Batch) -> dict[str, object]:
        """A few maps in [0, 1], and masks of the anomalies; no pixel of an image."""
        # A diverged run has no map, and JSON has no NaN.
        if not np.isfinite(predictions.get("gradients", np.nan)).all():
            return {}
        indices = np.arange(_SHOWN) * self.maps // _SHOWN
        maps = smoothed(predictions["gradients"])[indices]
        peaks = np.maximum(maps.max(axis=(1, 2), keepdims=True), np.finfo("f8").tiny)
        masks = split["mask"][predictions["chosen"]][indices]
        return {
            "maps": max_pool_to(maps / peaks, _SHOWN_SIZE).round(2).tolist(),
            "masks": max_pool_to(masks, _SHOWN_SIZE).tolist(),
        }

    def _distances(
        self, maps: Sequence[Array], taps: DeviceBatch, indices: Sequence[int]
    ) -> Array:
        """The loss of each image."""
        total = jnp.float32(0)
        for i in indices:
            own, given = (
                x.reshape(len(x), -1) for x in (maps[i], jnp.asarray(taps[_name(i)]))
            )
            lengths = _length(own) * _length(given)
            cosine = (own * given).sum(axis=1) / jnp.maximum(lengths, _TINY)
            total += 1 - cosine + self.lam * jnp.square(own - given).mean(axis=1)
        return jnp.asarray(total)


def _length(x: Array) -> Array:
    """Norm of each row; its gradient at zero is zero, not NaN."""
    squares = jnp.square(x).sum(axis=1)
    safe = jnp.where(squares > 0, squares, 1.0)
    return jnp.where(squares > 0, jnp.sqrt(safe), 0.0)


def _name(tap: int) -> str:
    return f"tap{tap}"


def evenly_spaced_anomalies(anomalous: Array, count: int) -> Array:
    """Indices [count] of anomalous examples, evenly spaced among them; jit-safe.

    Some come twice if there are fewer.

    Examples:
      >>> print(evenly_spaced_anomalies(jnp.array([1, 0, 1, 1, 0, 1]), 2))
      [0 3]
    """
    order = jnp.argsort(-anomalous, stable=True)
    return order[jnp.arange(count) * anomalous.sum() // count]


def smoothed(gradients: Numbers) -> NDArray[np.float64]:
    """Makes maps [n, height, width] from gradients [n, height, width, channels].

    Absolute values, the largest over the channels, smoothed by a Gaussian (sigma is 4
    pixels of 128) and opened by 3 x 3: narrower structures disappear.
    """
    from scipy import ndimage

    maps = np.abs(np.asarray(gradients, np.float64)).max(axis=-1)
    sigma = _SIGMA * maps.shape[1]
    maps = ndimage.gaussian_filter(maps, (0, sigma, sigma))
    return ndimage.grey_opening(maps, size=(1, 3, 3))


def pixel_auroc(maps: Numbers, masks: Numbers) -> float:
    """Area under the ROC curve of the pixels of all images, of maps by masks.

    NaN if a map is not finite, 0.5 if all pixels are of one kind.
    """
    from sklearn.metrics import roc_auc_score

    if not np.isfinite(maps).all():
        return float("nan")
    if len(np.unique(masks)) < 2:
        return 0.5
    return float(roc_auc_score(masks.ravel(), maps.ravel()))


def max_pool_to(images: Numbers, size: int) -> Numbers:
    """Max-pools square maps [n, height, width] to at most ``size`` x ``size``."""
    n, side, _ = images.shape
    factor = -(-side // size)
    pooled = side // factor
    cut = images[:, : pooled * factor, : pooled * factor]
    return cut.reshape(n, pooled, factor, pooled, factor).max(axis=(2, 4))
