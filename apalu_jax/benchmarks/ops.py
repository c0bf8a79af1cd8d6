"""Time of an activation alone: in JAX, in PyTorch, and of a plain copy."""

import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from functools import partial
from importlib.util import find_spec
from itertools import product
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from apalu_jax.benchmarks import BenchmarkError, Result, timing, to_result
from apalu_jax.benchmarks.functions import FUNCTIONS, Function, Params, chosen
from apalu_jax.benchmarks.torch_worker import Torch

__all__ = ("COPY", "MODES", "measure", "operation")

CHANNELS = 512
COPY = "copy"
DTYPES = ("float32", "bfloat16")
# Arrays of the size of x that are read or written at least.
MODES = {"forward": 2, "backward": 3, "both": 4}
SIZES = tuple(4**k for k in range(6, 14))


Key: TypeAlias = tuple[str, str]  # function and framework

_DEVICES = {"cpu": "cpu", "gpu": "cuda"}  # of PyTorch, by JAX's backend
_APALU = frozenset(name for name in FUNCTIONS if "apalu" in name.lower())
_PEERS = ("textbook APALU", "apalu_reference")

_COLUMNS = {
    "dtype": "{dtype}",
    "elements": "{size:,}",
    "mode": "{mode}",
    "function": "{function}",
    "framework": "{framework}",
    "median, µs": "{microseconds:,.1f}",
    "spread": "{spread:.0%}",
    "GB/s": "{gigabytes_per_second:,.1f}",
    "to copy": "{to_copy:.2f}",
    "to best": "{to_best:.2f}",
    "to gelu": "{to_gelu:.2f}",
}

_NOTES = (
    f"x and its cotangent: random normal, [elements / {CHANNELS}, {CHANNELS}]. "
    f"Parameters: float32 scalars, or {CHANNELS} of each per channel. Forward: y. "
    "Backward: the cotangents of x and of every parameter, from what the forward pass "
    "kept. Both: y and all cotangents, in one program.",
    "PyTorch: forward without gradients; backward through a graph that is retained; "
    "both is y and `y.backward`; gradients are cleared to None first. Its textbook "
    "APALU uses `torch.where`; a and b are scalars that require gradients.",
    "Spread: between the quartiles, over the median. GB/s: of what must be moved at "
    "least, 2 arrays of the size of x forward, 3 backward, 4 both. The copy is -x: it "
    "reads x and writes a new array, and no compiler can drop it. It is timed beside "
    "every mode.",
    "To copy, to gelu: over the copy and over JAX's gelu (tanh) of the same elements, "
    "dtype and mode. To best: over the fastest implementation of the same function "
    "there; for APALU in any form, over the fastest of its textbook in JAX and PyTorch "
    "and `apalu_reference`.",
)
_ON_CPU = (
    "A sample is one call from Python until its result is ready, dispatch included, "
    "always with the same arrays. All functions and both frameworks take turns of "
    "{} to {} calls, after a quarter as many that do not count. PyTorch runs in a "
    "process of its own, with as many threads.".format(*timing.LIMITS)
)
_ON_DEVICE = (
    "A sample is the mean of many runs. Inputs are rotated through "
    f"{timing.ROTATED / 2**20:.0f} MiB, or {timing.MOST_COPIES} copies if that is "
    "less; results overwrite the last ones. JAX: a loop compiled as one program. "
    "PyTorch: a loop in Python, timed by CUDA events, where short operations cost what "
    "it takes to start them."
)


class _Group(NamedTuple):
    """Functions that are compared with each other."""

    dtype: str
    size: int
    mode: str

    def bytes(self, arrays: int) -> int:
        return arrays * self.size * jnp.dtype(self.dtype).itemsize


def measure(
    sizes: Sequence[int] = SIZES,
    dtypes: Sequence[str] = DTYPES,
    functions: Sequence[str] | None = None,
    modes: Sequence[str] = tuple(MODES),
    budget: float = 0.3,
    progress: Callable[[str], None] | None = None,
) -> Result:
    """Times every function in every mode, beside PyTorch where it is installed.

    Args:
      sizes: Elements of x; multiples of 512.
      dtypes: Of ``"float32"`` and ``"bfloat16"``.
      functions: Names of ``FUNCTIONS``; all if left out.
      modes: Of ``"forward"``, ``"backward"`` and ``"both"``.
      budget: Seconds of timing for each function, size, dtype and mode; exceeded where
        the least number of runs takes more.
      progress: Called with a line on what is timed next.

    Returns:
      A result; see :mod:`apalu_jax.benchmarks`.

    Raises:
      BenchmarkError: If an argument is not as above, or PyTorch's process ends while
        it is timed.
    """
    names = chosen(functions)
    _check("dtypes", dtypes, DTYPES)
    _check("modes", modes, MODES)
    for size in sizes:
        if size < 1 or size % CHANNELS:
            raise BenchmarkError(
                f"`sizes` must be positive multiples of {CHANNELS}, got {size!r}."
            )
    notes = [*_NOTES, _ON_DEVICE if timing.on_device() else _ON_CPU]
    rows: list[dict[str, Any]] = []
    failures: dict[str, list[str]] = defaultdict(list)
    torch = _start_torch(notes)
    with closing(torch) if torch else nullcontext():
        for group in map(_Group._make, product(dtypes, sizes, modes)):
            if progress:
                progress(f"{group.dtype}, {group.size:,} elements, {group.mode}")
            rows += _rows(group, _time(names, group, torch, failures, budget))
    notes += [
        f"{error} Cases without a row for it: {len(at)}, the first {at[0]}."
        for error, at in failures.items()
    ]
    result = to_result("ops", _COLUMNS, rows, notes)
    result["setting"]["threads"] = _threads()
    if torch:
        result["setting"]["versions"]["torch"] = torch.version
    return result


