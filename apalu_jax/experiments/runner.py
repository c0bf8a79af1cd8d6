"""From a spec to its records: what is left to do, block by block."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from apalu_jax import introspection
from apalu_jax.experiments import (
    ExperimentError,
    checkpoints,
    outcomes,
    records,
    trainer,
)
from apalu_jax.experiments.jobs import Job, preparation
from apalu_jax.experiments.outcomes import Block
from apalu_jax.experiments.records import Key, Record
from apalu_jax.experiments.specs import Spec
from apalu_jax.experiments.tuning import Search

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
        Key(arm, variant, unit, seed)
        for arm in chosen_arms
        for variant in spec.variants
        for unit in spec.units
        for seed in chosen_seeds
    }
    _open(spec, out, resume)
    path = out / records.FILE_NAME
    missing = wanted - records.finished(records.read(path, spec.config_hash))
    blocks = [block for block in _blocks(spec) if missing.intersection(_keys(block))]
    prepare = preparation(spec, data_dir)
    search = Search(spec, out)

    for index, block in enumerate(blocks):

        def on_share(done: float, index: int = index, block: Block = block) -> None:
            progress(block, (index + done) / len(blocks))

        checkpoint = out / "checkpoints" / f"{block.name}.msgpack"
        saving = trainer.Saving(checkpoint, checkpoint_every_s)
        try:
            factor = search.factor(block, prepare, saving, on_share)
            job = prepare(block.variant, block.unit, block.arm, block.seeds)
            found = _evaluate(spec, block, factor, job, saving, on_share)
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


def _evaluate(
    spec: Spec,
    block: Block,
    factor: float,
    job: Job,
    saving: trainer.Saving,
    on_share: Callable[[float], None],
) -> list[Record]:
    trained = job.train(block.seeds, [factor] * len(block.seeds), saving, on_share)
    test_parts = [fold.test for fold in job.folds]
    test = trainer.stack(test_parts)
    predictions = jax.device_get(job.program.predict(trained.variables, test))
    scores = trainer.seed_metrics(
        job.task, predictions, test_parts, trained.predictions
    )
    exhibit = {}
    if block.seeds[0] == 0:
        first = jax.tree.map(lambda leaf: leaf[0], predictions)
        exhibit = job.task.exhibit(first, test_parts[0])
    sites = introspection.collect(trained.variables["params"])
    histograms = job.program.histograms(trained.variables, test) if sites else {}
    return outcomes.finished(
        spec,
        block,
        factor,
        job.task,
        trained,
        scores,
        histograms,
        test_parts,
        job.label,
        exhibit,
    )


def _blocks(spec: Spec) -> Iterator[Block]:
    """All blocks of a spec, arms innermost: what is done first is complete in pairs."""
    for variant in spec.variants:
        for unit in spec.units:
            size = spec.at(variant, unit).seeds_per_block
            for start in range(0, spec.seeds, size):
                seeds = tuple(range(start, min(start + size, spec.seeds)))
                for arm in spec.all_arms:
                    yield Block(variant, unit, seeds, arm)


def _keys(block: Block) -> set[Key]:
    return {Key(block.arm, block.variant, block.unit, seed) for seed in block.seeds}


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
