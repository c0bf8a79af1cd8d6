"""Loss and metrics of a user's model: those of the package, or own functions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, TypeVar

import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from msgspec.structs import replace

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.data.splits import Batch, Numbers
from apalu_jax.experiments.formatting import first_line
from apalu_jax.experiments.own.datasets import Kind
from apalu_jax.experiments.own.network import Network
from apalu_jax.experiments.records import CHANCE
from apalu_jax.experiments.specs import Metric
from apalu_jax.experiments.tasks.base import (
    DeviceBatch,
    Loss,
    Predictions,
    Task,
    Variables,
    in_batches,
)
from apalu_jax.introspection import Histogram

LossFunction: TypeAlias = Callable[[Array, Array], Array]
"""A loss: numbers from outputs and targets, of which the mean is minimized."""

Scores: TypeAlias = Callable[[Numbers, Numbers], Mapping[str, float]]
"""Metrics by name, from outputs and targets of a whole split on the host."""

_Array = TypeVar("_Array", Array, Numbers)

_EXAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class OwnTask(Task):
    """Loss and metrics of outputs, from batches of ``{"inputs", "targets"}``.

    Attributes:
      network: The user's model.
      loss_function: See :data:`LossFunction`.
      scores: See :data:`Scores`.
      primary: Name of the primary metric.
    """

    # Narrower than a Linen module; nothing of the base class that uses one is called.
    network: Network  # type: ignore[assignment]
    loss_function: LossFunction
    scores: Scores
    primary: str

    def init(
        self, key: Array, batch: DeviceBatch, pretrained: Variables | None = None
    ) -> Variables:
        """Initializes the variables."""
        return self.network.init(key, batch["inputs"])

    def loss(self, variables: Variables, batch: DeviceBatch, key: Array) -> Loss:
        """Mean loss of a batch."""
        outputs, carried = self.network.train(variables, batch["inputs"], key)
        targets = batch["targets"]
        given = f"outputs of shape {outputs.shape} and targets of shape {targets.shape}"
        try:
            losses = self.loss_function(_aligned(outputs, targets), targets)
        except ExperimentError:
            raise
        except Exception as error:
            raise ExperimentError(
                f"`loss` fails with {given}: {first_line(error)}."
            ) from error
        if (
            not isinstance(losses, Array)
            or losses.shape not in ((), targets.shape[: losses.ndim])
            or not jnp.issubdtype(losses.dtype, jnp.floating)
        ):
            got = (
                f"an array of shape {losses.shape} and dtype {losses.dtype}"
                if isinstance(losses, Array)
                else repr(losses)
            )
            raise ExperimentError(
                "`loss` must give one floating-point number, or one for each example, "
                f"got {got} from {given}."
            )
        return jnp.mean(losses), carried

    def predict(self, variables: Variables, split: DeviceBatch) -> DeviceBatch:
        """Outputs of the model, [n, ...]."""
        evaluate = partial(self.network.evaluate, variables)
        return {"outputs": in_batches(evaluate, split["inputs"], _EXAMPLES)}

    def histograms(
        self, variables: Variables, split: DeviceBatch
    ) -> dict[str, Histogram]:
        """Histograms over the first thousand examples."""
        inputs = split["inputs"][:_EXAMPLES]
        return dict(self.network.histograms(variables, inputs))

    def metrics(
        self, predictions: Predictions, split: Batch, validation: Predictions
    ) -> dict[str, float]:
        """Metrics of the outputs, and that of a constant prediction beside them."""
        outputs, targets = predictions["outputs"], split["targets"]
        levels = self.chance_levels(split)
        if not np.isfinite(outputs).all():  # diverged
            return dict.fromkeys(levels, np.nan)
        scores = self.scores(_aligned(outputs, targets), targets)
        return {**scores, CHANCE: levels[CHANCE]}

    def chance_levels(self, split: Batch) -> Mapping[str, float]:
        """Metrics of the best constant prediction: class frequencies, or the mean."""
        targets = split["targets"]
        levels = dict(self.scores(constant_prediction(targets), targets))
        return {**levels, CHANCE: levels[self.primary]}


def constant_prediction(targets: Numbers) -> Numbers:
    """Outputs that do not depend on the example: logits [..., classes], or the mean.

    Examples:
      >>> constant_prediction(np.array([1.0, 3.0]))
      array([2., 2.])
    """
    if np.issubdtype(targets.dtype, np.integer):
        counts = np.bincount(targets.ravel())
        shares = np.maximum(counts / counts.sum(), np.finfo(np.float32).tiny)
        return np.broadcast_to(np.log(shares), (*targets.shape, len(counts)))
    mean = targets.mean(axis=0, dtype=np.float64)
    return np.broadcast_to(mean, targets.shape)


def _aligned(outputs: _Array, targets: Array | Numbers) -> _Array:
    """Outputs [n, 1] as [n] beside targets [n], with which they broadcast to [n, n]."""
    if outputs.shape == (*targets.shape, 1):
        return outputs.reshape(targets.shape)
    return outputs


def cross_entropy(outputs: Array, targets: Array) -> Array:
    """Cross-entropy of logits [..., classes] and classes [...]."""
    _check_shapes(
        outputs.shape[:-1] == targets.shape, outputs, targets, "one axis more than"
    )
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)


def mse(outputs: Array, targets: Array) -> Array:
    """Squared errors."""
    _check_shapes(outputs.shape == targets.shape, outputs, targets, "the same shape as")
    return jnp.square(outputs - targets.astype(outputs.dtype))


def _check_shapes(fit: bool, outputs: Array, targets: Array, wanted: str) -> None:
    if not fit:
        raise ExperimentError(
            f"The outputs of the model must have {wanted} the targets, of shape "
            f"{targets.shape}, got outputs of shape {outputs.shape}."
        )


LOSSES: Mapping[str, LossFunction] = {"cross_entropy": cross_entropy, "mse": mse}


def classification_scores(outputs: Numbers, targets: Numbers) -> dict[str, float]:
    """Accuracy, and the mean of -log p(class) in nats."""
    logits = np.asarray(outputs, np.float64)
    logits = logits - logits.max(axis=-1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    chosen = np.take_along_axis(logs, targets[..., None], axis=-1)
    found = {
        "accuracy": np.mean(logits.argmax(axis=-1) == targets),
        "log_loss": -np.mean(chosen),
    }
    return {name: float(value) for name, value in found.items()}


def regression_scores(outputs: Numbers, targets: Numbers) -> dict[str, float]:
    """Root of the mean squared error, mean absolute error, share of variance."""
    truth = np.asarray(targets, np.float64)
    errors = np.asarray(outputs, np.float64).reshape(truth.shape) - truth
    found = {"rmse": np.sqrt(np.mean(errors**2)), "mae": np.mean(np.abs(errors))}
    if (variance := truth.var()) > 0:
        found["r2"] = 1 - np.mean(errors**2) / variance
    return {name: float(value) for name, value in found.items()}


_SCORES: Mapping[str, Scores] = {
    "accuracy": classification_scores,
    "log_loss": classification_scores,
    "rmse": regression_scores,
    "mae": regression_scores,
    "r2": regression_scores,
}

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(name="accuracy", higher_is_better=True, margin=0.01, percent=True),
        Metric(name="log_loss", higher_is_better=False, margin=0.01),
        Metric(name="rmse", higher_is_better=False, margin=0.01, relative=True),
        Metric(name="mae", higher_is_better=False, margin=0.01, relative=True),
        Metric(name="r2", higher_is_better=True, margin=0.01),
    )
}
"""The metrics of the package, with the margin that counts unless another is given."""

DEFAULT_METRIC = {"cross_entropy": "accuracy", "mse": "rmse"}
"""The metric of a loss, unless another is given."""


def choose_metric(
    loss: object,
    metric: object,
    higher_is_better: bool | None,
    margin: float | None,
) -> Metric:
    """The metric of an experiment, from names or functions.

    Raises:
      ExperimentError: A name is unknown, or something is missing for a function.
    """
    if not callable(loss) and not (isinstance(loss, str) and loss in LOSSES):
        raise ExperimentError(
            f"`loss` must be one of {', '.join(LOSSES)}, or a function of outputs and "
            f"targets, got {loss!r}."
        )
    if metric is None and isinstance(loss, str):
        metric = DEFAULT_METRIC[loss]
    if isinstance(metric, str) and metric in METRICS:
        named = METRICS[metric]
        if higher_is_better not in (None, named.higher_is_better):
            raise ExperimentError(
                f"`higher_is_better` must be {named.higher_is_better} for {metric}, "
                f"got {higher_is_better}."
            )
        return named if margin is None else replace(named, margin=margin)
    if not callable(metric):
        raise ExperimentError(
            f"`metric` must be one of {', '.join(METRICS)}, or a function of outputs "
            f"and targets, got {metric!r}."
        )
    if higher_is_better is None or margin is None:
        raise ExperimentError(
            "`higher_is_better` and `margin` must be given for a function as `metric`, "
            f"got {higher_is_better!r} and {margin!r}."
        )
    name = getattr(metric, "__name__", type(metric).__name__)
    return Metric(name=name, higher_is_better=higher_is_better, margin=margin)


def scores_of(name: str, function: Callable[..., object] | None = None) -> Scores:
    """The function that computes a metric: the package's, or the user's own."""
    if function is None:
        return _SCORES[name]

    def scores(outputs: Numbers, targets: Numbers) -> dict[str, float]:
        value = np.asarray(function(outputs, targets))
        if value.shape or not np.issubdtype(value.dtype, np.number):
            raise ExperimentError(
                f"`metric`: {name} must return one number, got {value!r:.60}."
            )
        return {name: float(value)}

    return scores


def targets_of(loss: str, metric: str) -> Kind:
    """The targets that a loss and a metric need."""
    if loss == "cross_entropy" or _SCORES.get(metric) is classification_scores:
        return "classes"
    if loss == "mse" or _SCORES.get(metric) is regression_scores:
        return "numbers"
    return ""
