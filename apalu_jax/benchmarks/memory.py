"""Memory of an activation in training: what is kept, and what the compiler needs."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from apalu_jax.benchmarks import BenchmarkError, Result, to_result
from apalu_jax.benchmarks.functions import textbook
from apalu_jax.functional import APALUParams, apalu

__all__ = ("bytes_kept", "measure", "temporary")

# An activation with its trainable parameters, of which it takes those it has.
Activation: TypeAlias = Callable[[Array, APALUParams], Array]

_ACTIVATIONS: dict[str, Activation] = {
    "relu": lambda x, p: jax.nn.relu(x),
    "gelu": lambda x, p: jax.nn.gelu(x),
    "silu": lambda x, p: jax.nn.silu(x),
    "prelu": lambda x, p: jnp.where(x >= 0, x, _like(p.b, x) * x),
    "textbook APALU": lambda x, p: textbook(x, _like(p.a, x), _like(p.b, x)),
    "apalu": apalu,
    'apalu, residual="output"': lambda x, p: apalu(x, p, residual="output"),
}

_NOTES = (
    "Kept: bytes per element of x in the arrays of its size that `jax.vjp` of the "
    "jitted activation holds for the backward pass, x itself included if held.",
    "The others: temporary memory of the compiled gradient of {blocks} blocks, in "
    "float32 activations of {rows} x {width}, and its ratio to relu. A block is "
    "`act(h) @ w` or `act(h @ w)`; the gradient is of the weights and of the "
    "parameters of each block's activation.",
)


def measure(rows: int = 8192, width: int = 512, blocks: int = 8) -> Result:
    """Measures every activation; compiles, and computes next to nothing.

    Args:
      rows: Rows of the activations of the blocks.
      width: Their columns.
      blocks: How many blocks are differentiated.

    Returns:
      A result; see :mod:`apalu_jax.benchmarks`.
    """
    regimes = {
        f"{way}_{order}": (order == "before", way == "scan")
        for way in ("scan", "unrolled")
        for order in ("before", "after")
    }
    table: list[dict[str, Any]] = []
    for name, activation in _ACTIVATIONS.items():
        row: dict[str, Any] = {"function": name}
        for dtype in (jnp.float32, jnp.bfloat16):
            row[f"kept_{jnp.dtype(dtype).name}"] = bytes_kept(activation, dtype)
        for key, (before, scan) in regimes.items():
            row[key] = temporary(
                activation, rows, width, blocks, before=before, scan=scan
            )
            row[f"{key}_to_relu"] = row[key] / (table[0] if table else row)[key]
        table.append(row)
    columns = {
        "function": "{function}",
        "kept, float32": "{kept_float32:.3g}",
        "kept, bfloat16": "{kept_bfloat16:.3g}",
    }
    for key in regimes:
        way, _, order = key.partition("_")
        head = f"{way}, `{'act(h) @ w' if order == 'before' else 'act(h @ w)'}`"
        columns[head] = f"{{{key}:.1f}} ({{{key}_to_relu:.2f}}x)"
    notes = [note.format(rows=rows, width=width, blocks=blocks) for note in _NOTES]
    return to_result("memory", columns, table, notes)


def bytes_kept(activation: Activation, dtype: Any, size: int = 2**12) -> float:
    """Bytes per element that stay between the forward and the backward pass.

    Args:
      activation: Takes ``x`` and an :class:`~apalu_jax.functional.APALUParams`.
      dtype: Of ``x``.
      size: Elements of ``x``.

    Returns:
      Bytes of the distinct arrays of ``size`` elements, by ``size``.

    Examples:
      >>> bytes_kept(lambda x, p: apalu(x, p), jnp.float32)
      4.0
    """
    x = jnp.linspace(-3, 3, size, dtype=dtype)
    _, pull = jax.vjp(jax.jit(activation), x, _params())
    # One buffer may stand at several places.
    large: dict[int, int] = {
        v.unsafe_buffer_pointer(): v.nbytes
        for v in jax.tree.leaves(pull)
        if v.size == size
    }
    return sum(large.values()) / size


def temporary(
    activation: Activation,
    rows: int,
    width: int,
    blocks: int,
    *,
    before: bool,
    scan: bool,
) -> float:
    """Temporary memory of a compiled gradient, in activations of ``rows x width``.

    Args:
      activation: As in :func:`bytes_kept`.
      rows: Rows of the input.
      width: Columns of the input and of every weight.
      blocks: How many blocks there are.
      before: Whether the activation comes before the product or after it.
      scan: Whether :func:`jax.lax.scan` runs the blocks, or they are written out.

    Returns:
      A number of float32 activations.

    Raises:
      BenchmarkError: If the platform's compiler does not tell its memory.
    """

    def block(h: Array, layer: tuple[Array, APALUParams]) -> tuple[Array, None]:
        w, p = layer
        return (activation(h, p) @ w if before else activation(h @ w, p)), None

    def loss(layers: tuple[Array, APALUParams], x: Array) -> Array:
        if scan:
            h, _ = jax.lax.scan(block, x, layers)
        else:
            h = x
            for i in range(blocks):
                h, _ = block(h, jax.tree.map(lambda leaf, i=i: leaf[i], layers))
        return jnp.sum(h * h)

    def spec(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    params = jax.tree.map(lambda _: spec(blocks), APALUParams())
    layers = spec(blocks, width, width), params
    compiled = jax.jit(jax.grad(loss)).lower(layers, spec(rows, width)).compile()
    analysis = compiled.memory_analysis()
    if analysis is None:
        raise BenchmarkError("`memory` must run on a platform that analyses memory.")
    size: int = analysis.temp_size_in_bytes
    return size / (4 * rows * width)


def _params() -> APALUParams:
    return APALUParams(*map(jnp.float32, APALUParams()))


def _like(p: Any, x: Array) -> Array:
    return jnp.asarray(p, x.dtype)
