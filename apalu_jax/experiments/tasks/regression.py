"""Regression by the mean squared error of standardized targets."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array

from apalu_jax.experiments.data.splits import Batch, Numbers
from apalu_jax.experiments.tasks.base import (
    DeviceBatch,
    Loss,
    Predictions,
    Task,
    Variables,
)


@dataclass(frozen=True, kw_only=True)
class Regression(Task):
    """One number for every example, from batches of ``{"inputs", "targets", "scale"}``.

    Metrics are in the target's own unit: "rmse", the root of the mean squared error,
    and "log_likelihood", the mean of log p(target) in nats, p being a normal density
    around the prediction whose variance is the mean squared error on the validation
    split. A split with the naive forecast ``persistence`` also has
    "rmse_to_persistence", the ratio of the two RMSE on that split, and "mase", the mean
    absolute error over ``naive_error``, that of persistence on the training split. The
    network maps inputs [n, ...] to predictions [n, 1].

    References:
      R. J. Hyndman and A. B. Koehler, "Another look at measures of forecast accuracy",
      International Journal of Forecasting 22, 2006 (MASE).
    """

    def loss(self, variables: Variables, batch: DeviceBatch, key: Array) -> Loss:
        """Mean squared error of a batch."""
        predictions, carried = self.apply_train(variables, batch["inputs"], key)
        return jnp.square(predictions - batch["targets"]).mean(), carried

    def predict(self, variables: Variables, split: DeviceBatch) -> DeviceBatch:
        """Standardized residuals, [n, 1]."""
        predictions = self.apply(variables, split["inputs"])
        return {"residuals": predictions - split["targets"]}

    def metrics(
        self, predictions: Predictions, split: Batch, validation: Predictions
    ) -> dict[str, float]:
        """Metrics of a split; the variance of the noise is that of ``validation``."""
        noise = np.mean(np.square(validation["residuals"], dtype=np.float64))
        return _scores(predictions["residuals"], split, float(noise))

    def chance_levels(self, split: Batch) -> Mapping[str, float]:
        """Scores of predicting the training split's mean, with its variance."""
        return _scores(-split["targets"], split, 1.0)


def _scores(residuals: Numbers, split: Batch, noise: float) -> dict[str, float]:
    """Metrics from standardized residuals [n, 1] and the variance of the noise."""
    scale = np.asarray(split["scale"], np.float64)
    z = np.asarray(residuals, np.float64)[:, 0]
    errors = scale * z
    # The residuals of a diverged run may be infinite.
    with np.errstate(invalid="ignore", over="ignore"):
        densities = -0.5 * (np.log(2 * np.pi * scale**2 * noise) + z**2 / noise)
        scores = {
            "rmse": np.sqrt(np.mean(errors**2)),
            "log_likelihood": np.mean(densities),
        }
        if "persistence" in split:
            naive = scale * (split["persistence"] - split["targets"])[:, 0]
            scores |= {
                "mase": np.mean(np.abs(errors) / split["naive_error"]),
                "rmse_to_persistence": scores["rmse"] / np.sqrt(np.mean(naive**2)),
            }
    return {name: float(score) for name, score in scores.items()}
