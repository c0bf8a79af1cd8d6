"""Seeds per hour of the experiments' trainer, beside plain PyTorch."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, nullcontext
from functools import partial
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from apalu_jax._trees import join_keys
from apalu_jax.benchmarks import BenchmarkError, Result, timing, to_result
from apalu_jax.benchmarks.torch_train import Problem, Torch
from apalu_jax.benchmarks.train_cases import CASES, Case
from apalu_jax.experiments import arms, models, tasks
from apalu_jax.experiments.training import optimizers
from apalu_jax.experiments.training.compiled import compile_training

__all__ = ("FUNCTIONS", "Trainer", "measure", "problem")

FUNCTIONS = ("relu", "apalu")
SEEDS = 10  # of an experiment, which share what was compiled

BURST = 0.3  # seconds at least

_COLUMNS = {
    "case": "{case}",
    "function": "{function}",
    "framework": "{framework}",
    "threads": "{threads}",
    "seeds at once": "{seeds}",
    "ms per step and seed": "{milliseconds:.3f}",
    "spread": "{spread:.0%}",
    "seeds per hour": "{seeds_per_hour:,.0f}",
    "to PyTorch": "{to_torch:.2f}",
    "compiling, s": "{compile_s:.1f}",
    "seeds per hour, compiling included": "{compiled_seeds_per_hour:,.0f}",
    "to PyTorch, compiling included": "{compiled_to_torch:.2f}",
}

_NOTES = (
    "The same network, batch size, optimiser and number of steps, from the same "
    "weights on the same synthetic data, in float32 with a constant learning rate; "
    "every epoch draws a new order. A test compares the losses. Cases: {cases}.",
    "JAX: the trainer of `apalu run`, which keeps the memory that a step has freed, "
    "with seeds vmapped where it vmaps them. PyTorch: one seed after another, eager, "
    "its operations called as functions and its optimisers by default; data are in "
    "memory and need no loader. apalu is there the textbook with `torch.where`. The "
    "Elman network is the loop of `torch.nn.RNN` for relu, and a loop in Python for "
    "apalu. PyTorch is timed with one thread and with as many as it takes by default, "
    "in a process of its own; the faster is shown.",
    "A sample is the time of several epochs, over their steps and seeds; all take "
    "turns. Spread: between the quartiles, over the median. Seeds per hour: of whole "
    "runs, validation left out. To PyTorch: ratio of the seeds per hour.",
    f"Compiling: the first epoch with all that precedes it, less a later one, without "
    f"a cache; {SEEDS} seeds share it. What draws weights is compiled once for both "
    "functions.",
)


class Trainer:
    """The experiments' trainer on one case, all its seeds.

    Args:
      case: What is trained.
      function: Name of an arm.

    Attributes:
      first: The variables before the first step, with the seeds along axis 0.
    """

    def __init__(self, case: Case, function: str) -> None:
        """Draws the weights."""
        arm = arms.get(function)
        task = tasks.build(
            {"name": case.task}, models.build(case.model, arm, case.outputs)
        )
        self._program = compile_training(
            task,
            partial(optimizers.build, case.optimizer, arm),
            batch_size=case.batch_size,
            epochs=max(case.steps // case.steps_per_epoch, 1),
            vmapped=case.together > 1,
        )
        self._seeds = jnp.arange(case.together, dtype=jnp.uint32)
        self._factors = jnp.ones(case.together)
        self._part = {
            name: jnp.stack([array] * case.together)
            for name, array in case.data().items()
        }
        self._state = self._program.init(self._seeds, self._part)
        self.first = jax.tree.map(np.asarray, self._state.variables)
        self._done = 0

    def train(self, epochs: int) -> Array:
        """Goes on for some epochs; mean losses of the last one, by seed."""
        self._state, losses = self._program.epochs(
            self._state,
            self._seeds,
            self._factors,
            self._done + 1,
            self._done + epochs,
            self._part,
        )
        self._done += epochs
        return losses.block_until_ready()


def problem(case: Case, function: str, variables: Any) -> Problem:
    """A case as PyTorch's side takes it, for the first of its seeds.

    Args:
      case: What is trained.
      function: Name of an arm, of ``FUNCTIONS``.
      variables: See :class:`Trainer`.

    Returns:
      What the child process is told.
    """
    leaves = jax.tree_util.tree_leaves_with_path(variables["params"])
    return Problem(
        model=case.model,
        function=function,
        optimizer=case.optimizer,
        batch_size=case.batch_size,
        weights={join_keys(keys): leaf[0] for keys, leaf in leaves},
        **case.data(),
    )


def measure(
    cases: Mapping[str, Case] = CASES,
    budget: float = 10.0,
    progress: Callable[[str], None] | None = None,
) -> Result:
    """Times the training of every case, beside PyTorch where it is installed.

    Args:
      cases: By name.
      budget: Seconds of timing for each case, function and framework; exceeded where
        the least number of runs takes more.
      progress: Called with a line on what is done next.

    Returns:
      A result; see :mod:`apalu_jax.benchmarks`.

    Raises:
      BenchmarkError: If PyTorch's process ends while it is timed.
    """
    say = progress or (lambda text: None)
    notes = [note.format(cases=_describe(cases)) for note in _NOTES]
    rows: list[dict[str, Any]] = []
    torch = _start_torch(notes)
    with closing(torch) if torch else nullcontext():
        for name, case in cases.items():
            rows += _measure_case(name, case, torch, budget, say)
    result = to_result("train", _COLUMNS, rows, notes)
    if torch:
        result["setting"]["versions"]["torch"] = torch.version
        result["setting"]["torch_threads"] = torch.threads
    return result


def _start_torch(notes: list[str]) -> Torch | None:
    if timing.on_device() or find_spec("torch") is None:
        why = "is timed on CPU only" if timing.on_device() else "is not installed"
        notes.append(f"Without PyTorch, which {why}.")
        return None
    try:
        return Torch()
    except BenchmarkError as error:
        notes.append(f"Without PyTorch. {error}")
        return None


def _measure_case(
    name: str,
    case: Case,
    torch: Torch | None,
    budget: float,
    say: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    first_s: dict[str, float] = {}
    bursts: dict[tuple[str, int | None], timing.Burst] = {}  # None threads: JAX
    for function in FUNCTIONS:
        say(f"{name}, {function}: compiling")
        start = time.perf_counter()
        trainer = Trainer(case, function)
        trainer.train(1)
        first_s[function] = time.perf_counter() - start
        bursts[function, None] = _burst(
            partial(_seconds, trainer.train), case.steps_per_epoch * case.together
        )
        if torch:
            torch.prepare(function, problem(case, function, trainer.first))
            for threads in {1, torch.threads}:
                seconds = partial(_torch_seconds, torch, function, threads)
                bursts[function, threads] = _burst(seconds, case.steps_per_epoch)
    say(f"{name}: timing")
    samples = timing.interleave(bursts, budget)
    for function in FUNCTIONS:
        found = {
            threads: timing.quartiles(seconds)
            for (of, threads), seconds in samples.items()
            if of == function
        }
        for row in _rows(case, found, first_s[function]):
            yield {"case": name, "function": function} | row


def _rows(
    case: Case, found: dict[int | None, dict[str, float]], first_s: float
) -> list[dict[str, Any]]:
    """JAX's row and PyTorch's, from quartiles by number of threads, None for JAX's."""
    ours = found.pop(None)
    compile_s = first_s - ours["median"] * case.steps_per_epoch * case.together
    rows: list[dict[str, Any]] = [
        {"framework": "jax", "seeds": case.together, "compile_s": compile_s}
        | _rates(case, ours, compile_s)
    ]
    if found:
        threads = min(found, key=lambda threads: found[threads]["median"])
        rows.append(
            {"framework": "torch", "seeds": 1, "threads": threads}
            | _rates(case, found[threads])
        )
        base = rows[-1]["seeds_per_hour"]
        for row in rows:
            row["to_torch"] = row["seeds_per_hour"] / base
            row["compiled_to_torch"] = row["compiled_seeds_per_hour"] / base
    return rows


