"""Costs of programs compiled for a TPU, by its compiler's count, without a TPU.

The compiler, libtpu, reads its settings when it is loaded, and a JAX that finds it
expects a TPU, so it is loaded in a child process alone.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import product

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.topologies import get_topology_desc
from jax.sharding import SingleDeviceSharding

from apalu_jax._trees import PyTree
from apalu_jax.benchmarks import (
    BenchmarkError,
    Progress,
    Result,
    Row,
    plain,
    quiet,
    to_result,
)
from apalu_jax.benchmarks._process import Child, spawn
from apalu_jax.benchmarks.functions import FUNCTIONS, Activation, Function, choose
from apalu_jax.benchmarks.memory import Costs, compiled_costs, cost_row
from apalu_jax.benchmarks.ops import CHANNELS, DTYPES, MODES, check_size, operation
from apalu_jax.benchmarks.step import (
    LARGE,
    REFERENCE,
    Network,
    batch_sizes,
    training_step,
)

TOPOLOGIES = ("v5e:2x2", "v6e:2x2")

_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    # No question to a cloud's metadata server; the compiler's target is an argument.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    # Compiling needs no device, so another process may have it.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

_COLUMNS = plain("topology", "what", "dtype", "mode", "function") | {
    "bytes, MB": "{megabytes:,.1f}",
    "to floor": "{bytes_to_floor:.3f}",
    "to relu": "{bytes_to_relu:.4f}",
    "temporary, MB": "{temporary_megabytes:,.1f}",
    "temporary to relu": "{temporary_to_relu:.4f}",
    "transcendentals": "{transcendentals:.2f}",
}

_NOTES = (
    "Compiled ahead of time for one chip of each topology, and not run. Bytes: read "
    "and written, also to and from the chip's own memory; the body of a scan counts "
    "once. Temporary: memory besides arguments and results.",
    f"Operation: {{size:,}} elements in rows of {CHANNELS}. Forward: y. Backward: the "
    "cotangents of x and the parameters, from that of y and what the forward pass "
    "saved. Both: y and all cotangents in one program. Floor: 2, 3 and 4 arrays of the "
    "size of x; a backward pass that needs only a mask of x is below.",
    "Networks: a training step as in `apalu bench step`. Batches: {batches}.",
    "Transcendentals: exponentials and the like, divisions not among them, per input "
    "element of an activation; in a network, those beyond relu's.",
)


def measure(
    topologies: Sequence[str] = TOPOLOGIES,
    functions: Iterable[str] | None = None,
    networks: Mapping[str, Network] = LARGE,
    size: int = 2**28,
    progress: Progress = quiet,
) -> Result:
    """Compile every operation and every training step for described TPUs.

    Topologies are names that libtpu knows, such as ``"v5e:2x2"`` or ``"tpu7x:2x2x1"``.
    By default an operation has more elements than the chip's own memory holds.
    """
    names = choose(functions, REFERENCE)
    check_size("size", size)
    rows: list[Row] = []
    with compiler() as child:
        for topology in topologies:
            for dtype, mode, name in product(DTYPES, MODES, names):
                progress(f"{topology}, operation, {dtype}, {mode}, {name}")
                case = topology, dtype, mode, name
                rows.append(child.call(Compiler.operation, *case, size))
            for title, network in networks.items():
                progress(f"{topology}, {title}")
                rows += child.call(Compiler.steps, topology, title, network, names)
        values = {"size": size, "batches": batch_sizes(networks)}
        notes = [note.format(**values) for note in _NOTES]
        kinds = [child.call(Compiler.kind, topology) for topology in topologies]
    return finish("tpu", _COLUMNS, rows, notes, kinds=kinds)


def compiler() -> AbstractContextManager[Child["Compiler"]]:
    """The compiler in a process of its own."""
    if find_spec("libtpu") is None:
        raise BenchmarkError("`tpu` needs the compiler for TPUs: pip install libtpu")
    return spawn("the compiler for TPUs", Compiler, _ENVIRONMENT)


def finish(
    benchmark: str,
    columns: dict[str, str],
    rows: list[Row],
    notes: Sequence[str],
    *,
    kinds: Iterable[str],
) -> Result:
    """A result that names the kinds of chips and the compiler's version."""
    result = to_result(benchmark, columns, rows, notes)
    result["setting"]["platform"] = ", ".join(kinds)
    result["setting"]["versions"]["libtpu"] = version("libtpu")
    return result


class Compiler:
    """JAX with libtpu, in the child process."""

    def kind(self, topology: str) -> str:
        """Kind of the chips of a topology."""
        return str(described_devices(topology)[0].device_kind)

    def operation(
        self, topology: str, dtype: str, mode: str, name: str, size: int
    ) -> Row:
        """Row of a function alone, for `size` elements."""
        x = jax.ShapeDtypeStruct((size // CHANNELS, CHANNELS), dtype)
        call, [inputs] = operation(FUNCTIONS[name], mode, [(x, x)])
        costs = _costs(jax.jit(call), inputs, topology)
        return {
            "topology": topology,
            "what": "operation",
            "function": name,
            "dtype": dtype,
            "mode": mode,
            **cost_row(costs),
            "transcendentals": costs.transcendentals / size,
            "bytes_to_floor": costs.bytes / (MODES[mode] * size * x.dtype.itemsize),
        }

    def steps(
        self, topology: str, title: str, network: Network, functions: Sequence[str]
    ) -> list[Row]:
        """Rows of the training steps of a network."""
        found: dict[str, Costs] = {}
        for name in functions:
            step, first = training_step(network, FUNCTIONS[name], "bfloat16")
            found[name] = _costs(step, jax.eval_shape(first), topology)
        relu, elements = found[REFERENCE], count_elements(network)
        return [
            {
                "topology": topology,
                "what": title,
                "function": name,
                "dtype": "bfloat16",
                "mode": "step",
                **cost_row(costs, relu),
                "transcendentals": (costs.transcendentals - relu.transcendentals)
                / elements,
            }
            for name, costs in found.items()
        ]


def count_elements(network: Network) -> float:
    """Number of inputs of all activations, as XLA counts exponentials of them."""

    def transcendentals(call: Callable[[Array, object], Array]) -> float:
        module = network.module(
            activation=partial(Activation, Function(call)), dtype="bfloat16"
        )
        inputs = jax.ShapeDtypeStruct(network.inputs, "bfloat16")
        variables = jax.eval_shape(module.init, jax.random.key(0), inputs)
        costs = jax.jit(module.apply).lower(variables, inputs).cost_analysis()
        return float(costs.get("transcendentals", 0.0)) if costs else 0.0

    return transcendentals(lambda x, _: jnp.exp(x)) - transcendentals(lambda x, _: x)


@cache
def described_devices(topology: str) -> Sequence[jax.Device]:
    """Devices that are not there, to compile for."""
    try:
        description = get_topology_desc(platform="tpu", topology_name=topology)
    except Exception as error:
        raise BenchmarkError(
            f"`topologies` must be known to libtpu, got {topology!r}: "
            + " ".join(str(error).split())[:300]
        ) from error
    return tuple(description.devices)


def _costs(
    function: jax.stages.Wrapped, inputs: tuple[PyTree, ...], topology: str
) -> Costs:
    chip = SingleDeviceSharding(described_devices(topology)[0])
    placed = jax.tree.map(
        lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=chip), inputs
    )
    return compiled_costs(function.lower(*placed).compile())
