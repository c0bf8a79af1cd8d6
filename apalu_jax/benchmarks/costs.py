"""Costs of compiled programs, by the count of their compiler."""

from typing import NamedTuple

import jax

from apalu_jax.benchmarks import BenchmarkError, ratios

__all__ = ("Costs", "compiled_costs", "cost_row")


class Costs(NamedTuple):
    """Bytes accessed, bytes of temporary memory, and number of transcendentals.

    The body of a scan counts once. Temporary memory is besides arguments and results.
    Transcendentals are exponentials, tangents and the like, divisions not among them.
    """

    bytes: float
    temporary: float
    transcendentals: float


def compiled_costs(compiled: jax.stages.Compiled) -> Costs:
    """Costs of a program; a BenchmarkError if the platform's compiler counts none."""
    costs, memory = compiled.cost_analysis(), compiled.memory_analysis()
    if not costs or "bytes accessed" not in costs or memory is None:
        raise BenchmarkError("the platform must report the costs of compiled programs.")
    return Costs(
        bytes=costs["bytes accessed"],
        temporary=float(memory.temp_size_in_bytes),
        # A program without any leaves the name out.
        transcendentals=costs.get("transcendentals", 0.0),
    )


def cost_row(costs: Costs, relu: Costs | None = None) -> dict[str, float]:
    """Bytes and memory as a row has them, with the ratios to ReLU's if given."""
    row = {"bytes": costs.bytes, "temporary": costs.temporary}
    megabytes = {
        "megabytes": costs.bytes / 1e6,
        "temporary_megabytes": costs.temporary / 1e6,
    }
    return row | (ratios(row, relu._asdict(), "relu") if relu else {}) | megabytes
