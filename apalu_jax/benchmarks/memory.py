"""Memory of an activation in training: what is kept, and what the compiler needs."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from apalu_jax.benchmarks import BenchmarkError, Result, to_result
from apalu_jax.benchmarks.functions import FUNCTIONS, Function, Params, chosen

__all__ = ("Regime", "bytes_kept", "measure", "temporary")

Regime: TypeAlias = Literal["unrolled", "scan", "remat"]

_REGIMES: dict[Regime, str] = {
    "unrolled": "unrolled",
    "scan": "scan",
    "remat": "scan with remat",
}
_ORDERS = {"before": "`act(h) @ w`", "after": "`act(h @ w)`"}
_NOTES = (
    "Kept: bytes per element of x in the arrays of its size that `jax.vjp` of the "
    "jitted activation holds for the backward pass, x itself included if held.",
    "The others: temporary memory of the compiled gradient of {blocks} blocks, in "
    "float32 activations of {rows} x {width}, and its ratio to relu's; where blocks "
    "are unrolled, also to gelu's. A block is `act(h) @ w` or `act(h @ w)`; the "
    "gradient is of the weights and of the parameters of each block's activation.",
    "Unrolled: the blocks are written out. Scan: `jax.lax.scan` runs them. With "
    "remat: `jax.checkpoint` is around the block that is scanned.",
)


def measure(
    rows: int = 8192,
    width: int = 512,
    blocks: int = 8,
    functions: Iterable[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Result:
    """Measures every activation; compiles, and computes next to nothing.

    Args:
      rows: Rows of the activations of the blocks.
      width: Their columns.
      blocks: How many blocks are differentiated.
      functions: Names in :data:`~apalu_jax.benchmarks.functions.FUNCTIONS`, all if left
        out; relu and gelu, which the others are compared with, come first in any case.
      progress: Called with a line on what is measured next.

    Returns:
      A result; see :mod:`apalu_jax.benchmarks`.

    Raises:
      BenchmarkError: If a function is unknown, or as :func:`temporary`.
    """
    table: dict[str, dict[str, Any]] = {}
    keys = [f"{regime}_{order}" for regime in _REGIMES for order in _ORDERS]
    for name in chosen(functions, "relu", "gelu"):
        if progress:
            progress(name)
        function = FUNCTIONS[name]
        row = table[name] = {"function": name}
        for dtype in (jnp.float32, jnp.bfloat16):
            row[f"kept_{jnp.dtype(dtype).name}"] = bytes_kept(function, dtype)
        for regime in _REGIMES:
            for order in _ORDERS:
                row[f"{regime}_{order}"] = temporary(
                    function,
                    rows,
                    width,
                    blocks,
                    regime=regime,
                    before=order == "before",
                )
    for row in table.values():
        for key in keys:
            row[f"{key}_to_relu"] = row[key] / table["relu"][key]
            row[f"{key}_to_gelu"] = row[key] / table["gelu"][key]
    notes = [note.format(rows=rows, width=width, blocks=blocks) for note in _NOTES]
    return to_result("memory", _columns(), list(table.values()), notes)


def bytes_kept(function: Function, dtype: Any, size: int = 2**12) -> float:
    """Bytes per element that stay between the forward and the backward pass.

    Args:
      function: The activation.
      dtype: Of ``x``.
      size: Elements of ``x``, a multiple of 16, which is the number of its channels.

    Returns:
      Bytes of the distinct arrays of ``size`` elements, by ``size``.

    Examples:
      >>> bytes_kept(FUNCTIONS["apalu"], jnp.float32)
      4.0
    """
    x = jnp.linspace(-3, 3, size, dtype=dtype).reshape(-1, 16)
    _, pull = jax.vjp(jax.jit(function.call), x, function.params(16))
    # One buffer may stand at several places.
    large: dict[int, int] = {
        v.unsafe_buffer_pointer(): v.nbytes
        for v in jax.tree.leaves(pull)
        if v.size == size
    }
    return sum(large.values()) / size


def temporary(
    function: Function,
    rows: int,
    width: int,
    blocks: int,
    *,
    regime: Regime,
    before: bool,
) -> float:
    """Temporary memory of a compiled gradient, in activations of ``rows x width``.

    Args:
      function: The activation.
      rows: Rows of the input.
      width: Columns of the input and of every weight.
      blocks: How many blocks there are.
      regime: Whether the blocks are written out, :func:`jax.lax.scan` runs them, or
        it runs them with :func:`jax.checkpoint` around each.
      before: Whether the activation comes before the product or after it.

    Returns:
      A number of float32 activations.

    Raises:
      BenchmarkError: If the platform's compiler does not tell its memory.
    """

    def block(h: Array, layer: tuple[Array, Params]) -> tuple[Array, None]:
        w, p = layer
        return (function.call(h, p) @ w if before else function.call(h @ w, p)), None

    def loss(layers: tuple[Array, Params], x: Array) -> Array:
        if regime == "unrolled":
            h = x
            for i in range(blocks):
                h, _ = block(h, jax.tree.map(lambda leaf, i=i: leaf[i], layers))
        else:
            # A scan keeps the two passes apart, so that no barrier need do it.
            remat = jax.checkpoint(block, prevent_cse=False)
            h, _ = jax.lax.scan(remat if regime == "remat" else block, x, layers)
        return jnp.sum(h * h)

    def spec(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    params = {k: spec(blocks, *v.shape) for k, v in function.params(width).items()}
    layers = spec(blocks, width, width), params
    compiled = jax.jit(jax.grad(loss)).lower(layers, spec(rows, width)).compile()
    analysis = compiled.memory_analysis()
    if analysis is None:
        raise BenchmarkError("`memory` must run on a platform that analyses memory.")
    size: int = analysis.temp_size_in_bytes
    return size / (4 * rows * width)


def _columns() -> dict[str, str]:
    columns = {
        "function": "{function}",
        "kept, float32": "{kept_float32:.3g}",
        "kept, bfloat16": "{kept_bfloat16:.3g}",
    }
    for regime, way in _REGIMES.items():
        for order, block in _ORDERS.items():
            key = f"{regime}_{order}"
            gelu = f", {{{key}_to_gelu:.2f}}x gelu" if regime == "unrolled" else ""
            columns[f"{way}, {block}"] = f"{{{key}:.1f}} ({{{key}_to_relu:.2f}}x{gelu})"
    return columns