def _rates(
    case: Case, quartiles: Mapping[str, float], compile_s: float = 0.0
) -> dict[str, float]:
    seconds = quartiles["median"]
    run_s = case.steps * seconds
    return {
        "seconds_per_step_and_seed": seconds,
        "milliseconds": 1e3 * seconds,
        "spread": (quartiles["upper"] - quartiles["lower"]) / seconds,
        "seeds_per_hour": 3600 / run_s,
        "compiled_seeds_per_hour": 3600 / (run_s + compile_s / SEEDS),
    }


def _burst(seconds: Callable[[int], float], steps: int) -> timing.Burst:
    """Trains for as many epochs as ``BURST`` needs; ``steps`` are those of an epoch."""
    seconds(1)
    epochs = math.ceil(BURST / seconds(1))
    return lambda: [seconds(epochs) / (epochs * steps)]


def _seconds(train: Callable[[int], Any], epochs: int) -> float:
    start = time.perf_counter()
    train(epochs)
    return time.perf_counter() - start


def _torch_seconds(torch: Torch, key: str, threads: int, epochs: int) -> float:
    return torch.train(key, threads, epochs)[0]


def _describe(cases: Mapping[str, Case]) -> str:
    return "; ".join(
        f"{name}, batches {' x '.join(map(str, (case.batch_size, *case.shape)))}, "
        f"{case.optimizer['name']}, {case.steps:,} steps"
        for name, case in cases.items()
    )
