"""Time of an activation alone: in JAX, in PyTorch, and of a plain copy."""

import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import product
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from apalu_jax._trees import PyTree
from apalu_jax.benchmarks import (
    BenchmarkError,
    Progress,
    Result,
    Row,
    check_choices,
    quiet,
    timing,
    to_result,
)
from apalu_jax.benchmarks._process import Child, spawn
from apalu_jax.benchmarks.functions import FUNCTIONS, Function, Params, choose
from apalu_jax.benchmarks.torch_peer import FRAMEWORKS, TorchPeer

CHANNELS = 512
COPY = "copy"
DTYPES = ("float32", "bfloat16")
# Arrays of the size of x that are read or written at least.
MODES = {"forward": 2, "backward": 3, "both": 4}
SIZES = tuple(4**k for k in range(6, 14))

Key: TypeAlias = tuple[str, str]  # function and framework
Spec: TypeAlias = Array | jax.ShapeDtypeStruct

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
    "saved. Both: y and all cotangents, in one program.",
    "PyTorch: forward without gradients; backward through a graph that is retained; "
    "both is y and `y.backward`. Its textbook APALU uses `torch.where`.",
    "Spread: interquartile range over the median. GB/s: of the least traffic, 2 arrays "
    "of the size of x forward, 3 backward, 4 both. The copy is -x, which no compiler "
    "can drop. To copy, to gelu: over the copy and over JAX's gelu (tanh). To best: "
    "over the fastest implementation of the same function, for APALU in any form of "
    "its textbook in JAX and PyTorch and `apalu_reference`.",
)
_ON_CPU = (
    "A sample is one call from Python until its result is ready, always with the same "
    "arrays. All functions and both frameworks are measured in interleaved batches of "
    f"{timing.LIMITS[0]} to {timing.LIMITS[1]} calls, each after a quarter as many of "
    "warm-up. PyTorch runs in a process of its own, with as many threads."
)
_ON_DEVICE = (
    "A sample is the mean of many runs, in JAX of a compiled loop, in PyTorch of a "
    "Python loop timed by CUDA events, which adds the launch of short operations. "
    f"Inputs are rotated through {timing.ROTATED // 2**20} MiB, or {timing.MAX_COPIES} "
    "copies if that is less."
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
    # Four minutes for the default 864 cases, besides compilation; the largest take
    # longer, as five batches of three calls are the least.
    budget: float = 0.3,
    progress: Progress = quiet,
) -> Result:
    """Time every function in every mode, beside PyTorch if it is installed.

    Sizes are multiples of 512. Each case is timed for `budget` seconds, or longer if
    the least number of calls takes more.
    """
    names = choose(functions)
    check_choices("dtypes", dtypes, DTYPES)
    check_choices("modes", modes, MODES)
    for size in sizes:
        check_size("sizes", size)
    notes = [*_NOTES, _ON_DEVICE if timing.on_device() else _ON_CPU]
    rows: list[Row] = []
    failures: dict[str, list[str]] = defaultdict(list)
    with ExitStack() as stack:
        torch = _start_torch(stack, notes)
        for group in map(_Group._make, product(dtypes, sizes, modes)):
            progress(f"{group.dtype}, {group.size:,} elements, {group.mode}")
            rows += _rows(group, _time(names, group, torch, failures, budget))
    notes += [
        f"{error} Cases without a row for it: {len(at)}, the first {at[0]}."
        for error, at in failures.items()
    ]
    result = to_result("ops", _COLUMNS, rows, notes)
    result["setting"]["threads"] = _threads()
    if torch:
        result["setting"]["versions"]["torch"] = version("torch")
    return result


def check_size(name: str, size: int) -> None:
    """Raise a BenchmarkError that names the argument unless rows can be filled."""
    if size < 1 or size % CHANNELS:
        raise BenchmarkError(
            f"`{name}` must be a positive multiple of {CHANNELS}, got {size!r}."
        )


