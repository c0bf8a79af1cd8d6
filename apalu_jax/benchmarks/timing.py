"""Timing of operations in many short batches, interleaved with each other.

On CPU a call is timed from the host until its result is ready, with the cost of JAX's
dispatch. On an accelerator that cost would hide a short operation: there a compiled
loop runs it many times.
"""

import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from apalu_jax._trees import PyTree

TimedBatch: TypeAlias = Callable[[], list[float]]
"""Runs something a few times and returns the seconds of each."""

Operation: TypeAlias = Callable[..., PyTree]
Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

# Fewer samples than five have no meaningful quartiles.
MIN_ROUNDS = 5
# Seconds between batches. Threads of the last one spin before they sleep (libgomp's,
# which PyTorch uses, as GOMP_SPINCOUNT says) and would take cores from the next.
PAUSE = 0.002

# Calls of a batch: as many as move TRAFFIC bytes, within LIMITS. On two cores that is
# 4 ms (a copy, at 17 GB/s) to 13 ms (the textbook APALU with its gradients, at 5 GB/s):
# long beside PAUSE, short beside the drift of a machine that others use too.
TRAFFIC = 2**26
LIMITS = 3, 20
# On a device: a loop of some 10 ms at 3 TB/s (an H100), whose start of about 10 us is
# then below 1 %.
LOOP_TRAFFIC = 2**35
LOOP_LIMITS = 16, 1000
# Bytes of a loop's inputs: four times a last-level cache of 128 MiB, if as many copies
# as MAX_COPIES reach it; more copies would take longer to make than to time.
ROTATED = 2**29
MAX_COPIES = 256


def on_device() -> bool:
    """True if JAX computes on an accelerator, where loops are timed."""
    return jax.default_backend() != "cpu"


def copies(size: int) -> int:
    """Number of inputs of `size` bytes that exceed a device's cache; 1 on CPU."""
    return min(max(ROTATED // size, 2), MAX_COPIES) if on_device() else 1


def iterations(size: int) -> int:
    """Number of calls in a batch of an operation that moves `size` bytes at least."""
    traffic, limits = (LOOP_TRAFFIC, LOOP_LIMITS) if on_device() else (TRAFFIC, LIMITS)
    return int(np.clip(traffic // size, *limits))


def warmup(count: int) -> int:
    """Number of calls before a batch of `count` that do not count.

    They find threads asleep and the cache full of another operation's data.
    """
    return math.ceil(count / 4)


def timed_batch(
    operation: Operation, inputs: Sequence[tuple[PyTree, ...]], count: int
) -> TimedBatch:
    """Compile an operation, and return its batch of `count` calls.

    The inputs are its arguments, a tuple for every copy. On CPU the batch gives the
    seconds of calls with the first copy; on an accelerator the mean of a loop over all
    copies, in a list of one.
    """
    if on_device():
        loop = jax.jit(looped(operation, count))
        stacks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *inputs)
        run = partial(_finish, loop, stacks)
        run()
        return lambda: [timed(run)[0] / count]
    call = partial(_finish, jax.jit(operation), inputs[0])

    def calls() -> list[float]:
        for _ in range(warmup(count)):
            call()
        return [timed(call)[0] for _ in range(count)]

    calls()
    return calls


def looped(operation: Operation, count: int) -> Operation:
    """The operation run `count` times over rotated inputs, for one compiled program.

    It takes the arguments with an axis of copies in front, and returns the last result.
    The slice depends on the index of the loop, so XLA cannot move the operation out of
    it, and fuses it as a read of that part of the stack. Nothing reads a result before
    the next overwrites it in place; a stack of results would be a write that not every
    operation can be fused with.
    """

    def loop(*stacks: PyTree) -> PyTree:
        length = jax.tree.leaves(stacks)[0].shape[0]

        def step(i: Array | int, _: PyTree) -> PyTree:
            at = partial(lax.dynamic_index_in_dim, index=i % length, keepdims=False)
            return operation(*jax.tree.map(at, stacks))

        spec = jax.eval_shape(step, 0, None)
        first = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), spec)
        return lax.fori_loop(0, count, step, first)

    return loop


def interleave(
    batches: Mapping[Key, TimedBatch], budget: float
) -> dict[Key, list[float]]:
    """Run all batches in turns, so that a drift of the machine affects all alike.

    Each takes `budget` seconds on average, or five rounds if these take more.
    """
    samples: dict[Key, list[float]] = {key: [] for key in batches}
    stop = time.perf_counter() + budget * len(batches)
    rounds = 0
    while rounds < MIN_ROUNDS or time.perf_counter() < stop:
        for key, run in batches.items():
            time.sleep(PAUSE)
            samples[key] += run()
        rounds += 1
    return samples


def quartiles(samples: Sequence[float]) -> dict[str, float]:
    """Quartiles of seconds by their names in rows, and their spread over the median."""
    lower, median, upper = map(float, np.quantile(samples, (0.25, 0.5, 0.75)))
    spread = (upper - lower) / median
    return {"lower": lower, "median": median, "upper": upper, "spread": spread}


def timed(call: Callable[[], Value]) -> tuple[float, Value]:
    """Seconds that a call takes, and its value."""
    start = time.perf_counter()
    value = call()
    return time.perf_counter() - start, value


def _finish(call: Operation, inputs: Sequence[PyTree]) -> None:
    jax.block_until_ready(call(*inputs))