def operation(
    function: Function, mode: str, pairs: Sequence[tuple[Any, Any]]
) -> tuple[Callable[..., Any], list[tuple[Any, ...]]]:
    """A function in a mode, as :func:`timing.burst` takes it.

    Args:
      function: The function.
      mode: Of ``MODES``.
      pairs: Inputs x and cotangents of the results, a pair for every copy; arrays, or
        :class:`jax.ShapeDtypeStruct` for what is only to be compiled.

    Returns:
      What is to be compiled, and its arguments for every copy.

    Examples:
      >>> x = jnp.array([-2.0, 2.0])
      >>> both, [inputs] = operation(FUNCTIONS["relu"], "both", [(x, x)])
      >>> both(*inputs)
      (Array([0., 2.], dtype=float32), Array([0., 2.], dtype=float32), {})
    """
    params = function.params(pairs[0][0].shape[-1])
    if mode == "forward":
        return function.call, [(x, params) for x, _ in pairs]
    if mode == "both":

        def both(x: Array, params: Params, g: Array) -> Any:
            y, pull = jax.vjp(function.call, x, params)
            return y, *pull(g)

        return both, [(x, params, g) for x, g in pairs]

    def pull(x: Array, params: Params) -> Any:
        return jax.vjp(function.call, x, params)[1]

    abstract = isinstance(pairs[0][0], jax.ShapeDtypeStruct)
    keep = partial(jax.eval_shape, pull) if abstract else jax.jit(pull)
    # Flat, since taking the pull apart at every call is slow.
    kept = [jax.tree.leaves(keep(x, params)) for x, _ in pairs]
    structure = jax.tree.structure(keep(pairs[0][0], params))

    def backward(kept: list[Array], g: Array) -> Any:
        return jax.tree.unflatten(structure, kept)(g)

    return backward, [(leaves, g) for leaves, (_, g) in zip(kept, pairs, strict=True)]


def _check(name: str, given: Sequence[str], known: Iterable[str]) -> None:
    for value in given:
        if value not in known:
            raise BenchmarkError(
                f"`{name}` must be of {', '.join(map(repr, known))}, got {value!r}."
            )


def _threads() -> int:
    """The cores that this process may use, as XLA counts them."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start_torch(notes: list[str]) -> Torch | None:
    device = _DEVICES.get(jax.default_backend())
    if device is None or find_spec("torch") is None:
        why = "is not installed" if device else "is timed on CPU and GPU only"
        notes.append(f"Without PyTorch, which {why}.")
        return None
    try:
        return Torch(_threads(), device)
    except BenchmarkError as error:
        notes.append(f"Without PyTorch. {error}")
        return None


def _time(
    names: Sequence[str],
    group: _Group,
    torch: Torch | None,
    failures: dict[str, list[str]],
    budget: float,
) -> dict[Key, list[float]]:
    dtype, size, mode = group
    copies = timing.copies(group.bytes(1 if mode == "forward" else 2))
    count = timing.iterations(group.bytes(MODES[mode]))
    shape = size // CHANNELS, CHANNELS
    draw = partial(jax.random.normal, shape=shape, dtype=dtype)
    keys = jax.random.split(jax.random.key(0), (copies, 2))
    pairs = [(draw(for_x), draw(for_g)) for for_x, for_g in keys]
    bursts = {
        (COPY, "jax"): timing.burst(jnp.negative, [(x,) for x, _ in pairs], count)
    }
    for name in names:
        call, inputs = operation(FUNCTIONS[name], mode, pairs)
        bursts[name, "jax"] = timing.burst(call, inputs, count)
    if torch:
        torch.ask("group", shape=shape, dtype=dtype, mode=mode, copies=copies)
        known = [name for name in names if name in torch.functions]
        for key in product(known, ("torch eager", "torch compile")):
            start = list(FUNCTIONS[key[0]].start.values())
            try:
                bursts[key] = torch.burst(*key, start, count)
            except BenchmarkError as error:
                failures[str(error)].append(", ".join((*key, *map(str, group))))
    return timing.interleave(bursts, budget)


def _rows(
    group: _Group, samples: Mapping[Key, list[float]]
) -> Iterator[dict[str, Any]]:
    found = {key: timing.quartiles(values) for key, values in samples.items()}
    medians = {key: quartiles["median"] for key, quartiles in found.items()}
    order = [COPY, *FUNCTIONS]
    for name, framework in sorted(found, key=lambda key: order.index(key[0])):
        q = found[name, framework]
        least = group.bytes(2 if name == COPY else MODES[group.mode])
        same = _PEERS if name in _APALU else (name,)
        peers = [m for (other, _), m in medians.items() if other in same]
        bases = {
            "to_copy": medians[COPY, "jax"],
            "to_best": min(peers, default=None),
            "to_gelu": medians.get(("gelu", "jax")),
        }
        yield {
            "function": name,
            "framework": framework,
            **group._asdict(),
            **q,
            "microseconds": q["median"] * 1e6,
            "spread": (q["upper"] - q["lower"]) / q["median"],
            "gigabytes_per_second": least / q["median"] / 1e9,
            **{k: q["median"] / base for k, base in bases.items() if base},
        }
