"""The run of an experiment, as a loop over its trials."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from apalu_jax.experiments.records import Key, Record, Trial
from apalu_jax.experiments.results import Results, open_folder
from apalu_jax.experiments.runner.execute import Executor
from apalu_jax.experiments.runner.parts import DECLARED, Parts
from apalu_jax.experiments.runner.plan import plan, wanted_keys, with_multipliers
from apalu_jax.experiments.runner.runtime import current_setup, pinned_numerics
from apalu_jax.experiments.specs import Spec


def run(
    spec: Spec,
    out: Path,
    *,
    arm_names: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    data_dir: Path | None = None,
    resume: bool = False,
    checkpoint_every_s: float = 60.0,
    parts: Parts = DECLARED,
    progress: Callable[[Trial, float], None] = lambda trial, share: None,
) -> Results:
    """Runs the trials of an experiment that are not recorded yet.

    Args:
      spec: The experiment.
      out: Folder of its declaration, records and checkpoints.
      arm_names: A subset of the declared arms and ablations; None for all.
      seeds: A subset of the declared seeds; None for all.
      data_dir: Folder to look for data in first.
      resume: Whether ``out`` may hold results already; they stay.
      checkpoint_every_s: Seconds between the checkpoints of a trial under way.
      parts: Objects that the names in the spec refer to.
      progress: Called after each epoch with the trial and the share of the work done.

    Returns:
      All results of ``out``.

    Raises:
      ExperimentError: Something requested is not declared; ``out`` holds something else
        or is in use by another process; or data, records or a checkpoint are missing or
        damaged.
      OSError: ``out`` cannot be written; the records that it has stay.
    """
    wanted = wanted_keys(spec, arm_names, seeds)
    with open_folder(out, spec, resume) as results, pinned_numerics():
        trials = plan(results, wanted)
        checkpoints = out / "checkpoints"
        _remove_all_but(checkpoints, {trial.name for trial in trials})
        setup = results.setup_index(current_setup()) if trials else 0
        execute = Executor(
            spec, data_dir, checkpoints, checkpoint_every_s, setup, parts
        )
        for done, planned in enumerate(trials):
            trial = with_multipliers(results, planned)
            if trial is None:
                continue

            def on_share(share: float, done: int = done, trial: Trial = trial) -> None:
                progress(trial, (done + share) / len(trials))

            results.append(_new(results, execute(trial, on_share), wanted))
            execute.checkpoint_path(trial).unlink(missing_ok=True)
        _remove_all_but(checkpoints, {trial.name for trial in plan(results, wanted)})
        return results


def _new(results: Results, records: list[Record], wanted: set[Key]) -> list[Record]:
    """Records that were asked for and are not there yet, each once."""
    finished = results.finished
    new = {
        record.key: record
        for record in records
        if record.key not in finished
        and (record.kind == "search" or record.key in wanted)
    }
    return list(new.values())


def _remove_all_but(folder: Path, names: set[str]) -> None:
    """Removes checkpoints of finished trials and leftovers of a kill."""
    for path in folder.glob("*") if folder.is_dir() else ():
        if path.suffix != ".msgpack" or path.stem not in names:
            path.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()
