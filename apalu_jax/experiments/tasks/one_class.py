"""One class inside a sphere: Deep SVDD."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.data.dataset import Batch
from apalu_jax.experiments.tasks.detection import CHANCE, Detector, median_ratio
from apalu_jax.experiments.tasks.inputs import (
    draw_variables,
    in_chunks,
    input_histograms,
)
from apalu_jax.introspection import Histogram

__all__ = ("Objective", "OneClass", "build")

Objective: TypeAlias = Literal["one-class", "soft-boundary"]

_NEAR_ZERO = 0.1
"""No component of the centre is nearer: a network could reach zero by shrinking."""

_COLLAPSED = 1e-3
"""Where the embeddings spread less, over the centre's size, they say nothing."""


@dataclass(frozen=True, kw_only=True)
class OneClass(Detector):
    r"""Distances to a centre, from batches of ``{"inputs", "anomalous"}``.

    With the embeddings :math:`\phi(x)` and the squared distances
    :math:`d = \|\phi(x) - c\|^2`, the objective "one-class" is the mean of d, and
    "soft-boundary" is :math:`R^2 + \overline{\max(0, d - R^2)} / \nu`. The centre c is
    the mean of the embeddings of the training part before the first step. The radius R
    is zero during the warm-up, and then the (1 - nu)-quantile of :math:`\sqrt d` in the
    latest batch. The score is d, less R^2 under the soft boundary.

    Metrics are those of
    :func:`~apalu_jax.experiments.tasks.detection.detection_metrics`, "score_ratio" of
    d in place of the score, which may be negative; and, to see a collapse, "spread",
    the root of the mean variance of the embeddings of normal examples over the centre's
    root mean square, and "collapsed", 1 where spread is below 0.001.

    Attributes:
      network: From inputs [n, ...] to embeddings [n, k].
      objective: One of the two.
      nu: The share of training examples that may lie outside, in (0, 1).
      warm_up: How many steps the radius stays zero.
      chunk: How many examples the network is given at once outside of training.

    References:
      L. Ruff et al., "Deep One-Class Classification", ICML 2018, equations 3 and 4.
    """

    by_chance: ClassVar[Mapping[str, float]] = {
        **CHANCE,
        "spread": 0.0,
        "collapsed": 1.0,
    }

    network: nn.Module
    objective: Objective = "one-class"
    nu: float = 0.1
    warm_up: int = 0
    chunk: int = 1000

    def init(
        self, key: Array, batch: Any, pretrained: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Draws the network, or takes a pretrained encoder, and finds the centre.

        Args:
          key: Of the draw.
          batch: The training part.
          pretrained: Variables of an autoencoder whose part "encoder" is the network.

        Returns:
          The variables; "sphere" holds centre, radius and the number of steps.
        """
        drawn = draw_variables(self.network, key, batch["inputs"])
        if pretrained is not None:
            drawn = {name: pretrained[name]["encoder"] for name in drawn}
        embeddings = self._embed(drawn, batch["inputs"])
        center = embeddings.mean(axis=0)
        away = jnp.where(center < 0, -_NEAR_ZERO, _NEAR_ZERO)
        near = (jnp.abs(center) < _NEAR_ZERO) & (center != 0)
        sphere = {
            "center": jnp.where(near, away, center),
            "radius": jnp.float32(0),
            "steps": jnp.int32(0),
        }
        return {**drawn, "sphere": sphere}

    def loss(
        self, variables: Mapping[str, Any], batch: Any, key: Array
    ) -> tuple[Array, Mapping[str, Any]]:
        """The objective over a batch, the network in training mode."""
        sphere = variables["sphere"]
        embeddings, carried = self.network.apply(
            _without_sphere(variables),
            batch["inputs"],
            train=True,
            mutable=["batch_stats"],
        )
        distances = jnp.square(embeddings - sphere["center"][None]).sum(axis=-1)
        steps, radius = sphere["steps"] + 1, sphere["radius"]
        if self.objective == "one-class":
            value = distances.mean()
        else:
            outside = jnp.maximum(distances - radius**2, 0)
            value = radius**2 + outside.mean() / self.nu
            found = jnp.quantile(
                jnp.sqrt(jax.lax.stop_gradient(distances)), 1 - self.nu
            )
            radius = jnp.where(steps > self.warm_up, found, radius)
        return value, {
            **carried,
            "sphere": {**sphere, "radius": radius, "steps": steps},
        }

    def predict(self, variables: Mapping[str, Any], part: Any) -> dict[str, Array]:
        """Scores and squared distances, [n], and the spread of the normal ones."""
        sphere = variables["sphere"]
        embeddings = self._embed(variables, part["inputs"])
        distances = jnp.square(embeddings - sphere["center"][None]).sum(axis=-1)
        inside = sphere["radius"] ** 2 if self.objective == "soft-boundary" else 0.0
        normal = (part["anomalous"] == 0)[:, None]
        variance = jnp.var(embeddings, axis=0, where=normal)
        size = jnp.square(sphere["center"]).mean()
        return {
            "score": distances - inside,
            "distance": distances,
            # A centre of zero comes from embeddings that are all zero.
            "spread": jnp.where(size > 0, jnp.sqrt(variance.mean() / size), 0.0),
        }

    def histograms(
        self, variables: Mapping[str, Any], part: Any
    ) -> dict[str, Histogram]:
        """The inputs of every APALU of the network, in evaluation mode."""
        inputs = part["inputs"][: self.chunk]
        return input_histograms(self.network, _without_sphere(variables), inputs)

    def metrics(
        self, predictions: Mapping[str, Any], part: Batch, validation: Any
    ) -> dict[str, float]:
        """How well the scores tell anomalous examples, and signs of a collapse."""
        found = super().metrics(predictions, part, validation)
        if "score_ratio" in found:
            # A score may be negative; a distance is not.
            distances = np.asarray(predictions["distance"], np.float64)
            found["score_ratio"] = median_ratio(distances, part["anomalous"])
        spread = float(predictions["spread"])
        return {**found, "spread": spread, "collapsed": float(spread < _COLLAPSED)}

    def _embed(self, variables: Mapping[str, Any], inputs: Array) -> Array:
        def embed(some: Array) -> Any:
            return self.network.apply(_without_sphere(variables), some, train=False)

        embeddings: Array = in_chunks(embed, inputs, self.chunk)
        return embeddings


def build(
    network: nn.Module,
    *,
    objective: Objective = "one-class",
    nu: float = OneClass.nu,
    warm_up: int = OneClass.warm_up,
    chunk: int = OneClass.chunk,
) -> OneClass:
    """Builds the task.

    Args:
      network: See :class:`OneClass`.
      objective: Likewise.
      nu: Likewise.
      warm_up: Likewise.
      chunk: Likewise.

    Returns:
      The task.

    Raises:
      ExperimentError: There is no such objective, or nu is no share.
    """
    if objective not in ("one-class", "soft-boundary"):
        raise ExperimentError(
            f"`objective` must be one-class or soft-boundary, got {objective!r}."
        )
    if not 0 < nu < 1:
        raise ExperimentError(f"`nu` must be in (0, 1), got {nu!r}.")
    return OneClass(
        network=network, objective=objective, nu=nu, warm_up=warm_up, chunk=chunk
    )


def _without_sphere(variables: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tree for name, tree in variables.items() if name != "sphere"}
