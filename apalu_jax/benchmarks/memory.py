"""Memory of an activation in training, and costs of any compiled program."""

from collections.abc import Iterable
from functools import partial
from itertools import product
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from apalu_jax.benchmarks import (
    BenchmarkError,
    Progress,
    Result,
    Row,
    quiet,
    ratios,
    to_result,
)
from apalu_jax.benchmarks.functions import FUNCTIONS, Function, Params, choose, to_spec

Regime: TypeAlias = Literal["unrolled", "scan", "remat"]

REGIMES: dict[Regime, str] = {
    "unrolled": "unrolled",
    "scan": "scan",
    "remat": "scan with remat",
}
ORDERS: dict[str, str] = {"before": "act(h) @ w", "after": "act(h @ w)"}

_KEPT = {dtype: f"kept_{dtype}" for dtype in ("float32", "bfloat16")}
_COLUMNS = {
    "function": "{function}",
    **{f"saved, {dtype}": f"{{{key}:.3g}}" for dtype, key in _KEPT.items()},
    **{
        f"{way}, `{block}`": f"{{{regime}_{order}:.1f}} "
        f"({{{regime}_{order}_to_relu:.2f}}x"
        + (f", {{{regime}_{order}_to_gelu:.2f}}x gelu)" if way == "unrolled" else ")")
        for regime, way in REGIMES.items()
        for order, block in ORDERS.items()
    },
}
_NOTES = (
    "Saved: bytes per element of x in the arrays of its size that `jax.vjp` of the "
    "jitted activation holds for the backward pass, x itself included if held.",
    "The others: temporary memory of the compiled gradient of {blocks} blocks, in "
    "float32 activations of {rows} x {width}, and its ratio to relu's; for unrolled "
    "blocks also to gelu's. The gradient is for the weights and the parameters of each "
    "block's activation. Blocks are unrolled by a Python loop, or run by "
    "`jax.lax.scan`; with remat, `jax.checkpoint` is around each.",
)


def measure(
    rows: int = 8192,
    width: int = 512,
    blocks: int = 8,
    functions: Iterable[str] | None = None,
    progress: Progress = quiet,
) -> Result:
    """Compile gradients of blocks with every activation; relu and gelu in any case."""
    found: dict[str, dict[str, float]] = {}
    for name in choose(functions, "relu", "gelu"):
        progress(name)
        needed = partial(temporary, FUNCTIONS[name], rows, width, blocks)
        found[name] = {
            f"{regime}_{order}": needed(regime=regime, before=order == "before")
            for regime, order in product(REGIMES, ORDERS)
        }
    table: list[Row] = [
        {
            "function": name,
            **{
                key: bytes_saved(FUNCTIONS[name], dtype) for dtype, key in _KEPT.items()
            },
            **row,
            **ratios(row, found["relu"], "relu"),
            **ratios(row, found["gelu"], "gelu"),
        }
        for name, row in found.items()
    ]
    notes = [note.format(rows=rows, width=width, blocks=blocks) for note in _NOTES]
    return to_result("memory", _COLUMNS, table, notes)


def bytes_saved(function: Function, dtype: DTypeLike, size: int = 2**12) -> float:
    """Bytes saved for the backward pass per element of ``x``, in arrays of its size."""
    x = jnp.linspace(-3, 3, size, dtype=dtype).reshape(-1, 16)
    _, pull = jax.vjp(jax.jit(function.call), x, function.params(16))
    # Two leaves may share one buffer.
    large = {
        v.unsafe_buffer_pointer(): v.nbytes
        for v in jax.tree.leaves(pull)
        if v.size == size
    }
    return float(sum(large.values()) / size)


def temporary(
    function: Function,
    rows: int,
    width: int,
    blocks: int,
    *,
    regime: Regime,
    before: bool,
) -> float:
    """Temporary memory of a compiled gradient, in activations of ``rows x width``."""

    def block(h: Array, layer: tuple[Array, Params]) -> tuple[Array, None]:
        w, p = layer
        return (function.call(h, p) @ w if before else function.call(h @ w, p)), None

    def loss(layers: tuple[Array, Params], x: Array) -> Array:
        if regime == "unrolled":
            h = x
            for i in range(blocks):
                h, _ = block(h, jax.tree.map(lambda leaf, i=i: leaf[i], layers))
        else:
            # A scan keeps the two passes apart: no barrier against CSE need do it.
            remat = jax.checkpoint(block, prevent_cse=False)
            h, _ = jax.lax.scan(remat if regime == "remat" else block, x, layers)
        return jnp.sum(h * h)

    layers = to_spec(blocks, width, width), function.specs(width, (blocks,))
    compiled = jax.jit(jax.grad(loss)).lower(layers, to_spec(rows, width)).compile()
    return compiled_costs(compiled).temporary / (4 * rows * width)


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
