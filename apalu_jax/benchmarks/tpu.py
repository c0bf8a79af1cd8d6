"""Costs of programs compiled for a TPU, by its compiler's count, without a TPU.

The compiler, libtpu, reads its settings when it is loaded, and a JAX that finds it
expects a TPU, so all of it happens in a child process. That reads a pickled request and
writes lines of JSON: ``progress``, and in the end ``result`` or ``error``.
"""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.topologies import get_topology_desc
from jax.sharding import SingleDeviceSharding

from apalu_jax.benchmarks import BenchmarkError, Result, to_result
from apalu_jax.benchmarks.functions import (
    FUNCTIONS,
    Activation,
    Function,
    Params,
    chosen,
)
from apalu_jax.benchmarks.networks import LARGE, Network, batches, training_step
from apalu_jax.benchmarks.ops import CHANNELS, MODES, operation
from apalu_jax.benchmarks.step import REFERENCE, needs, to_reference

__all__ = ("TOPOLOGIES", "main", "measure")

TOPOLOGIES = ("v5e:2x2", "v6e:2x2")

Progress: TypeAlias = Callable[[str], None]

_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    # No question to a cloud that is not there; the compiler's target is an argument.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    # Compiling needs no device, so another process may have it.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

_COLUMNS = {
    "topology": "{topology}",
    "what": "{what}",
    "dtype": "{dtype}",
    "mode": "{mode}",
    "function": "{function}",
    "bytes, MB": "{megabytes:,.1f}",
    "to floor": "{bytes_to_floor:.3f}",
    "to relu": "{bytes_to_relu:.4f}",
    "temporary, MB": "{temporary_megabytes:,.1f}",
    "temporary to relu": "{temporary_to_relu:.4f}",
    "transcendentals": "{transcendentals:.2f}",
}

_NOTES = (
    "Compiled ahead of time for one chip of each topology, and not run. Bytes: what "
    "the program reads and writes, copies to and from the chip's own memory among "
    "them; the body of a scan counts once. Temporary: memory beside arguments and "
    "results.",
    "Operation: {size:,} elements in rows of {channels}. Forward: y. Backward: the "
    "cotangents of x and the parameters, from that of y and what the forward pass "
    "kept. Both: y and all cotangents in one program. Floor: 2, 3 and 4 arrays of the "
    "size of x; a backward pass that needs no more than a mask of x is below.",
    "Networks: a training step as in `apalu bench step`. Batches: {batches}.",
    "Transcendentals: exponentials and their like, divisions not among them, per "
    "element that an activation takes; in a network, those beyond relu's.",
)


def measure(
    topologies: Sequence[str] = TOPOLOGIES,
    functions: Iterable[str] | None = None,
    networks: Mapping[str, Network] = LARGE,
    size: int = 2**28,
    progress: Progress | None = None,
) -> Result:
    """Compiles every operation and every training step for described TPUs.

    Args:
      topologies: Names that libtpu knows, such as ``"v5e:2x2"`` or ``"tpu7x:2x2x1"``.
      functions: Names in :data:`~apalu_jax.benchmarks.functions.FUNCTIONS`, all if left
        out; relu, which the others are compared with, comes first in any case.
      networks: Whose training steps are compiled, in bfloat16.
      size: Elements of the operations, a multiple of 512; the default is more than the
        chip's own memory holds.
      progress: Called with a line on what has been compiled.

    Returns:
      A result; see :mod:`apalu_jax.benchmarks`.

    Raises:
      BenchmarkError: If libtpu is missing, or an argument is not as above.
    """
    request = tuple(topologies), chosen(functions, REFERENCE), dict(networks), size
    if size < 1 or size % CHANNELS:
        raise BenchmarkError(
            f"`size` must be a positive multiple of {CHANNELS}, got {size!r}."
        )
    if find_spec("libtpu") is None:
        raise BenchmarkError("`tpu` needs the compiler for TPUs: pip install libtpu")
    with subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # where libtpu logs; errors are replies
        env=os.environ | _ENVIRONMENT,
    ) as child:
        assert child.stdin and child.stdout
        with suppress(BrokenPipeError), child.stdin as stdin:
            pickle.dump(request, stdin)
        for reply in map(json.loads, child.stdout):
            if "error" in reply:
                raise BenchmarkError(reply["error"])
            if "result" in reply:
                result: Result = reply["result"]
                return result
            if progress:
                progress(reply["progress"])
    raise BenchmarkError(f"the compiler's process ended with {child.returncode}.")


