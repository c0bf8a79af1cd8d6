"""Regression by the mean squared error of standardised targets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from numpy.typing import NDArray

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.data.dataset import Batch
from apalu_jax.experiments.tasks.inputs import draw_variables, input_histograms
from apalu_jax.experiments.tasks.task import Task
from apalu_jax.introspection import Histogram

__all__ = "Regression"


@dataclass(frozen=True)
class Regression(Task):
    """One number for every example, from batches of ``{"inputs", "targets", "scale"}``.

    Metrics are in the target's own unit: "rmse", the root of the mean squared error,
    and "log_likelihood", the mean of log p(target) in nats, p being a normal density
    around the prediction whose variance is the mean squared error on the validation
    part. A part with a forecast that costs nothing, ``persistence``, also has
    "rmse_to_persistence", the ratio of the two RMSE on that part, and "mase", the mean
    absolute error over ``naive_error``, that of persistence on the training part.

    Attributes:
      network: From inputs [n, ...] to predictions [n, 1].

    References:
      R. J. Hyndman and A. B. Koehler, "Another look at measures of forecast accuracy",
      International Journal of Forecasting 22, 2006 (MASE).
    """

    network: nn.Module

    def init(
        self, key: Array, batch: Any, pretrained: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Draws the variables."""
        return draw_variables(self.network, key, batch["inputs"])

    def loss(
        self, variables: Mapping[str, Any], batch: Any, key: Array
    ) -> tuple[Array, Mapping[str, Any]]:
        """Mean squared error of a batch, the network in training mode."""
        predictions, carried = self.network.apply(
            variables,
            batch["inputs"],
            train=True,
            mutable=[name for name in variables if name != "params"],
            rngs={"dropout": key},
        )
        return jnp.square(predictions - batch["targets"]).mean(), carried

    def predict(self, variables: Mapping[str, Any], part: Any) -> dict[str, Array]:
        """The residuals, [n, 1], standardised."""
        predictions = self.network.apply(variables, part["inputs"], train=False)
        return {"residuals": predictions - part["targets"]}

    def histograms(
        self, variables: Mapping[str, Any], part: Any
    ) -> dict[str, Histogram]:
        """The inputs of every APALU of the network, in evaluation mode."""
        return input_histograms(self.network, variables, part["inputs"])

    def metrics(
        self,
        predictions: Mapping[str, Any],
        part: Batch,
        validation: Mapping[str, Any],
    ) -> dict[str, float]:
        """Metrics of one part; the noise's variance is that of ``validation``."""
        noise = np.mean(np.square(validation["residuals"], dtype=np.float64))
        return _scores(predictions["residuals"], part, float(noise))

    def chance(self, metric: str, part: Batch) -> float:
        """The score of predicting the training part's mean, with its variance."""
        scores = _scores(-part["targets"], part, 1.0)
        if metric not in scores:
            raise ExperimentError(
                f"`metric` must be one of {', '.join(scores)} in this regression, got "
                f"{metric!r}."
            )
        return scores[metric]


def _scores(residuals: NDArray[Any], part: Batch, noise: float) -> dict[str, float]:
    """Metrics from standardised residuals [n, 1] and the variance of the noise."""
    scale = np.asarray(part["scale"], np.float64)
    z = np.asarray(residuals, np.float64)[:, 0]
    errors = scale * z
    # The residuals of a diverged run may be infinite.
    with np.errstate(invalid="ignore", over="ignore"):
        densities = -0.5 * (np.log(2 * np.pi * scale**2 * noise) + z**2 / noise)
        scores = {
            "rmse": np.sqrt(np.mean(errors**2)),
            "log_likelihood": np.mean(densities),
        }
        if "persistence" in part:
            naive = scale * (part["persistence"] - part["targets"])[:, 0]
            scores |= {
                "mase": np.mean(np.abs(errors) / part["naive_error"]),
                "rmse_to_persistence": scores["rmse"] / np.sqrt(np.mean(naive**2)),
            }
    return {name: float(score) for name, score in scores.items()}
