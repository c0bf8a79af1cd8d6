"""Execution of a trial: data, compiled functions, training, evaluation, records."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from apalu_jax import introspection
from apalu_jax.experiments import arms, backbones, data, models, tasks
from apalu_jax.experiments.data.splits import Batch, Dataset, Splits
from apalu_jax.experiments.records import History, InputCounts, Record, Trial
from apalu_jax.experiments.runner import runtime
from apalu_jax.experiments.specs import Spec
from apalu_jax.experiments.tasks.base import Task
from apalu_jax.experiments.training import loop, optimizers
from apalu_jax.experiments.training.checkpoint import Checkpoint
from apalu_jax.experiments.training.compiled import Compiled, Stage, compile_training
from apalu_jax.experiments.training.loop import Row, Trained, Training
from apalu_jax.introspection import Histogram

__all__ = ("Executor",)

OnShare = Callable[[float], None]


class Executor:
    """Executes trials; data and compiled functions are shared between them.

    Args:
      spec: The experiment.
      data_dir: Folder to look for data in first.
      checkpoints: Folder of the checkpoints.
      checkpoint_every_s: Seconds between two checkpoints.
      setup: Index of the set-up in the results.
    """

    def __init__(
        self,
        spec: Spec,
        data_dir: Path | None,
        checkpoints: Path,
        checkpoint_every_s: float,
        setup: int,
    ) -> None:
        """Prepares the caches."""
        self._spec, self._data_dir = spec, data_dir
        self._checkpoints, self._every_s = checkpoints, checkpoint_every_s
        self._setup = setup
        self._dataset = functools.lru_cache(maxsize=1)(self._load_dataset)
        self._splits = functools.lru_cache(maxsize=2)(self._make_splits)
        # Units that differ in nothing but data of equal shape share compiled functions.
        size = len(spec.all_arms)
        self._compiled = functools.lru_cache(maxsize=size)(_compile)

    def __call__(self, trial: Trial, on_share: OnShare) -> list[Record]:
        """Trains and evaluates a trial.

        Args:
          trial: The trial, with its learning-rate multipliers.
          on_share: Called with the share of the epochs done.

        Returns:
          One record for each seed, in order. An error of the machine, such as memory
          that runs out, makes records of failed runs.

        Raises:
          ExperimentError: Data or the checkpoint are missing or damaged, or an option
            does not fit.
        """
        try:
            training, label = self.prepare(trial)
            checkpoint = Checkpoint(
                self.checkpoint_path(trial), self._every_s, trial, self._spec.run_hash
            )
            trained = loop.train(
                training,
                trial,
                checkpoint,
                lambda done: on_share(done / training.epochs),
            )
            if trial.kind == "search":
                outcomes = self._searched(trained, len(trial.seeds))
            else:
                outcomes = self._evaluated(trial, training, trained)
            seconds = trained.seconds / len(trial.seeds)
        except jax.errors.JaxRuntimeError as error:
            reason = str(error).splitlines()[0]
            failed = {"value": None, "status": "failed", "error": reason}
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

    def checkpoint_path(self, trial: Trial) -> Path:
        """The file of a trial's checkpoint."""
        return self._checkpoints / f"{trial.name}.msgpack"

    def prepare(self, trial: Trial) -> tuple[Training, str]:
        """Loads the data of a trial and compiles its functions, at first need.

        Args:
          trial: The trial.

        Returns:
          Everything that the trial is trained with, and a label of the data.
        """
        if runtime.is_crowded():
            self._compiled.cache_clear()
            jax.clear_caches()
        variant, unit = trial.variant, trial.unit
        config = self._spec.at(variant, unit)
        dataset = self._dataset(variant, unit)
        # A hashable form of the settings that the compiled functions depend on.
        settings = json.dumps(msgspec.to_builtins(config) | _NOT_COMPILED)
        task, compiled = self._compiled(trial.arm, dataset.outputs, settings)
        training = Training(
            compiled,
            task,
            self._splits(variant, unit, trial.seeds),
            _log_epochs(config.epochs, self._spec.num_log_points),
            self._spec.log_test_curve,
        )
        return training, dataset.label

    def _load_dataset(self, variant: str, unit: str) -> Dataset:
        config = self._spec.at(variant, unit)
        loaded = data.load(config.data, self._data_dir, unit)
        if config.backbone is None:
            return loaded
        backbone = backbones.label(config.backbone, self._data_dir)
        label = "; ".join(filter(None, (loaded.label, backbone)))
        return Dataset(loaded.outputs, loaded.splits, label)

    def _make_splits(
        self, variant: str, unit: str, seeds: tuple[int, ...]
    ) -> list[Splits]:
        options = self._spec.at(variant, unit).backbone
        folds = [self._dataset(variant, unit).splits(seed) for seed in seeds]
        if options is None:
            return folds
        return [backbones.attach(fold, options, self._data_dir) for fold in folds]

    def _searched(self, trained: Trained, count: int) -> list[dict[str, Any]]:
        """Outcome of each run of a search: the metric on the validation split."""
        key = f"validation/{self._spec.metric.name}"
        outcomes = []
        for i in range(count):
            value = trained.rows[-1][key][i]
            sound = np.isfinite([value, *_losses(trained, i)]).all()
            outcomes.append(
                {
                    "value": _rounded(value) if sound else None,
                    "status": "ok" if sound else "diverged",
                }
            )
        return outcomes

    def _evaluated(
        self, trial: Trial, training: Training, trained: Trained
    ) -> list[dict[str, Any]]:
        """Outcome of each evaluated run: test metrics, course, histograms."""
        compiled, task = training.compiled, training.task
        tests = [fold.test for fold in training.splits]
        stacked = loop.stack(tests)
        predictions = jax.device_get(compiled.predict(trained.variables, stacked))
        scores = loop.seed_metrics(task, predictions, tests, trained.predictions)
        sites = introspection.collect(trained.variables["params"])
        histograms = compiled.histograms(trained.variables, stacked) if sites else {}
        outcomes = [
            self._outcome(task, trained, scores, test, i)
            | {"inputs": {site: _counts(h, i) for site, h in histograms.items()}}
            for i, test in enumerate(tests)
        ]
        if trial.seeds[0] == 0:
            first = jax.tree.map(lambda leaf: leaf[0], predictions)
            outcomes[0]["figure_data"] = task.figure_data(first, tests[0])
        return outcomes

    def _outcome(
        self,
        task: Task,
        trained: Trained,
        scores: Mapping[str, NDArray[Any]],
        test: Batch,
        i: int,
    ) -> dict[str, Any]:
        """Value, status and course of run ``i``."""
        values = {name: float(column[i]) for name, column in scores.items()}
        diverged = not np.isfinite([*_losses(trained, i), *values.values()]).all()
        if diverged:
            values = {name: task.chance(name, test) for name in values}
        history = History(
            epochs=trained.epochs,
            **_curves(trained.rows, i),
            test={name: _rounded(value) for name, value in values.items()},
            examples=len(next(iter(test.values()))),
        )
        return {
            "value": values[self._spec.metric.name],
            "status": "diverged" if diverged else "ok",
            "history": history,
        }


_NOT_COMPILED = {"data": None, "backbone": None, "test_train_ratio": None}


def _compile(arm_name: str, outputs: int, settings: str) -> tuple[Task, Compiled]:
    """The task and the compiled functions of an arm, pretraining included."""
    arm, config = arms.get(arm_name), json.loads(settings)

    def build(
        stage: Mapping[str, Any], pretraining: Stage | None = None
    ) -> tuple[Task, Compiled]:
        task = tasks.build(stage["task"], models.build(stage["model"], arm, outputs))
        compiled = compile_training(
            task,
            functools.partial(optimizers.build, stage["optimizer"], arm),
            batch_size=stage["batch_size"],
            epochs=stage["epochs"],
            vmapped=config["vmapped_seeds"] > 1,
            pretraining=pretraining,
        )
        return task, compiled

    first = config.get("pretraining")
    if first is None:
        return build(config)
    return build(config, Stage(build(first)[1], first["epochs"]))


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
    """Numbers for JSON: 6 significant digits, None if not finite."""
    array = np.asarray(values)
    if array.ndim:
        return [_rounded(value) for value in array]
    return float(f"{array:.6g}") if np.isfinite(array) else None
