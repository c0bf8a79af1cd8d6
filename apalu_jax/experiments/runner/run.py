"""The run of an experiment, as a loop over its trials."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.records import Key, Record
from apalu_jax.experiments.results import CHECKPOINTS, Results, open_folder
from apalu_jax.experiments.runner.parallel import Task, in_processes, one_by_one
from apalu_jax.experiments.runner.parts import DECLARED, Parts
from apalu_jax.experiments.runner.plan import plan, wanted_keys
from apalu_jax.experiments.runner.runtime import current_setup, pinned_numerics
from apalu_jax.experiments.runner.state import State
from apalu_jax.experiments.specs import Spec


def run(
    spec: Spec,
    out: Path,
    *,
    arm_names: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    data_dir: Path | None = None,
    resume: bool = False,
    force: bool = False,
    jobs: int = 1,
    checkpoint_every_s: float = 60.0,
    parts: Parts = DECLARED,
    progress: Callable[[State], None] = lambda state: None,
) -> Results:
    """Runs the trials of an experiment that are not recorded yet.

    Args:
      spec: The experiment.
      out: Folder of its declaration, records and checkpoints.
      arm_names: A subset of the declared arms and ablations; None for all.
      seeds: A subset of the declared seeds; None for all.
      data_dir: Folder to look for data in first.
      resume: Whether ``out`` may hold results already; they stay.
      force: Whether results that ``out`` holds are removed first.
      jobs: Number of processes, each of one core, that share the trials. The records
        are those of one process, in the order in which they end.
      checkpoint_every_s: Seconds between the checkpoints of a trial under way.
      parts: Objects that the names in the spec refer to; those of the package with
        several ``jobs``.
      progress: Called whenever a stage or a logged epoch begins; with several ``jobs``,
        whenever a trial ends.

    Returns:
      All results of ``out``.

    Raises:
      ExperimentError: Something requested is not declared; ``out`` holds something else
        or is in use by another process; or data, records or a checkpoint are missing or
        damaged.
      OSError: ``out`` cannot be written; the records that it has stay.
    """
    if jobs > 1 and parts is not DECLARED:
        raise ExperimentError(
            "`jobs` must be 1 for an experiment of your own, whose functions may be "
            f"known to this process alone, got {jobs}."
        )
    wanted = wanted_keys(spec, arm_names, seeds)
    folder = open_folder(out, spec, resume=resume, force=force)
    with folder as results, pinned_numerics():
        trials = plan(results, wanted)
        checkpoints = out / CHECKPOINTS
        _remove_all_but(checkpoints, {trial.name for trial in trials})
        setup = results.setup_index(current_setup()) if trials else 0
        task = Task(spec, data_dir, checkpoints, checkpoint_every_s, setup, parts)
        done = 0

        def tell(state: State) -> None:
            progress(state._replace(done=done, trials=max(len(trials), done)))

        if jobs > 1:
            outcomes = in_processes(jobs, task, results, trials)
        else:
            outcomes = one_by_one(task, results, trials, tell)
        with contextlib.closing(outcomes):
            for trial, records in outcomes:
                results.append(_new(results, records, wanted))
                (checkpoints / trial.file_name).unlink(missing_ok=True)
                done += 1
                if jobs > 1:
                    tell(State(trial, "train"))
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
