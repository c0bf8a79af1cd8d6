"""Execution of a trial: data, compiled functions, training, evaluation, records."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

import jax
import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from apalu_jax import introspection
from apalu_jax.experiments import backbones
from apalu_jax.experiments.data.splits import Batch, Dataset, Splits
from apalu_jax.experiments.formatting import joined
from apalu_jax.experiments.records import History, InputCounts, Record, Trial
from apalu_jax.experiments.runner import runtime, state
from apalu_jax.experiments.runner.parts import DECLARED, Parts
from apalu_jax.experiments.runner.plan import config_of
from apalu_jax.experiments.runner.state import State
from apalu_jax.experiments.schema import Options
from apalu_jax.experiments.specs import Spec
from apalu_jax.experiments.tasks.base import Task
from apalu_jax.experiments.training import loop
from apalu_jax.experiments.training.checkpoint import Checkpoint
from apalu_jax.experiments.training.compiled import Compiled, Stage, compile_training
from apalu_jax.experiments.training.loop import Row, Trained, Training
from apalu_jax.introspection import Histogram

# Settings that the compiled functions do not depend on.
_NOT_COMPILED = {"data": None, "backbone": None, "test_train_ratio": None}


class _Outcome(TypedDict, total=False):
    """Fields of a record that training fills in."""

    value: float | None
    status: Literal["ok", "diverged", "failed"]
    history: History
    inputs: dict[str, InputCounts]
    figure_data: dict[str, Any]
    error: str


class Executor:
    """Executes trials; data and compiled functions are shared between them."""

    def __init__(
        self,
        spec: Spec,
        data_dir: Path | None,
        checkpoints: Path,
        checkpoint_every_s: float,
        setup: int,
        parts: Parts = DECLARED,
        *,
        on_state: Callable[[State], None] = lambda state: None,
    ) -> None:
        """Prepares the caches; ``setup`` is the index of the set-up in the results."""
        self._on_state = on_state
        self._spec, self._data_dir, self._parts = spec, data_dir, parts
        self._checkpoints, self._every_s = checkpoints, checkpoint_every_s
        self._setup = setup
        self._dataset = functools.lru_cache(maxsize=1)(self._load_dataset)
        self._splits = functools.lru_cache(maxsize=2)(self._make_splits)
        # Units that differ in nothing but data of equal shape share compiled functions.
        # A search that is shorter than an evaluation has its own.
        size = 2 * len(spec.all_arms)
        self._compiled = functools.lru_cache(maxsize=size)(_compile)

    def __call__(self, trial: Trial) -> list[Record]:
        """Trains and evaluates a trial; gives one record for each seed, in order.

        An error of the machine, such as memory that runs out, makes records of failed
        runs.
        """
        outcomes: Sequence[_Outcome]
        try:
            compiled = self._compiled.cache_info().misses
            training, label = self.prepare(trial)
            is_new = self._compiled.cache_info().misses > compiled
            checkpoint = Checkpoint(
                self._checkpoints / trial.file_name,
                self._every_s,
                trial,
                self._spec.run_hash,
            )
            trained = loop.train(
                training,
                trial,
                checkpoint,
                lambda epoch, loss: self._on_state(
                    State(
                        trial,
                        _stage(trial, is_new and epoch == 0),
                        epoch,
                        training.epochs,
                        loss,
                    )
                ),
            )
            if trial.kind == "search":
                outcomes = self._searched(trained)
            else:
                outcomes = self._evaluated(trial, training, trained)
            seconds = trained.seconds / len(trial.seeds)
        except jax.errors.JaxRuntimeError as error:
            reason = str(error).splitlines()[0]
            failed = _Outcome(value=None, status="failed", error=reason)
            outcomes, label, seconds = [failed] * len(trial.seeds), "", 0.0
        return [
            Record(
                arm=trial.arm,
                variant=trial.variant,
                unit=trial.unit,
                seed=seed,
                kind=trial.kind,
                lr_multiplier=multiplier,
                setup=self._setup,
                run_hash=self._spec.run_hash,
                declaration_hash=self._spec.declaration_hash,
                data=label,
                wall_s=round(seconds, 3),
                **outcome,
            )
            for seed, multiplier, outcome in zip(
                trial.seeds, trial.lr_multipliers, outcomes, strict=True
            )
        ]

    def prepare(self, trial: Trial) -> tuple[Training, str]:
        """All that a trial is trained with, from the caches or made; a data label."""
        if runtime.is_crowded():
            self._compiled.cache_clear()
            jax.clear_caches()
        config = config_of(self._spec, trial)
        self._on_state(State(trial, "backbone" if config.backbone else "data"))
        dataset = self._dataset(trial.variant, trial.unit)
        # A hashable form of the settings that the compiled functions depend on.
        settings = json.dumps(msgspec.to_builtins(config) | _NOT_COMPILED)
        task, compiled = self._compiled(
            self._parts, trial.arm, dataset.outputs, settings
        )
        training = Training(
            compiled,
            task,
            self._splits(
                trial.variant,
                trial.unit,
                tuple(map(self._spec.split_seed, trial.seeds)),
            ),
            _log_epochs(config.epochs, self._spec.num_log_points),
            # A search must not see the test part.
            self._spec.log_test_curve and trial.kind == "evaluation",
        )
        return training, dataset.label

    def _load_dataset(self, variant: str, unit: str) -> Dataset:
        config = self._spec.at(variant, unit)
        loaded = self._parts.dataset(config.data, self._data_dir, unit)
        if config.backbone is None:
            return loaded
        backbone = backbones.label(config.backbone, self._data_dir)
        label = joined(loaded.label, backbone, by="; ")
        return Dataset(loaded.outputs, loaded.splits, label)

    def _make_splits(
        self, variant: str, unit: str, seeds: tuple[int, ...]
    ) -> list[Splits]:
        options = self._spec.at(variant, unit).backbone
        folds = [self._dataset(variant, unit).splits(seed) for seed in seeds]
        if options is None:
            return folds
        return [backbones.attach(fold, options, self._data_dir) for fold in folds]

    def _searched(self, trained: Trained) -> list[_Outcome]:
        """Outcome of each run of a search: the metric on the validation split."""
        values = trained.rows[-1][f"validation/{self._spec.metric.name}"]
        return [
            _Outcome(value=float(value), status="ok")
            if np.isfinite([value, *_losses(trained, i)]).all()
            else _Outcome(value=None, status="diverged")
            for i, value in enumerate(values)
        ]

    def _evaluated(
        self, trial: Trial, training: Training, trained: Trained
    ) -> list[_Outcome]:
        """Outcome of each evaluated run: test metrics, curves, histograms."""
        compiled, task = training.compiled, training.task
        tests = [fold.test for fold in training.splits]
        stacked = loop.stack(tests)
        predictions = jax.device_get(compiled.predict(trained.variables, stacked))
        scores = loop.seed_metrics(task, predictions, tests, trained.predictions)
        sites = introspection.collect(trained.variables["params"])
        histograms = compiled.histograms(trained.variables, stacked) if sites else {}
        outcomes = [
            self._outcome(task, trained, scores, test, i)
            for i, test in enumerate(tests)
        ]
        for i, outcome in enumerate(outcomes):
            outcome["inputs"] = {site: _counts(h, i) for site, h in histograms.items()}
        if trial.seeds[0] == self._spec.first_seed:
            first = jax.tree.map(lambda leaf: leaf[0], predictions)
            outcomes[0]["figure_data"] = task.figure_data(first, tests[0])
        return outcomes

    def _outcome(
        self,
        task: Task,
        trained: Trained,
        scores: Mapping[str, NDArray[np.generic]],
        test: Batch,
        i: int,
    ) -> _Outcome:
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
            examples=len(next(iter(test.values()))),
        )
        return _Outcome(
            value=values[self._spec.metric.name],
            status="diverged" if diverged else "ok",
            history=history,
        )


def _compile(
    parts: Parts, arm_name: str, outputs: int, settings: str
) -> tuple[Task, Compiled]:
    """The task and the compiled functions of an arm, pretraining included."""
    config = json.loads(settings)

    def build(
        stage: Options, pretraining: Stage | None = None
    ) -> tuple[Task, Compiled]:
        task = parts.task(stage, arm_name, outputs)
        compiled = compile_training(
            task,
            parts.optimizer(stage["optimizer"], arm_name),
            batch_size=stage["batch_size"],
            epochs=stage["epochs"],
            vmapped=config["vmapped_seeds"] > 1,
            drop_last=config.get("drop_last", True),
            pretraining=pretraining,
        )
        return task, compiled

    first = config.get("pretraining")
    if first is None:
        return build(config)
    return build(config, Stage(build(first)[1], first["epochs"]))


def _stage(trial: Trial, compiles: bool) -> state.Stage:
    if compiles:
        return "compile"
    return "search" if trial.kind == "search" else "train"


def _log_epochs(epochs: int, points: int) -> list[int]:
    """Epochs after which values are logged: evenly spaced, the last one included."""
    count = min(epochs, points)
    return [round(epochs * i / count) for i in range(1, count + 1)]


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
