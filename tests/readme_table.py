"""The table of what works; ``python -m tests.readme_table`` puts it into its page.

Each row stands for cells of the tables of tests, which tests/test_readme.py compares.
"""

from pathlib import Path

from apalu_jax._readme import fill
from tests.mesh_contexts import MESHES, ON_MESH, jax_cannot

TRANSFORMATIONS = {
    "`jit`, `vmap`, `pmap`, `scan`, `while_loop`, `cond`": (
        "value", "grad_of_vmap", "vmap_of_grad", "vmap_over_params", "vmap_over_both",
        "vmap_last_axis", "scan", "loop_in_scan", "fori_with_gradient", "cond",
    ),
    "`grad`, `value_and_grad`, `vjp`, `jacrev`": (
        "vjp", "value_and_grad", "transpose_linearized", "jacrev",
    ),
    "`grad` of `grad`, `hessian`, `jvp` or `linearize` of a gradient": (
        "linearize_gradient", "grad_of_grad", "hessian",
    ),
    "`checkpoint` and its policies": (
        "checkpoint", "checkpoint_in_scan", "nothing_saveable", "everything_saveable",
        "dots_saveable", "dots_with_no_batch_dims_saveable",
    ),
}  # fmt: skip
WHERE = {
    "one device: eager, `jit`, parameters committed elsewhere or Python floats": (
        "eager", "jit", "Python floats", "committed to another device", "remat",
        "vmap of examples", "vmap of an ensemble", "scan and cond",
    ),
    "`pmap` with `pmean`, parameters as arguments or constants": (
        "pmap", "pmap, parameters constant",
    ),
    "`jit` on a mesh, with shardings, constraints or `set_mesh`": (
        "set_mesh, nothing placed", "sharding constraint on x alone",
        "sharding constraint on a, b alone", "in_shardings, donated",
    ),
    "`shard_map` over all or some axes, `check_vma` on or off": (
        "shard_map", "shard_map, check_vma=False", "gradient inside shard_map",
        *(name for name in ON_MESH if name.startswith("shard_map over")),
    ),
    "`shard_map` in `shard_map`, the function": ("shard_map in shard_map",),
    "`vmap` over devices, `spmd_axis_name`": (
        "vmap of an ensemble over devices", "vmap with spmd_axis_name",
    ),
}  # fmt: skip


def readme_table():
    """Markdown: whether each works for each residual, from what the tests say."""
    refused, set_mesh = 'an error names `"autodiff"`', "eager on explicit axes needs"
    saved = "the result, which the next layer saves anyway"
    rows = {row: ("yes",) * 3 for row in TRANSFORMATIONS}
    for row, names in WHERE.items():
        residuals = ("input", "output", "autodiff")
        rows[row] = tuple(_cell(names, residual) for residual in residuals)
    rows |= {
        "`export` with symbolic sizes, its gradient too, for CPU, CUDA and TPU": (
            ("yes",) * 3
        ),
        "any of x, a, b sharded, replicated or not placed": (
            (f"yes; {set_mesh} `set_mesh`",) * 3
        ),
        "forward mode: `jvp`, `jacfwd`, calling what `linearize` returns": (
            *(refused, refused, "yes"),
        ),
        # jet drops every rule of jax.custom_jvp, and with it the message.
        "`jet`": ("JAX's error, as for `jax.nn.relu`", "the same", "yes"),
        "saved for the backward pass, besides `a` and `b`": (
            *("`x`", saved, "all that autodiff saves"),
        ),
    }
    lines = [
        '| | `residual="input"` | `residual="output"`, `a, b > 0` | '
        '`residual="autodiff"` |',
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| {row} | {' | '.join(cells)} |" for row, cells in rows.items()]
    return "\n".join(lines)


def _cell(names, residual):
    cannot = {
        mesh
        for mesh in MESHES
        if any(jax_cannot(name, mesh, residual) for name in names)
    }
    if not cannot:
        return "yes"
    if len(cannot) == len(MESHES):
        return "no: JAX cannot"
    return "yes; JAX cannot if the inner axis is explicit"


PAGE = Path(__file__).parents[1] / "docs" / "pages" / "transformations.md"

if __name__ == "__main__":
    fill(PAGE, lambda name, _: readme_table() if name == "contexts" else None)
