"""One class inside a sphere: Deep SVDD."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from msgspec import Meta

from apalu_jax.experiments.data.splits import Batch
from apalu_jax.experiments.tasks.base import (
    DeviceBatch,
    Loss,
    Predictions,
    Variables,
    init_variables,
)
from apalu_jax.experiments.tasks.detection import CHANCE, Detector, median_ratio

# Center components below this are moved to +-0.1, as in the authors' code; otherwise
# zero weights are a trivial solution.
_NEAR_ZERO = 0.1

# Embeddings that spread less, relative to the center's size, have collapsed.
_COLLAPSED = 1e-3


@dataclass(frozen=True, kw_only=True)
class OneClass(Detector):
    r"""Distances to a center, from batches of ``{"inputs", "anomalous"}``.

    With the embeddings :math:`\phi(x)` and the squared distances
    :math:`d = \|\phi(x) - c\|^2`, the objective "one-class" is the mean of d, and
    "soft-boundary" is :math:`R^2 + \overline{\max(0, d - R^2)} / \nu`. The center c is
    the mean of the embeddings of the training split before the first step. The radius R
    is zero during the warm-up, and then the (1 - nu)-quantile of :math:`\sqrt d` in the
    latest batch. The score is d, less R^2 under the soft boundary.

    Metrics are those of every detector, "score_ratio" of d instead of the score, which
    may be negative; and, to see a collapse, "spread", the root of the mean variance of
    the embeddings of normal examples over the center's root mean square, and
    "collapsed", 1 where spread is below 0.001.

    Attributes:
      network: From inputs [n, ...] to embeddings [n, k].
      nu: The share of training examples that may lie outside, in (0, 1).
      warmup_steps: Number of steps in which the radius stays zero.

    References:
      L. Ruff et al., "Deep One-Class Classification", ICML 2018, equations 3 and 4.
    """

    levels: ClassVar[Mapping[str, float]] = {**CHANCE, "spread": 0.0, "collapsed": 1.0}

    objective: Literal["one-class", "soft-boundary"] = "one-class"
    nu: Annotated[float, Meta(gt=0, lt=1)] = 0.1
    warmup_steps: int = 0

    def init(
        self, key: Array, batch: DeviceBatch, pretrained: Variables | None = None
    ) -> Variables:
        """Initializes the network, or takes a pretrained encoder, and finds the center.

        The encoder is the submodule "encoder" of an autoencoder. The collection
        "sphere" holds center, radius and the number of steps.
        """
        variables = init_variables(self.network, key, batch["inputs"])
        if pretrained is not None:
            variables = {name: pretrained[name]["encoder"] for name in variables}
        embeddings = self.apply(variables, batch["inputs"], self.eval_batch_size)
        center = embeddings.mean(axis=0)
        away = jnp.where(center < 0, -_NEAR_ZERO, _NEAR_ZERO)
        near = (jnp.abs(center) < _NEAR_ZERO) & (center != 0)
        sphere = {
            "center": jnp.where(near, away, center),
            "radius": jnp.float32(0),
            "steps": jnp.int32(0),
        }
        return {**variables, "sphere": sphere}

    def loss(self, variables: Variables, batch: DeviceBatch, key: Array) -> Loss:
        """The objective over a batch, the network in training mode."""
        sphere = variables["sphere"]
        embeddings, carried = self.apply_train(variables, batch["inputs"])
        distances = jnp.square(embeddings - sphere["center"][None]).sum(axis=-1)
        steps, radius = sphere["steps"] + 1, sphere["radius"]
        if self.objective == "one-class":
            value = distances.mean()
        else:
            outside = jnp.maximum(distances - radius**2, 0)
            value = radius**2 + outside.mean() / self.nu
            roots = jnp.sqrt(jax.lax.stop_gradient(distances))
            found = jnp.quantile(roots, 1 - self.nu)
            radius = jnp.where(steps > self.warmup_steps, found, radius)
        sphere = {**sphere, "radius": radius, "steps": steps}
        return value, {**carried, "sphere": sphere}

    def predict(self, variables: Variables, split: DeviceBatch) -> DeviceBatch:
        """Scores and squared distances, [n], and the spread of the normal ones."""
        sphere = variables["sphere"]
        embeddings = self.apply(variables, split["inputs"], self.eval_batch_size)
        distances = jnp.square(embeddings - sphere["center"][None]).sum(axis=-1)
        inside = sphere["radius"] ** 2 if self.objective == "soft-boundary" else 0.0
        normal = (split["anomalous"] == 0)[:, None]
        variance = jnp.var(embeddings, axis=0, where=normal)
        size = jnp.square(sphere["center"]).mean()
        return {
            "score": distances - inside,
            "distance": distances,
            # A center of zero comes from embeddings that are all zero.
            "spread": jnp.where(size > 0, jnp.sqrt(variance.mean() / size), 0.0),
        }

    def collections(self, variables: Variables) -> Variables:
        """Variables without the sphere."""
        return {name: tree for name, tree in variables.items() if name != "sphere"}

    def metrics(
        self, predictions: Predictions, split: Batch, validation: Predictions
    ) -> dict[str, float]:
        """Detection metrics and signs of a collapse."""
        found = super().metrics(predictions, split, validation)
        if "score_ratio" in found:
            # A score may be negative; a distance is not.
            distances = np.asarray(predictions["distance"], np.float64)
            found["score_ratio"] = median_ratio(distances, split["anomalous"])
        spread = float(predictions["spread"])
        return {**found, "spread": spread, "collapsed": float(spread < _COLLAPSED)}
