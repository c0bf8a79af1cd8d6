"""Outcomes of trained runs: values, metrics, curves, histograms."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypedDict

import jax
import numpy as np
from msgspec.structs import replace
from numpy.typing import ArrayLike, NDArray

from apalu_jax import introspection
from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.data.splits import Batch
from apalu_jax.experiments.records import IN_TRAINING, History, InputCounts, Trial
from apalu_jax.experiments.specs import Spec
from apalu_jax.experiments.tasks.base import Task
from apalu_jax.experiments.training import loop
from apalu_jax.experiments.training.loop import Row, Trained, Training
from apalu_jax.introspection import Histogram

_Scores: TypeAlias = Mapping[str, NDArray[np.generic]]
"""One number for each seed, by metric."""


class Outcome(TypedDict, total=False):
    """Fields of a record that training fills in."""

    value: float | None
    status: Literal["ok", "diverged", "failed"]
    history: History
    inputs: dict[str, InputCounts]
    figure_data: dict[str, Any]
    error: str


def check_metrics(spec: Spec, training: Training) -> None:
    """Raises if a declared metric is none of the task's, before anything is trained."""
    known = training.task.chance_levels(training.splits[0].test)
    declared = {
        "metric": [spec.metric.name],
        "secondary_metrics": [metric.name for metric in spec.secondary_metrics],
        "monitors": [name.removeprefix(IN_TRAINING) for name in spec.monitors],
    }
    for field, names in declared.items():
        for name in names:
            if name not in known:
                raise ExperimentError(
                    f"`{field}` must be one of {', '.join(known)}, got {name!r}."
                )


def searched(spec: Spec, trained: Trained) -> list[Outcome]:
    """Outcome of each run of a search: the metric on the validation split."""
    values = trained.rows[-1][f"validation/{spec.metric.name}"]
    return [
        Outcome(value=float(value), status="ok")
        if np.isfinite([value, *_losses(trained, i)]).all()
        else Outcome(value=None, status="diverged")
        for i, value in enumerate(values)
    ]


def evaluated(
    spec: Spec, trial: Trial, training: Training, trained: Trained
) -> list[Outcome]:
    """Outcome of each evaluated run: test metrics, curves, histograms."""
    compiled, task = training.compiled, training.task
    tests = [fold.test for fold in training.splits]
    stacked = loop.stack(tests)
    predictions = jax.device_get(compiled.predict(trained.variables, stacked))
    scores = loop.seed_metrics(task, predictions, tests, trained.predictions)
    sites = introspection.collect(trained.variables["params"])
    histograms = compiled.histograms(trained.variables, stacked) if sites else {}
    on_training = _on_training(spec, training, trained)
    metric = spec.metric.name
    outcomes = [
        _outcome(task, metric, trained, scores, test, i) for i, test in enumerate(tests)
    ]
    for i, outcome in enumerate(outcomes):
        train_end = {name: _rounded(column[i]) for name, column in on_training.items()}
        outcome["history"] = replace(outcome["history"], train_end=train_end)
        outcome["inputs"] = {site: _counts(h, i) for site, h in histograms.items()}
    if trial.seeds[0] == spec.first_seed:
        first = jax.tree.map(lambda leaf: leaf[0], predictions)
        outcomes[0]["figure_data"] = task.figure_data(first, tests[0])
    return outcomes


def _on_training(spec: Spec, training: Training, trained: Trained) -> _Scores:
    """Metrics on training examples, as many as are tested, if a monitor is one."""
    if not any(name.startswith(IN_TRAINING) for name in spec.monitors):
        return {}
    some = [
        {name: array[: _size(fold.test)] for name, array in fold.train.items()}
        for fold in training.splits
    ]
    predictions = jax.device_get(
        training.compiled.predict(trained.variables, loop.stack(some))
    )
    return loop.seed_metrics(training.task, predictions, some, trained.predictions)


def _outcome(
    task: Task, metric: str, trained: Trained, scores: _Scores, test: Batch, i: int
) -> Outcome:
    """Value, status and curves of run ``i``."""
    values = {name: float(column[i]) for name, column in scores.items()}
    diverged = not np.isfinite([*_losses(trained, i), *values.values()]).all()
    if diverged:
        values = {name: task.chance(name, test) for name in values}
    history = History(
        epochs=trained.epochs,
        **_curves(trained.rows, i),
        # In full: shares of examples tie exactly, their roundings do not.
        test={**values},
        examples=_size(test),
    )
    return Outcome(
        value=values[metric],
        status="diverged" if diverged else "ok",
        history=history,
    )


def _size(split: Batch) -> int:
    """Number of examples."""
    return len(next(iter(split.values())))


def _losses(trained: Trained, i: int) -> list[float]:
    return [row["train/loss"][i] for row in trained.rows[1:]]


def _curves(rows: Sequence[Row], i: int) -> dict[str, dict[str, Any]]:
    """Curves of run ``i``: by split and metric, and by site and parameter."""
    curves: dict[str, dict[str, Any]] = {}
    for key in rows[-1]:
        group, _, name = key.partition("/")
        path = [_rounded(row[key][i]) for row in rows if key in row]
        if group == "activations":
            site, _, name = name.rpartition("/")
            curves.setdefault(group, {}).setdefault(site, {})[name] = path
        else:
            curves.setdefault(group, {})[name] = path
    return curves


def _counts(histogram: Histogram, i: int) -> InputCounts:
    return InputCounts(
        low=histogram.low,
        high=histogram.high,
        counts=histogram.counts[i].tolist(),
        below=int(histogram.underflow[i]),
        above=int(histogram.overflow[i]),
        nan=int(histogram.nan[i]),
    )


def _rounded(values: ArrayLike) -> Any:
    """Numbers of curves for JSON: 6 significant digits, None if not finite."""
    array = np.asarray(values)
    if array.ndim:
        return [_rounded(value) for value in array]
    return float(f"{array:.6g}") if np.isfinite(array) else None
