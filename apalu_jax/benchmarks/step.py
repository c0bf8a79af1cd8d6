"""Training steps of whole networks: time, memory traffic, temporary memory."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from apalu_jax.benchmarks import BenchmarkError, Result, timing, to_result
from apalu_jax.benchmarks.functions import FUNCTIONS, chosen
from apalu_jax.benchmarks.networks import (
    LARGE,
    SMALL,
    Network,
    State,
    batches,
    training_step,
)

__all__ = ("REFERENCE", "measure", "needs", "to_reference")

REFERENCE = "relu"

STEPS = 5  # in a row, for one sample of the time

_COLUMNS = {
    "network": "{network}",
    "dtype": "{dtype}",
    "function": "{function}",
    "median, ms": "{milliseconds:.1f}",
    "spread": "{spread:.0%}",
    "to relu": "{time_to_relu:.2f}",
    "bytes, MB": "{megabytes:,.1f}",
    "bytes to relu": "{bytes_to_relu:.3f}",
    "temporary, MB": "{temporary_megabytes:,.1f}",
    "temporary to relu": "{temporary_to_relu:.3f}",
}

_NOTES = (
    "A step: cross-entropy, its gradients, and SGD with momentum on all parameters, "
    "those of the activations among them; the memory of the state is handed on.",
    f"A sample of the time is the mean of {STEPS} steps in a row. The functions take "
    "turns. Spread: between the quartiles, over the median.",
    "Bytes: what the compiled step reads and writes by the compiler's own count, which "
    "counts the body of a scan once. Temporary: memory beside arguments and results.",
)


def measure(
    networks: Mapping[str, Network] | None = None,
    functions: Iterable[str] | None = None,
    budget: float = 2.0,
    progress: Callable[[str], None] | None = None,
) -> Result:
    """Measures the training step of every network with every function.

    It computes in float32 on CPU and in bfloat16 elsewhere.

    Args:
      networks: The networks by name; if left out, those of
        :mod:`apalu_jax.benchmarks.networks` in the size for the platform.
      functions: Names in :data:`~apalu_jax.benchmarks.functions.FUNCTIONS`, all if left
        out; relu, which the others are compared with, comes first in any case.
      budget: Seconds of timing for each function and network; exceeded where the least
        number of runs takes more.
      progress: Called with a line on what is measured next.

    Returns:
      A result; see :mod:`apalu_jax.benchmarks`.

    Raises:
      BenchmarkError: If a function is unknown, or the platform's compiler does not tell
        what a program needs.
    """
    device = timing.on_device()
    networks = networks or (LARGE if device else SMALL)
    dtype = "bfloat16" if device else "float32"
    names = chosen(functions, REFERENCE)
    rows: list[dict[str, Any]] = []
    for title, network in networks.items():
        group: dict[str, dict[str, Any]] = {}
        bursts: dict[str, timing.Burst] = {}
        for name in names:
            if progress:
                progress(f"{title}, {name}: compiling")
            step, first = training_step(network, FUNCTIONS[name], dtype)
            compiled = step.lower(*jax.eval_shape(first)).compile()
            which = {"network": title, "function": name, "dtype": dtype}
            group[name] = which | needs(compiled)
            bursts[name] = _burst(compiled, *first())
        if progress:
            progress(f"{title}: timing")
        for name, samples in timing.interleave(bursts, budget).items():
            group[name] |= timing.quartiles(samples)
        rows += [_finished(row, group[REFERENCE]) for row in group.values()]
    notes = [*_NOTES, f"Batches: {batches(networks)}."]
    return to_result("step", _COLUMNS, rows, notes)


def needs(compiled: Any) -> dict[str, float]:
    """Bytes and memory of a compiled program, by its compiler.

    Args:
      compiled: Of ``jax.jit(...).lower(...).compile()``.

    Returns:
      ``bytes`` accessed, and bytes of ``temporary`` memory.

    Raises:
      BenchmarkError: If the compiler does not tell.
    """
    costs, memory = compiled.cost_analysis(), compiled.memory_analysis()
    if not costs or "bytes accessed" not in costs or memory is None:
        raise BenchmarkError("the platform must tell the costs of compiled programs.")
    return {
        "bytes": costs["bytes accessed"],
        "temporary": float(memory.temp_size_in_bytes),
    }


def to_reference(row: Mapping[str, Any], reference: Mapping[str, Any]) -> Any:
    """Ratios of bytes and temporary memory to those of the reference.

    Args:
      row: With what :func:`needs` gives.
      reference: Likewise.

    Returns:
      ``bytes_to_relu`` and ``temporary_to_relu``, where that is defined.
    """
    return {
        f"{key}_to_relu": row[key] / reference[key]
        for key in ("bytes", "temporary")
        if reference[key]
    }


def _burst(compiled: Any, state: State, *batch: Any) -> timing.Burst:
    def burst() -> list[float]:
        nonlocal state
        start = time.perf_counter()
        for _ in range(STEPS):
            state, _ = compiled(state, *batch)
        jax.block_until_ready(state)
        return [(time.perf_counter() - start) / STEPS]

    burst()
    return burst


def _finished(row: dict[str, Any], reference: Mapping[str, Any]) -> dict[str, Any]:
    row |= to_reference(row, reference)
    row["megabytes"] = row["bytes"] / 1e6
    row["temporary_megabytes"] = row["temporary"] / 1e6
    if "median" in row:
        row["milliseconds"] = 1e3 * row["median"]
        row["spread"] = (row["upper"] - row["lower"]) / row["median"]
        row["time_to_relu"] = row["median"] / reference["median"]
    return row
