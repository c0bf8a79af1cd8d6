"""Timing of operations, interleaved in many short bursts, on the host or a device.

On CPU a call is timed from the host until its result is ready, with what JAX costs. An
accelerator would show little else: there a compiled loop runs the operation many times.
"""

import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

__all__ = (
    "Burst",
    "burst",
    "copies",
    "interleave",
    "iterations",
    "looped",
    "on_device",
    "quartiles",
)

Burst: TypeAlias = Callable[[], list[float]]
"""Runs something a few times and returns the seconds of each."""

Key = TypeVar("Key", bound=Hashable)

ROUNDS = 5  # at least
PAUSE = 0.002  # seconds, in which the threads of the burst before stop spinning

# Calls of a burst: as many as move TRAFFIC bytes, within LIMITS.
TRAFFIC = 2**26
LIMITS = 3, 20
# On a device that is a loop, whose traffic hides the start of the program.
LOOP_TRAFFIC = 2**35
LOOP_LIMITS = 16, 1000
# Bytes of a loop's inputs, four times a cache of 128 MiB, if so many copies reach them.
ROTATED = 2**29
MOST_COPIES = 256


def on_device() -> bool:
    """True if JAX computes on an accelerator, where loops are timed."""
    return jax.default_backend() != "cpu"


def copies(size: int) -> int:
    """Number of inputs of so many bytes that leaves the cache of a device.

    Args:
      size: Bytes of the inputs of one call.

    Returns:
      Their number; 1 on CPU, where every call gets the same.

    Examples:
      >>> copies(2**20)
      1
    """
    return min(max(ROTATED // size, 2), MOST_COPIES) if on_device() else 1


def iterations(size: int) -> int:
    """Number of calls in a burst of an operation that moves so many bytes.

    Args:
      size: Bytes that one call reads and writes at least.

    Returns:
      Calls of a burst.

    Examples:
      >>> iterations(2**20), iterations(2**24), iterations(2**28)
      (20, 4, 3)
    """
    traffic, limits = (LOOP_TRAFFIC, LOOP_LIMITS) if on_device() else (TRAFFIC, LIMITS)
    return int(np.clip(traffic // size, *limits))


def burst(operation: Callable[..., Any], inputs: Sequence[Any], count: int) -> Burst:
    """A burst of an operation, compiled, in the way of the platform.

    Args:
      operation: Takes arrays, or pytrees of them, and returns such.
      inputs: Its arguments, as a tuple for every copy.
      count: See :func:`iterations`.

    Returns:
      On CPU a function that gives the seconds of ``count`` calls with the first copy;
      on an accelerator the mean of a loop over all copies, in a list of one.

    Examples:
      >>> len(burst(jnp.negative, [(jnp.ones(8),)], count=4)())
      4
    """
    if on_device():
        loop = jax.jit(looped(operation, count))
        stacks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *inputs)
        jax.block_until_ready(loop(*stacks))
        return lambda: [_seconds(loop, stacks) / count]
    call = jax.jit(operation)

    def calls() -> list[float]:
        # The first ones find threads asleep and the cache full of another's data.
        unheeded = math.ceil(count / 4)
        return [_seconds(call, inputs[0]) for _ in range(unheeded + count)][unheeded:]

    calls()
    return calls


def looped(operation: Callable[..., Any], count: int) -> Callable[..., Any]:
    """The operation run many times over rotated inputs, to be compiled as one program.

    The slice depends on the index of the loop, so XLA cannot move the operation out of
    it, and fuses it as a read of that part of the stack. Nothing reads a result before
    the next overwrites it in place; a stack of results would be a write that not every
    operation can be fused with.

    Args:
      operation: See :func:`burst`.
      count: How often.

    Returns:
      A function of the arguments, the first axis of their arrays counting the copies,
      that returns the last result.

    Examples:
      >>> looped(jnp.negative, 3)(jnp.arange(2.0))
      Array(-0., dtype=float32)
    """

    def loop(*stacks: Any) -> Any:
        length = jax.tree.leaves(stacks)[0].shape[0]

        def step(i: Any, _: Any) -> Any:
            at = partial(lax.dynamic_index_in_dim, index=i % length, keepdims=False)
            return operation(*jax.tree.map(at, stacks))

        spec = jax.eval_shape(step, 0, None)
        first = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), spec)
        return lax.fori_loop(0, count, step, first)

    return loop


def interleave(bursts: Mapping[Key, Burst], budget: float) -> dict[Key, list[float]]:
    """Times all by turns, so that a drift of the machine meets all alike.

    Args:
      bursts: What is timed.
      budget: Seconds for each of them on average; exceeded where five rounds take more.

    Returns:
      Seconds of every run.

    Examples:
      >>> interleave({"a": lambda: [1.0], "b": lambda: [2.0]}, budget=0)
      {'a': [1.0, 1.0, 1.0, 1.0, 1.0], 'b': [2.0, 2.0, 2.0, 2.0, 2.0]}
    """
    samples: dict[Key, list[float]] = {key: [] for key in bursts}
    stop = time.perf_counter() + budget * len(bursts)
    rounds = 0
    while rounds < ROUNDS or time.perf_counter() < stop:
        for key, run in bursts.items():
            time.sleep(PAUSE)
            samples[key] += run()
        rounds += 1
    return samples


def quartiles(samples: Sequence[float]) -> dict[str, float]:
    """The three quartiles, under the names that rows of results use.

    Args:
      samples: Seconds.

    Returns:
      ``lower``, ``median`` and ``upper``.

    Examples:
      >>> quartiles([1.0, 2.0, 3.0, 4.0, 5.0])
      {'lower': 2.0, 'median': 3.0, 'upper': 4.0}
    """
    values = map(float, np.quantile(samples, (0.25, 0.5, 0.75)))
    return dict(zip(("lower", "median", "upper"), values, strict=True))


def _seconds(call: Callable[..., Any], inputs: Sequence[Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call(*inputs))
    return time.perf_counter() - start
