"""Imitation of a frozen network: where it fails, an image is not normal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from apalu_jax.experiments.data.dataset import Batch
from apalu_jax.experiments.models.vgg import COMPARED
from apalu_jax.experiments.tasks.detection import CHANCE, Detector
from apalu_jax.experiments.tasks.inputs import (
    draw_variables,
    in_chunks,
    input_histograms,
)
from apalu_jax.experiments.tasks.localization import (
    coarse,
    pixel_auroc,
    smoothed,
    spread_choice,
)
from apalu_jax.introspection import Histogram

__all__ = "Distillation"

_TESTED = COMPARED[1:]

_SHOWN = 4
_SHOWN_SIZE = 32


@dataclass(frozen=True, kw_only=True)
class Distillation(Detector):
    r"""Maps like those of a source: ``{"inputs", "anomalous", "tap3", ...}``.

    With the cloner's map :math:`c_I` and the source's :math:`s_I`, both flattened, the
    loss of an image is the sum over the taps I of
    :math:`1 - \cos(c_I, s_I) + \lambda \, \overline{(c_I - s_I)^2}`. It is the score
    too, without the first tap. ``inputs`` are images, uint8; the cloner is given
    ``x / 255``.

    Metrics are those of
    :func:`~apalu_jax.experiments.tasks.detection.detection_metrics` and, where the test
    part holds "mask", "pixel_auroc" of maps of a few anomalous images: the gradient of
    the score with respect to the image, see
    :func:`~apalu_jax.experiments.tasks.localization.smoothed`. It is taken through the
    cloner; the source's maps are given with the data and do not change.

    Attributes:
      network: From images to a list of maps.
      lam: Weight of the squared error; 0 compares directions only.
      maps: How many anomalous images the maps are made of, evenly spaced in the part.
      eval_batch_size: Largest number of examples in a batch outside of training.

    References:
      M. Salehi et al., "Multiresolution Knowledge Distillation for Anomaly Detection",
      CVPR 2021, equations 1 to 4.
    """

    by_chance: ClassVar[Mapping[str, float]] = {**CHANCE, "pixel_auroc": 0.5}

    network: nn.Module
    lam: float = 0.5
    maps: int = 16
    eval_batch_size: int = 500

    def init(
        self, key: Array, batch: Any, pretrained: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Draws the variables."""
        return draw_variables(self.network, key, _scale(batch["inputs"][:1]))

    def loss(
        self, variables: Mapping[str, Any], batch: Any, key: Array
    ) -> tuple[Array, Mapping[str, Any]]:
        """Mean over a batch, the network in training mode."""
        maps, carried = self.network.apply(
            variables, _scale(batch["inputs"]), train=True, mutable=["batch_stats"]
        )
        return self._distances(maps, batch, COMPARED).mean(), carried

    def predict(self, variables: Mapping[str, Any], part: Any) -> dict[str, Array]:
        """The score of each image, [n], and gradients [maps, height, width, 3]."""

        def score(inputs: Array, taps: Any) -> Array:
            maps = self.network.apply(variables, inputs, train=False)
            return self._distances(maps, taps, _TESTED)

        taps = {name: part[name] for name in map(_name, _TESTED)}
        scores = in_chunks(
            lambda some: score(_scale(some["inputs"]), some),
            {"inputs": part["inputs"], **taps},
            self.eval_batch_size,
        )
        if "mask" not in part:
            return {"score": scores}
        chosen = spread_choice(part["anomalous"], self.maps)
        own = {name: array[chosen] for name, array in taps.items()}
        gradient = jax.grad(lambda inputs: score(inputs, own).sum())
        images = _scale(part["inputs"][chosen])
        return {"score": scores, "chosen": chosen, "gradients": gradient(images)}

    def histograms(
        self, variables: Mapping[str, Any], part: Any
    ) -> dict[str, Histogram]:
        """The inputs of every APALU of the network, in evaluation mode."""
        inputs = _scale(part["inputs"][: self.eval_batch_size])
        return input_histograms(self.network, variables, inputs)

    def metrics(
        self, predictions: Mapping[str, Any], part: Batch, validation: Any
    ) -> dict[str, float]:
        """How well the scores tell anomalous images, and the maps their pixels."""
        found = super().metrics(predictions, part, validation)
        if "gradients" in predictions:
            masks = part["mask"][predictions["chosen"]]
            found["pixel_auroc"] = pixel_auroc(
                smoothed(predictions["gradients"]), masks
            )
        return found

    def figure_data(self, predictions: Any, part: Batch) -> dict[str, Any]:
        """A few maps, from 0 to 1, and what is anomalous; no pixel of an image."""
        # A diverged run has no map to show, and JSON no NaN.
        if not np.isfinite(predictions.get("gradients", np.nan)).all():
            return {}
        places = np.arange(_SHOWN) * self.maps // _SHOWN
        maps = smoothed(predictions["gradients"])[places]
        peaks = np.maximum(maps.max(axis=(1, 2), keepdims=True), np.finfo("f8").tiny)
        masks = part["mask"][predictions["chosen"]][places]
        return {
            "maps": coarse(maps / peaks, _SHOWN_SIZE).round(2).tolist(),
            "masks": coarse(masks, _SHOWN_SIZE).tolist(),
        }

    def _distances(self, maps: Any, taps: Any, indices: Sequence[int]) -> Array:
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


_TINY = 1e-8
"""The smallest product of lengths that is divided by."""


def _length(x: Array) -> Array:
    """Of each row; its gradient at zero is zero, not NaN."""
    squares = jnp.square(x).sum(axis=1)
    safe = jnp.where(squares > 0, squares, 1.0)
    return jnp.where(squares > 0, jnp.sqrt(safe), 0.0)


def _name(tap: int) -> str:
    return f"tap{tap}"


def _scale(inputs: Array) -> Array:
    return inputs.astype(jnp.float32) / 255
