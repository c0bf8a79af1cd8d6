"""Trials in several processes."""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple, TypeAlias

import msgspec

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.records import Record, Trial
from apalu_jax.experiments.results import Results
from apalu_jax.experiments.runner import runtime
from apalu_jax.experiments.runner.execute import Executor
from apalu_jax.experiments.runner.parts import DECLARED, Parts
from apalu_jax.experiments.runner.plan import due
from apalu_jax.experiments.runner.state import State
from apalu_jax.experiments.specs import Spec
from apalu_jax.experiments.workers import Workers

Outcome: TypeAlias = tuple[Trial, list[Record]]

_executors: list[Executor] = []  # the one of a worker


class Task(NamedTuple):
    """Arguments of an executor, in this process or another."""

    spec: Spec
    data_dir: Path | None
    checkpoints: Path
    checkpoint_every_s: float
    setup: int
    parts: Parts = DECLARED


def one_by_one(
    task: Task,
    results: Results,
    trials: Sequence[Trial],
    on_state: Callable[[State], None],
) -> Generator[Outcome]:
    """Executes trials here, in order.

    The caller appends the records to ``results``, on which the choice of a learning
    rate depends; an evaluation whose search has failed is left out.
    """
    execute = Executor(*task, on_state=on_state)
    tried = set[Trial]()
    for planned in trials:
        while left := [trial for trial in due(results, planned) if trial not in tried]:
            tried.add(left[0])
            yield left[0], execute(left[0])


def in_processes(
    number: int, task: Task, results: Results, trials: Sequence[Trial]
) -> Generator[Outcome]:
    """Executes trials in so many processes, in the order in which they end.

    An evaluation waits for the search that chooses its learning rate, whose records the
    caller appends to ``results``; it is left out if the search has failed.
    """
    waiting, running = list(trials), dict[Future[bytes], Trial]()
    tried = set[Trial]()
    with Workers(number) as workers:
        while True:
            for trial in _startable(results, waiting, tried, number - len(running)):
                tried.add(trial)
                running[workers.submit(_execute, task, trial)] = trial
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), _result(future)


def _startable(
    results: Results, waiting: list[Trial], tried: set[Trial], count: int
) -> list[Trial]:
    """The first ``count`` trials that wait for none; removes the planned ones."""
    found: list[Trial] = []
    for planned in tuple(waiting):
        if len(found) >= count:
            break
        new = [t for t in due(results, planned) if t not in tried and t not in found]
        found += new[: count - len(found)]
        if any(trial.kind == planned.kind for trial in new):
            waiting.remove(planned)
    return found


def _result(future: Future[bytes]) -> list[Record]:
    try:
        return msgspec.json.decode(future.result(), type=list[Record])
    except BrokenProcessPool as error:
        raise ExperimentError(
            "a process of --jobs was ended, perhaps for lack of memory; what is "
            "recorded stays: continue with --resume."
        ) from error


def _execute(task: Task, trial: Trial) -> bytes:
    """Executes a trial in a worker; gives its records in JSON.

    Pickled ones would lose which fields are at their default, and left out in a file.
    """
    if not _executors:
        runtime.use_compilation_cache()
        runtime.keep_freed()
        _executors.append(Executor(*task))
    with runtime.pinned_numerics():
        return msgspec.json.encode(_executors[0](trial))
