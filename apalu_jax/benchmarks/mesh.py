"""Costs of a training step on a mesh of described TPUs: communication and memory.

A step takes minutes to compile. So every row is written when it is there, and a program
that a result has already is not compiled again.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import product
from math import prod, sqrt
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from apalu_jax._trees import Keys, join_keys
from apalu_jax.benchmarks import (
    Progress,
    Result,
    Row,
    plain,
    quiet,
    ratios,
    to_result,
)
from apalu_jax.benchmarks.functions import FUNCTIONS, choose
from apalu_jax.benchmarks.memory import compiled_costs, cost_row
from apalu_jax.benchmarks.step import (
    Network,
    Transformer,
    batch_sizes,
    training_step,
)
from apalu_jax.benchmarks.tpu import (
    begin,
    compiler,
    described_devices,
    digest,
    drop_outdated,
    keep_rows,
)
from apalu_jax.experiments.models.mobilenet import MobileNet

TOPOLOGIES = ("v5e:4x4", "v6e:4x4")
"""Sixteen chips of two generations."""

PEERS = ("gelu", "relu", "prelu", "apalu", "apalu, per channel")

REFERENCE = "gelu"

_CASE = ("topology", "network", "function")

_COMPARED = ("bytes", "temporary", "transcendentals", "moved")

_AXES = ("data", "model")

# An instruction's shapes and its kind; a pair of `-start` and `-done` counts once.
_COLLECTIVE = re.compile(
    r"= (?P<shapes>.*?) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all"
    r"|collective-permute)(?:-start)?\("
)
_SHAPE = re.compile(r"(?P<kind>pred|bf16|[a-z]+(?P<bits>\d+))\[(?P<sizes>[\d,]*)\]")

_COLUMNS = plain("topology", "network", "function", "collectives") | {
    "moved, MB": "{moved_megabytes:,.2f}",
    "moved to gelu": "{moved_to_gelu:.4f}",
    "bytes, MB": "{megabytes:,.1f}",
    "bytes to gelu": "{bytes_to_gelu:.4f}",
    "temporary, MB": "{temporary_megabytes:,.1f}",
    "temporary to gelu": "{temporary_to_gelu:.4f}",
    "transcendentals to gelu": "{transcendentals_to_gelu:.3f}",
}


_NOTES = (
    "Compiled ahead of time, and not run; every figure is that of one device of the "
    "mesh. A training step as in `apalu bench step`, in bfloat16. Batches: {batches}. "
    "mobilenet: the batch over all devices, parameters on each. gpt2-small: 12 blocks "
    "of width 768 and 12 heads with remat, on 4 x 4 devices, batch and one axis of "
    "every matrix over the first axis, heads and hidden units over the second.",
    "Collectives: instructions that communicate, by kind. Moved: the size of their "
    "results. The body of the scan over the blocks counts once.",
)


class Layout(NamedTuple):
    """A network on a mesh of (data, model), and the axes of its parameters."""

    network: Network
    mesh: tuple[int, int]
    places: Mapping[str, P]


LAYOUTS: Mapping[str, Layout] = {
    # One axis of every matrix over "data", as the batch; heads and hidden units over
    # "model". The first axis is that of the layers.
    "gpt2-small": Layout(
        Network(partial(Transformer, depth=12, heads=12, remat=True), (64, 1024, 768)),
        (4, 4),
        {
            "query/kernel": P(None, "data", "model"),
            "key/kernel": P(None, "data", "model"),
            "value/kernel": P(None, "data", "model"),
            "query/bias": P(None, "model"),
            "key/bias": P(None, "model"),
            "value/bias": P(None, "model"),
            "out/kernel": P(None, "model", None, "data"),
            "Dense_0/kernel": P(None, "data", "model"),
            "Dense_0/bias": P(None, "model"),
            "Activation_0/a": P(None, "model"),
            "Activation_0/b": P(None, "model"),
            "Dense_1/kernel": P(None, "model", "data"),
        },
    ),
    # Parameters on every chip, the batch split over all.
    "mobilenet": Layout(
        Network(
            partial(MobileNet, outputs=10, gain=sqrt(2.0), width=1.0),
            (2048, 32, 32, 3),
        ),
        (16, 1),
        {},
    ),
}


def measure(
    topologies: Sequence[str] = TOPOLOGIES,
    functions: Iterable[str] | None = None,
    layouts: Mapping[str, Layout] = LAYOUTS,
    *,
    quick: bool = False,
    out: Path | None = None,
    progress: Progress = quiet,
) -> Result:
    """Compile the training step of every network for every described mesh.

    With `quick` the first of both, and by default APALU alone beside gelu. After each
    row the result is written to `out`. Of a result that is there already, by the same
    compiler, the rows whose programs are the same are taken, and rows that are not
    asked for stay, unless gelu's program is another now.
    """
    sizes = batch_sizes({title: layout.network for title, layout in layouts.items()})
    notes = [note.format(batches=sizes) for note in _NOTES]
    if quick:
        topologies, layouts = topologies[:1], dict(list(layouts.items())[:1])
    if functions is None:
        functions = ("apalu",) if quick else PEERS
    names = choose(functions, REFERENCE)
    cases = list(product(topologies, layouts, names))
    with compiler() as child:
        result = to_result("mesh", _COLUMNS, [], notes)
        found = begin(child, result, topologies, _CASE, out)
        for case in cases:
            topology, network, name = case
            progress(f"{topology}, {network}, {name}")
            place = topology, layouts[network], name
            row = child.submit(step_costs, *place, found.get(case))
            if name == REFERENCE:
                drop_outdated(found, case, row, cases)
            found[case] = {**dict(zip(_CASE, case, strict=True)), **row}
            reference = found[topology, network, REFERENCE]
            found[case] |= ratios(_compared(row), _compared(reference), REFERENCE)
            keep_rows(result, found, cases, out)
    return result


def step_costs(topology: str, layout: Layout, name: str, before: Row | None) -> Row:
    """Costs of one device, in the child process; `before` if its program is the same.

    The row also has a digest of the program and the collectives by kind, in words.
    """
    lowered = lower_step(topology, layout, name)
    program = digest(lowered)
    if before is not None and before["program"] == program:
        return before
    compiled = lowered.compile()
    kinds, moved = count_collectives(compiled.as_text() or "")
    costs = compiled_costs(compiled)
    return {
        "program": program,
        "collectives": ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items())),
        **cost_row(costs),
        "transcendentals": costs.transcendentals,
        "moved": moved,
        "moved_megabytes": moved / 1e6,
    }


def _compared(row: Row) -> dict[str, float]:
    return {name: float(row[name]) for name in _COMPARED}


def lower_step(topology: str, layout: Layout, name: str) -> jax.stages.Lowered:
    """The training step of a network with a function, for the mesh of a layout."""
    step, first = training_step(layout.network, FUNCTIONS[name], "bfloat16")
    devices = np.array(described_devices(topology)).reshape(layout.mesh)
    mesh = Mesh(devices, _AXES)

    def place(path: Keys, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        ends = (spec for end, spec in layout.places.items() if _ends(path, end))
        spec = next((s for s in ends if len(s) <= len(leaf.shape)), P())
        sharding = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    state, *batch = jax.eval_shape(first)
    state = jax.tree.map_with_path(place, state)
    # The batch over all devices, or over the first axis of those that share a model.
    rows = NamedSharding(mesh, P(_AXES[0]))
    batch = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows) for x in batch]
    return step.lower(state, *batch)


def count_collectives(text: str) -> tuple[Counter[str], float]:
    """Instructions of a compiled program that communicate, by kind, and their bytes."""
    found: Counter[str] = Counter()
    moved = 0.0
    for match in _COLLECTIVE.finditer(text):
        found[match["kind"]] += 1
        moved += sum(map(_size, _SHAPE.finditer(match["shapes"])))
    return found, moved


def _size(shape: re.Match[str]) -> float:
    bits = {"pred": 8, "bf16": 16}.get(shape["kind"]) or int(shape["bits"])
    return bits / 8 * prod(int(n) for n in shape["sizes"].split(",") if n)


def _ends(path: Keys, end: str) -> bool:
    return join_keys(path).endswith(f"/{end}")
