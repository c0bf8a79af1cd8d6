"""Execution of a trial: data, compiled functions, training, evaluation, records."""

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import msgspec

from apalu_jax.experiments import backbones
from apalu_jax.experiments.data.splits import Dataset, Splits
from apalu_jax.experiments.formatting import joined
from apalu_jax.experiments.records import Record, Trial
from apalu_jax.experiments.runner import runtime, state
from apalu_jax.experiments.runner.outcomes import (
    Outcome,
    check_metrics,
    evaluated,
    searched,
)
from apalu_jax.experiments.runner.parts import DECLARED, Parts
from apalu_jax.experiments.runner.plan import config_of
from apalu_jax.experiments.runner.state import State
from apalu_jax.experiments.schema import Options
from apalu_jax.experiments.specs import Spec
from apalu_jax.experiments.tasks.base import Task
from apalu_jax.experiments.training import loop
from apalu_jax.experiments.training.checkpoint import Checkpoint
from apalu_jax.experiments.training.compiled import Compiled, Stage, compile_training
from apalu_jax.experiments.training.loop import Training

# Settings that the compiled functions do not depend on.
_NOT_COMPILED = {"data": None, "backbone": None, "test_train_ratio": None}


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
        outcomes: Sequence[Outcome]
        try:
            compiled = self._compiled.cache_info().misses
            training, label = self.prepare(trial)
            is_new = self._compiled.cache_info().misses > compiled
            if is_new:
                check_metrics(self._spec, training)
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
                outcomes = searched(self._spec, trained)
            else:
                outcomes = evaluated(self._spec, trial, training, trained)
            seconds = trained.seconds / len(trial.seeds)
        except jax.errors.JaxRuntimeError as error:
            reason = str(error).splitlines()[0]
            failed = Outcome(value=None, status="failed", error=reason)
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