def operation(
    function: Function, mode: str, pairs: Sequence[tuple[Spec, Spec]]
) -> tuple[timing.Operation, list[tuple[PyTree, ...]]]:
    """A function in a mode, as :func:`timing.timed_batch` takes it, and its arguments.

    The pairs are inputs x and cotangents of the results, one for every copy; or specs,
    for what is only to be compiled.
    """
    params = function.params(pairs[0][0].shape[-1])
    if mode == "forward":
        return function.call, [(x, params) for x, _ in pairs]
    if mode == "both":

        def both(x: Array, params: Params, g: Array) -> PyTree:
            y, pull = jax.vjp(function.call, x, params)
            return y, *pull(g)

        return both, [(x, params, g) for x, g in pairs]

    def pull(x: Array, params: Params) -> PyTree:
        return jax.vjp(function.call, x, params)[1]

    abstract = isinstance(pairs[0][0], jax.ShapeDtypeStruct)
    save = partial(jax.eval_shape, pull) if abstract else jax.jit(pull)
    # Flat: JAX would flatten the pull at every call, in Python.
    saved = [jax.tree.leaves(save(x, params)) for x, _ in pairs]
    structure = jax.tree.structure(save(pairs[0][0], params))

    def backward(saved: list[Array], g: Array) -> PyTree:
        return jax.tree.unflatten(structure, saved)(g)

    return backward, [(leaves, g) for leaves, (_, g) in zip(saved, pairs, strict=True)]


def _threads() -> int:
    """The cores that this process may use, as XLA counts them."""
    linux = sys.platform == "linux"
    return len(os.sched_getaffinity(0)) if linux else os.cpu_count() or 1


def _start_torch(stack: ExitStack, notes: list[str]) -> Child[TorchPeer] | None:
    """PyTorch's process, or None and a note that says why there is none."""
    device = _DEVICES.get(jax.default_backend())
    try:
        if device is None:
            raise BenchmarkError("It is timed on CPU and GPU only.")
        if find_spec("torch") is None:
            raise BenchmarkError("It is not installed.")
        make = partial(TorchPeer, _threads(), device)
        return stack.enter_context(spawn("PyTorch", make))
    except BenchmarkError as error:
        notes.append(f"Without PyTorch. {error}")
        return None


def _time(
    names: Sequence[str],
    group: _Group,
    torch: Child[TorchPeer] | None,
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
    batches: dict[Key, Callable[[], list[float]]] = {
        (COPY, "jax"): timing.timed_batch(jnp.negative, [(x,) for x, _ in pairs], count)
    }
    for name in names:
        call, inputs = operation(FUNCTIONS[name], mode, pairs)
        batches[name, "jax"] = timing.timed_batch(call, inputs, count)
    if torch:
        torch.call(TorchPeer.make_inputs, shape, dtype, mode, copies)
        known = [name for name in names if name in TorchPeer.functions]
        for name, framework in product(known, FRAMEWORKS):
            start = list(FUNCTIONS[name].start.values())
            try:
                torch.call(TorchPeer.prepare, name, framework, start)
            except BenchmarkError as error:
                case = ", ".join((name, framework, *map(str, group)))
                failures[str(error)].append(case)
            else:
                batches[name, framework] = partial(
                    torch.call, TorchPeer.time, name, framework, count
                )
    return timing.interleave(batches, budget)


def _rows(group: _Group, samples: Mapping[Key, list[float]]) -> Iterator[Row]:
    times = {key: timing.quartiles(values) for key, values in samples.items()}
    medians = {key: time["median"] for key, time in times.items()}
    order = [COPY, *FUNCTIONS]
    for name, framework in sorted(times, key=lambda key: order.index(key[0])):
        median = medians[name, framework]
        least = group.bytes(2 if name == COPY else MODES[group.mode])
        same = _PEERS if name in _APALU else (name,)
        peers = [m for (other, _), m in medians.items() if other in same]
        references = {
            "to_copy": medians[COPY, "jax"],
            "to_best": min(peers, default=None),
            "to_gelu": medians.get(("gelu", "jax")),
        }
        yield {
            "function": name,
            "framework": framework,
            **group._asdict(),
            **times[name, framework],
            "microseconds": median * 1e6,
            "gigabytes_per_second": least / median / 1e9,
            **{key: median / value for key, value in references.items() if value},
        }