def main() -> None:
    """Replies to the request at the standard input."""
    # What libtpu prints must not get between the replies.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**reply: Any) -> None:
        print(json.dumps(reply), file=replies, flush=True)

    try:
        request = pickle.load(sys.stdin.buffer)
        say(result=_measure(lambda text: say(progress=text), *request))
    except Exception as error:
        say(error=" ".join(str(error).split())[:500])


def _measure(
    progress: Progress,
    topologies: Sequence[str],
    functions: Sequence[str],
    networks: Mapping[str, Network],
    size: int,
) -> Result:
    rows: list[dict[str, Any]] = []
    kinds = []
    elements = {title: _elements(network) for title, network in networks.items()}
    for topology in topologies:
        chip: Any = _chip(topology)
        kinds += [device.device_kind for device in chip.device_set]
        for row in _operations(chip, functions, size):
            progress(f"{topology}, operation, {row['function']}")
            rows.append({"topology": topology, "what": "operation"} | row)
        for title, network in networks.items():
            for row in _steps(chip, functions, network, elements[title]):
                progress(f"{topology}, {title}, {row['function']}")
                rows.append({"topology": topology, "what": title} | row)
    for row in rows:
        row["megabytes"] = row["bytes"] / 1e6
        row["temporary_megabytes"] = row["temporary"] / 1e6
    notes = [
        note.format(size=size, channels=CHANNELS, batches=batches(networks))
        for note in _NOTES
    ]
    result = to_result("tpu", _COLUMNS, rows, notes)
    result["setting"]["platform"] = ", ".join(kinds)
    result["setting"]["versions"]["libtpu"] = version("libtpu")
    return result


def _chip(topology: str) -> SingleDeviceSharding:
    try:
        description = get_topology_desc(platform="tpu", topology_name=topology)
    except Exception as error:
        raise BenchmarkError(
            f"`topologies` must be known to libtpu, got {topology!r}: {error}"
        ) from error
    return SingleDeviceSharding(description.devices[0])


def _operations(
    chip: SingleDeviceSharding,
    functions: Sequence[str],
    size: int,
) -> Iterator[dict[str, Any]]:
    for dtype in ("float32", "bfloat16"):
        x = jax.ShapeDtypeStruct((size // CHANNELS, CHANNELS), dtype)
        for mode, arrays in MODES.items():
            for name in functions:
                call, [args] = operation(FUNCTIONS[name], mode, [(x, x)])
                row = _costs(jax.jit(call), args, chip)
                row["transcendentals"] /= size
                row["bytes_to_floor"] = row["bytes"] / (
                    arrays * size * x.dtype.itemsize
                )
                yield {"function": name, "dtype": dtype, "mode": mode} | row


def _steps(
    chip: SingleDeviceSharding,
    functions: Sequence[str],
    network: Network,
    elements: float,
) -> Iterator[dict[str, Any]]:
    reference: dict[str, Any] = {}
    for name in functions:
        step, first = training_step(network, FUNCTIONS[name], "bfloat16")
        row = _costs(step, jax.eval_shape(first), chip)
        reference = reference or row.copy()
        row["transcendentals"] -= reference["transcendentals"]
        row["transcendentals"] /= elements
        row |= to_reference(row, reference)
        yield {"function": name, "dtype": "bfloat16", "mode": "step"} | row


def _costs(function: Any, args: Any, chip: SingleDeviceSharding) -> dict[str, float]:
    placed = jax.tree.map(
        lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=chip), args
    )
    compiled = function.lower(*placed).compile()
    # No transcendental at all leaves the name out.
    count = compiled.cost_analysis().get("transcendentals", 0.0)
    return needs(compiled) | {"transcendentals": count}


def _elements(network: Network) -> float:
    """Number of inputs of all activations, counted as XLA counts a program's work."""

    def transcendentals(call: Callable[[Array, Params], Array]) -> float:
        module = network.module(partial(Activation, Function(call)), "bfloat16")
        inputs = jax.ShapeDtypeStruct(network.inputs, "bfloat16")
        variables = jax.eval_shape(module.init, jax.random.key(0), inputs)
        costs: Any = jax.jit(module.apply).lower(variables, inputs).cost_analysis()
        count: float = costs.get("transcendentals", 0.0)
        return count

    return transcendentals(lambda x, _: jnp.exp(x)) - transcendentals(lambda x, _: x)


if __name__ == "__main__":
    main()
