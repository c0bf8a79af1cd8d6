"""Equality of training on meshes; ``python -m tests.scale_table`` writes the table.

The script of tests/test_train_transformer.py, which asserts the bounds, trains a tiny
transformer for 20 steps on 8 devices of the host. The table has the largest relative
error of an array of the parameters as a whole, and of those of the activations.
"""

import os
from itertools import product
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax

from apalu_jax._readme import fill
from apalu_jax._tables import markdown_table
from tests.helpers import quick_code_generation
from tests.test_train_transformer import CHANNELS, LAYER, distances, trained

PAGE = Path(__file__).parents[1] / "docs" / "pages" / "scale.md"
MESHES = ((1, 1), (8, 1), (4, 2), (2, 4))
PROGRAMS = ("jit", "shard_map", "pmap")
FULL = "float32, a pair for each layer"
KINDS = {
    FULL: (LAYER, "float32"),
    "float32, a pair for each hidden unit": (CHANNELS, "float32"),
    "layers in bfloat16, a pair for each layer": (LAYER, "bfloat16"),
}


def table():
    """Markdown: the errors of each mesh and program to jit on one device."""
    lines = []
    for title, kind in KINDS.items():
        want, _ = trained("jit", (1, 1), *kind)
        cells = {}
        for mesh, parallel in product(MESHES, PROGRAMS):
            # But for jit, the shape of the mesh only orders the devices.
            if title != FULL and parallel != "jit" and mesh != (8, 1):
                continue
            state, _ = trained(parallel, mesh, *kind)
            errors = distances(state.params, want.params)
            cells[mesh, parallel] = " / ".join(f"{error:.1e}" for error in errors)
            print(title, mesh, parallel, cells[mesh, parallel], flush=True)
        for mesh in MESHES:
            name = "x".join(map(str, mesh))
            found = [cells.get((mesh, program), "-") for program in PROGRAMS]
            lines.append([title, name, *found])
    setting = f"`python -m tests.scale_table`, jax {jax.__version__}, CPU."
    return (
        markdown_table(["", "mesh, fsdp x model", *PROGRAMS], lines)
        + f"\n\n- Parameters / `a`, `b` alone. {setting}"
    )


if __name__ == "__main__":
    with quick_code_generation():  # as in the tests
        fill(PAGE, lambda name, _: table() if name == "equality" else None)
