"""From a spec to its records: what is left to do, block by block."""

import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from apalu_jax import introspection
from apalu_jax.experiments import (
    ExperimentError,
    arms,
    checkpoints,
    data,
    models,
    optimizers,
    outcomes,
    records,
    tasks,
    trainer,
)
from apalu_jax.experiments.data.dataset import Dataset, Fold
from apalu_jax.experiments.outcomes import Block
from apalu_jax.experiments.records import Key, Record
from apalu_jax.experiments.specs import Spec
from apalu_jax.experiments.tasks import Task
from apalu_jax.experiments.trainer import Program

__all__ = ("SPEC_NAME", "load_spec", "run")

SPEC_NAME = "spec.json"


def run(
    spec: Spec,
    out: Path,
    *,
    arm_names: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    data_dir: Path | None = None,
    resume: bool = False,
    checkpoint_every_s: float = 60.0,
    progress: Callable[[Block, float], None] = lambda block, share: None,
) -> list[Record]:
    """Runs what is not recorded yet of an experiment.

    Args:
      spec: The experiment.
      out: Folder of its spec, records and checkpoints.
      arm_names: A subset of the declared arms and controls; None for all.
      seeds: A subset of the declared seeds; None for all.
      data_dir: Folder to look for data in first.
      resume: Whether ``out`` may hold something already; what it holds is kept.
      checkpoint_every_s: Seconds between the checkpoints of a block under way.
      progress: Called after each epoch with the block and the share of the work done.

    Returns:
      All records of ``out``.

    Raises:
      ExperimentError: Something asked for is not declared, ``out`` holds something
        else, or data, records or a checkpoint are missing or damaged.
      OSError: ``out`` cannot be written; the records that it has stay.
    """
    chosen_arms = _subset("arms", arm_names, spec.all_arms)
    chosen_seeds = _subset("seeds", seeds, range(spec.seeds))
    wanted = {
        Key(arm, unit, seed)
        for arm in chosen_arms
        for unit in spec.units
        for seed in chosen_seeds
    }
    _open(spec, out, resume)
    path = out / records.FILE_NAME
    missing = wanted - records.finished(records.read(path, spec.config_hash))
    blocks = [block for block in _blocks(spec) if missing.intersection(_keys(block))]
    prepare = _preparation(spec, data_dir)

    for index, block in enumerate(blocks):

        def on_epoch(done: int, index: int = index, block: Block = block) -> None:
            progress(block, (index + done / spec.epochs) / len(blocks))

        checkpoint = out / "checkpoints" / f"{block.name}.msgpack"
        saving = trainer.Saving(checkpoint, checkpoint_every_s)
        try:
            found = _run_block(spec, block, *prepare(block), saving, on_epoch)
        except jax.errors.JaxRuntimeError as error:
            found = outcomes.failed(spec, block, error)
        records.append(path, [record for record in found if record.key in missing])
        checkpoints.remove(checkpoint)
    return records.read(path, spec.config_hash)


def load_spec(out: Path) -> Spec:
    """Reads back under which spec the records of a folder were made.

    Args:
      out: The folder.

    Returns:
      The spec.

    Raises:
      ExperimentError: There is none, or it is damaged.
    """
    path = out / SPEC_NAME
    try:
        return Spec.from_mapping(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise ExperimentError(f"{out} holds no results: {path} is missing.") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ExperimentError(f"{path}: damaged ({error}).") from error


def _run_block(
    spec: Spec,
    block: Block,
    task: Task,
    program: Program,
    folds: Sequence[Fold],
    saving: trainer.Saving,
    on_epoch: Callable[[int], None],
) -> list[Record]:
    trained = trainer.train(
        program, task, block.seeds, folds, spec.epochs, saving, on_epoch
    )
    test_parts = [fold.test for fold in folds]
    test = trainer.stack(test_parts)
    predictions = jax.device_get(program.predict(trained.variables, test))
    scores = trainer.seed_metrics(task, predictions, test_parts)
    sites = introspection.collect(trained.variables["params"])
    histograms = program.histograms(trained.variables, test) if sites else {}
    return outcomes.finished(spec, block, task, trained, scores, histograms, test_parts)


def _preparation(
    spec: Spec, data_dir: Path | None
) -> Callable[[Block], tuple[Task, Program, list[Fold]]]:
    """What a block needs, made at first need and shared with the blocks after it."""

    @functools.lru_cache(maxsize=1)
    def dataset(unit: str) -> Dataset:
        return data.load(spec.data, data_dir, unit)

    @functools.lru_cache(maxsize=1)
    def folds(unit: str, seeds: tuple[int, ...]) -> list[Fold]:
        return [dataset(unit).fold(seed) for seed in seeds]

    @functools.cache
    def compiled(name: str, outputs: int) -> tuple[Task, Program]:
        arm = arms.get(name)
        task = tasks.build(spec.task, models.build(spec.model, arm, outputs))
        program = trainer.compile_program(
            task,
            functools.partial(optimizers.build, spec.optimizer, arm),
            batch_size=spec.batch_size,
            epochs=spec.epochs,
            together=spec.seeds_per_block > 1,
        )
        return task, program

    def prepare(block: Block) -> tuple[Task, Program, list[Fold]]:
        outputs = dataset(block.unit).outputs
        return *compiled(block.arm, outputs), folds(block.unit, block.seeds)

    return prepare


def _blocks(spec: Spec) -> Iterator[Block]:
    """All blocks of a spec, arms innermost: what is done first is complete in pairs."""
    for unit in spec.units:
        for start in range(0, spec.seeds, spec.seeds_per_block):
            stop = min(start + spec.seeds_per_block, spec.seeds)
            for arm in spec.all_arms:
                yield Block(unit, tuple(range(start, stop)), arm)


def _keys(block: Block) -> set[Key]:
    return {Key(block.arm, block.unit, seed) for seed in block.seeds}


def _subset(
    name: str, chosen: Sequence[Any] | None, declared: Sequence[Any]
) -> Sequence[Any]:
    if chosen is None:
        return declared
    unknown = [item for item in chosen if item not in declared]
    if unknown or not chosen:
        text = (
            f"{declared.start}:{declared.stop}"
            if isinstance(declared, range)
            else ", ".join(declared)
        )
        some = ", ".join(map(str, unknown[:5])) or "none"
        raise ExperimentError(f"`{name}` must be among {text}, got {some}.")
    return chosen


def _open(spec: Spec, out: Path, resume: bool) -> None:
    """Makes the folder the spec's own, or finds that it is."""
    if out.is_dir() and any(out.iterdir()) and not resume:
        raise ExperimentError(
            f"{out} is not empty: go on with --resume, or choose another --out."
        )
    out.mkdir(parents=True, exist_ok=True)
    path = out / SPEC_NAME
    if path.exists():
        there = load_spec(out)
        if there.config_hash != spec.config_hash:
            raise ExperimentError(
                f"{path} is of {there.name} ({there.preset}) in another configuration "
                f"({there.config_hash[:12]}, not {spec.config_hash[:12]}): choose "
                "another --out."
            )
        return
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(spec.to_json(indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, path)
