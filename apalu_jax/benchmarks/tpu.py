"""Costs of programs compiled for a TPU, by its compiler's count, without a TPU.

The compiler, libtpu, reads its settings when it is loaded, and a JAX that finds it
expects a TPU, so it is loaded in a child process alone.

A program takes up to minutes to compile. So every row is written when it is there, and
a program that a result has already is not compiled again.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache, partial
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import TypeAlias

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
    ratios,
    read_result,
    to_result,
    write_result,
)
from apalu_jax.benchmarks._process import Child, spawn
from apalu_jax.benchmarks.functions import FUNCTIONS, Activation, Function, choose
from apalu_jax.benchmarks.memory import compiled_costs, cost_row
from apalu_jax.benchmarks.ops import CHANNELS, DTYPES, MODES, check_size, operation
from apalu_jax.benchmarks.step import (
    LARGE,
    REFERENCE,
    Network,
    batch_sizes,
    training_step,
)

TOPOLOGIES = ("v5e:2x2", "v6e:2x2")
PEERS = ("gelu", "prelu", "textbook APALU", "apalu")

Case: TypeAlias = tuple[str, ...]
"""Values of a row that tell it from the others."""

_CASE = ("topology", "what", "dtype", "mode", "function")
_STEP_DTYPE = "bfloat16"

# What a compiled program depends on, besides the program.
_COMPILERS = ("jax", "jaxlib", "libtpu")

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
    *,
    quick: bool = False,
    out: Path | None = None,
    progress: Progress = quiet,
) -> Result:
    """Compile every operation and every training step for described TPUs.

    Topologies are names that libtpu knows, such as ``"v5e:2x2"`` or ``"tpu7x:2x2x1"``.
    By default an operation has more elements than the chip's own memory holds. With
    `quick` only the first network for the first topology, and by default APALU alone
    beside relu. After each row the result is written to `out`. Of a result that is
    there already, by the same compiler, the rows whose programs are the same are taken,
    and rows that are not asked for stay, unless relu's program is another now.
    """
    check_size("size", size)
    values = {"size": size, "batches": batch_sizes(networks)}
    notes = [note.format(**values) for note in _NOTES]
    if quick:
        topologies, networks = topologies[:1], dict(list(networks.items())[:1])
    if functions is None:
        functions = ("apalu",) if quick else PEERS
    names = choose(functions, REFERENCE)
    cases: list[Case] = []
    for topology in topologies:
        if not quick:
            cases += product([topology], ["operation"], DTYPES, MODES, names)
        cases += product([topology], networks, [_STEP_DTYPE], ["step"], names)
    with compiler() as child:
        result = to_result("tpu", _COLUMNS, [], notes)
        found = begin(child, result, topologies, _CASE, out)
        elements = {k: child.call(Compiler.elements, v) for k, v in networks.items()}
        for case in cases:
            topology, what, dtype, mode, name = case
            progress(", ".join(case))
            before = found.get(case)
            if what in networks:
                step = topology, networks[what], name
                row = child.call(Compiler.row, before, lower_step, *step)
                if name == REFERENCE:
                    drop_outdated(found, case, row, cases)
                relu = row if name == REFERENCE else found[*case[:-1], REFERENCE]
                row |= _compared(row, relu, elements[what])
            else:
                alone = topology, dtype, mode, name, size
                row = child.call(Compiler.row, before, lower_operation, *alone)
                row |= _per_element(row, MODES[mode], jnp.dtype(dtype).itemsize, size)
            found[case] = {**dict(zip(_CASE, case, strict=True)), **row}
            keep_rows(result, found, cases, out)
    return result


def _compared(row: Row, relu: Row, elements: float) -> Row:
    """Costs of a step over those with relu, and exponentials for each element."""
    costs, reference = (
        {name: float(r[name]) for name in ("bytes", "temporary")} for r in (row, relu)
    )
    more = float(row["exponentials"]) - float(relu["exponentials"])
    return {**ratios(costs, reference, REFERENCE), "transcendentals": more / elements}


def _per_element(row: Row, arrays: int, itemsize: int, size: int) -> Row:
    """Bytes of an operation over the floor, and exponentials for each element."""
    return {
        "transcendentals": float(row["exponentials"]) / size,
        "bytes_to_floor": float(row["bytes"]) / (arrays * size * itemsize),
    }


def known_rows(
    out: Path | None, result: Result, names: Sequence[str]
) -> dict[Case, Row]:
    """Rows of an earlier result by the values of some names.

    Empty, unless the same versions of JAX and libtpu made it for the same benchmark.
    """
    if out is None or not out.exists():
        return {}
    before = read_result(out)
    old, new = (r["setting"]["versions"] for r in (before, result))
    same = all(old.get(name) == new[name] for name in _COMPILERS)
    if before["benchmark"] != result["benchmark"] or not same:
        return {}
    return {tuple(str(row[name]) for name in names): row for row in before["rows"]}


def drop_outdated(
    found: dict[Case, Row], case: Case, row: Row, cases: Sequence[Case]
) -> None:
    """Remove rows not in `cases` if a reference's new row is of another program."""
    if case in found and found[case].get("program") != row["program"]:
        for other in found.keys() - {*cases}:
            if other[:-1] == case[:-1]:
                del found[other]


def keep_rows(
    result: Result,
    found: Mapping[Case, Row],
    cases: Sequence[Case],
    out: Path | None,
) -> None:
    """Put the rows in a result, those of `cases` first, and write it to `out`."""
    order = dict.fromkeys([*cases, *found])
    result["rows"] = [found[case] for case in order if case in found]
    if out is not None:
        write_result(result, out)


def compiler() -> AbstractContextManager[Child["Compiler"]]:
    """The compiler in a process of its own."""
    if find_spec("libtpu") is None:
        raise BenchmarkError("`tpu` needs the compiler for TPUs: pip install libtpu")
    return spawn("the compiler for TPUs", Compiler, _ENVIRONMENT)


def begin(
    child: Child["Compiler"],
    result: Result,
    topologies: Sequence[str],
    names: Sequence[str],
    out: Path | None,
) -> dict[Case, Row]:
    """Name compiler and chips in a result; the rows that an earlier one has.

    The chips are those of the topologies and of the earlier rows, whose first name is
    that of a topology.
    """
    result["setting"]["versions"]["libtpu"] = version("libtpu")
    found = known_rows(out, result, names)
    every = dict.fromkeys([*topologies, *(case[0] for case in found)])
    kinds = [child.call(Compiler.kind, topology) for topology in every]
    result["setting"]["platform"] = ", ".join(kinds)
    return found


class Compiler:
    """JAX with libtpu, in the child process."""

    def kind(self, topology: str) -> str:
        """Kind of the chips of a topology."""
        return str(described_devices(topology)[0].device_kind)

    def elements(self, network: Network) -> float:
        """:func:`count_elements`."""
        return count_elements(network)

    def row(
        self,
        before: Row | None,
        lower: Callable[..., jax.stages.Lowered],
        *args: object,
    ) -> Row:
        """Digest and costs of a program; `before` if that has the same digest."""
        lowered = lower(*args)
        program = digest(lowered)
        if before is not None and before.get("program") == program:
            return before
        costs = compiled_costs(lowered.compile())
        row = {**cost_row(costs), "exponentials": costs.transcendentals}
        return {"program": program, **row}


def digest(lowered: jax.stages.Lowered) -> str:
    """Digest of a program before its compilation, by which a row is known again."""
    return sha256(lowered.as_text().encode()).hexdigest()[:16]


def lower_operation(
    topology: str, dtype: str, mode: str, name: str, size: int
) -> jax.stages.Lowered:
    """A function alone, for `size` elements."""
    x = jax.ShapeDtypeStruct((size // CHANNELS, CHANNELS), dtype)
    call, [inputs] = operation(FUNCTIONS[name], mode, [(x, x)])
    return lower_for(topology, jax.jit(call), inputs)


def lower_step(topology: str, network: Network, name: str) -> jax.stages.Lowered:
    """The training step of a network with a function."""
    step, first = training_step(network, FUNCTIONS[name], _STEP_DTYPE)
    return lower_for(topology, step, jax.eval_shape(first))


def count_elements(network: Network) -> float:
    """Number of inputs of all activations, as XLA counts exponentials of them."""

    def transcendentals(call: Callable[[Array, object], Array]) -> float:
        module = network.module(
            activation=partial(Activation, Function(call)), dtype=_STEP_DTYPE
        )
        inputs = jax.ShapeDtypeStruct(network.inputs, _STEP_DTYPE)
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


def lower_for(
    topology: str, function: jax.stages.Wrapped, inputs: tuple[PyTree, ...]
) -> jax.stages.Lowered:
    """A jitted function lowered for the first chip of a topology."""
    chip = SingleDeviceSharding(described_devices(topology)[0])
    placed = jax.tree.map(
        lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=chip), inputs
    )
    return function.lower(*placed)
