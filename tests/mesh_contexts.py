"""The contexts in which a gradient is taken on a mesh of four by two devices.

Each context of ``ON_MESH`` is a function of the mesh and of what those of
:mod:`tests.contexts` take. The documentation's table lists all of them under their
names.
"""

from functools import partial
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from apalu_jax import APALUParams
from tests.contexts import KINDS, grads

ROWS, COLUMNS = "data", "model"
SPEC = P(ROWS, COLUMNS)
SIZES = (4, 2)

# How a and b of each kind are sharded.
SPECS = {"layer": P(), "channel": P(COLUMNS), "row": P(ROWS, None), "full": SPEC}

MESHES = {
    "auto": (AxisType.Auto, AxisType.Auto),
    "explicit": (AxisType.Explicit, AxisType.Explicit),
    "auto, explicit": (AxisType.Auto, AxisType.Explicit),
    "explicit, auto": (AxisType.Explicit, AxisType.Auto),
}


def make_mesh(axis_types):
    return jax.make_mesh(SIZES, (ROWS, COLUMNS), axis_types=MESHES[axis_types])


def spec_of(v, shape):
    """The sharding of a parameter, by its shape."""
    kinds = {build(*shape): kind for kind, build in KINDS.items()}
    return SPECS[kinds[np.shape(v)]]


def only(axes, spec):
    """The part of a sharding that concerns some axes of the mesh."""
    return P(*(axis if axis in axes else None for axis in spec))


class Placement(NamedTuple):
    """Places of the arrays; the mesh set or not, the function compiled or not."""

    x: str
    params: str
    set_mesh: bool
    compiled: bool

    def __call__(self, axis_types, f, x, p):
        mesh = make_mesh(axis_types)
        put = {
            "NumPy": lambda v, spec: v,
            "never placed": lambda v, spec: jnp.asarray(v),
            "replicated": lambda v, spec: jax.device_put(v, NamedSharding(mesh, P())),
            "sharded": lambda v, spec: jax.device_put(v, NamedSharding(mesh, spec)),
        }
        step = jax.jit(grads(f)) if self.compiled else grads(f)
        shape = x.shape
        with within(mesh, self.set_mesh):
            x = put[self.x](x, SPEC)
            p = jax.tree.map(lambda v: put[self.params](v, spec_of(v, shape)), p)
            found = step(x, p)
        # In the type of a cotangent stands the sharding of its primal.
        for ct, primal in zip(
            jax.tree.leaves(found), jax.tree.leaves((x, p)), strict=True
        ):
            if isinstance(primal, jax.Array):
                want = jax.typeof(primal).sharding
                if AxisType.Explicit in want.mesh.axis_types:
                    assert jax.typeof(ct).sharding.spec == want.spec
        return found


def within(mesh, is_set):
    return jax.set_mesh(mesh) if is_set else jax.set_mesh(jax.sharding.get_mesh())


PLACES = ("NumPy", "never placed", "replicated", "sharded")


def placed(mesh, x, p):
    """x and the parameters, sharded."""

    def put(value, spec):
        return jax.device_put(value, NamedSharding(mesh, spec))

    return put(x, SPEC), jax.tree.map(lambda v: put(v, spec_of(v, x.shape)), p)


def shard_map_over(axes, mesh, f, shape, p, check_vma):
    specs = jax.tree.map(lambda v: only(axes, spec_of(v, shape)), p)
    return jax.shard_map(
        f,
        mesh=mesh,
        in_specs=(only(axes, SPEC), specs),
        out_specs=only(axes, SPEC),
        axis_names=set(axes),
        check_vma=check_vma,
    )


def shard_map(mesh, f, x, p, check_vma=True):
    mapped = shard_map_over((ROWS, COLUMNS), mesh, f, x.shape, p, check_vma)
    return jax.jit(grads(mapped))(*placed(mesh, x, p))


def shard_map_unchecked(mesh, f, x, p):
    return shard_map(mesh, f, x, p, check_vma=False)


def gradient_inside_shard_map(mesh, f, x, p):
    """The gradient of a replicated parameter comes back summed over the mesh."""
    specs = SPEC, jax.tree.map(lambda v: spec_of(v, x.shape), p)
    inside = jax.shard_map(grads(f), mesh=mesh, in_specs=specs, out_specs=specs)
    return jax.jit(inside)(*placed(mesh, x, p))


def partly_manual(axis, check_vma, mesh, f, x, p):
    with jax.set_mesh(mesh):
        mapped = shard_map_over((axis,), mesh, f, x.shape, p, check_vma)
        return jax.jit(grads(mapped))(x, p)


def nested_shard_map(mesh, f, x, p):
    shape, specs = x.shape, jax.tree.map(lambda v: spec_of(v, x.shape), p)

    def outer(x, p):
        return jax.shard_map(
            f,
            in_specs=(
                only((COLUMNS,), SPEC),
                jax.tree.map(partial(only, (COLUMNS,)), specs),
            ),
            out_specs=only((COLUMNS,), SPEC),
            axis_names={COLUMNS},
        )(x, p)

    with jax.set_mesh(mesh):
        mapped = shard_map_over((ROWS,), mesh, outer, shape, p, True)
        return jax.jit(grads(mapped))(x, p)


def ensemble_over_devices(mesh, f, x, p):
    many = jax.tree.map(lambda v: np.stack([v] * SIZES[0]), p)
    many = jax.device_put(many, NamedSharding(mesh, P(ROWS)))
    found = jax.jit(jax.vmap(grads(f), (None, 0)))(x, many)
    return jax.tree.map(lambda v: np.asarray(v)[1], found)


def spmd_axis_name(mesh, f, x, p):
    many = jax.tree.map(lambda v: np.stack([v] * SIZES[0]), p)
    with jax.set_mesh(mesh):
        many = jax.device_put(many, NamedSharding(mesh, P(ROWS)))
        step = jax.vmap(grads(f), (None, 0), spmd_axis_name=ROWS)
        found = jax.jit(step)(x, many)
    return jax.tree.map(lambda v: np.asarray(v)[1], found)


def nothing_placed_under_set_mesh(mesh, f, x, p):
    with jax.set_mesh(mesh):
        return jax.jit(grads(f))(x, p)


def constrain(mesh, v, spec):
    """By the means that each kind of axis has."""
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    explicit, auto = (
        NamedSharding(mesh, only([n for n in types if types[n] is kind], spec))
        for kind in (AxisType.Explicit, AxisType.Auto)
    )
    if any(explicit.spec):
        v = jax.sharding.reshard(v, explicit)
    return lax.with_sharding_constraint(v, auto) if any(auto.spec) else v


def constraint_on_x(mesh, f, x, p):
    with jax.set_mesh(mesh):
        return jax.jit(grads(lambda x, p: f(constrain(mesh, x, SPEC), p)))(x, p)


def constraint_on_params(mesh, f, x, p):
    def constrained(x, p):
        on_mesh = [constrain(mesh, v, spec_of(v, x.shape)) for v in p]
        return f(x, APALUParams(*on_mesh))

    with jax.set_mesh(mesh):
        return jax.jit(grads(constrained))(x, p)


def in_shardings_donated(mesh, f, x, p):
    """Ahead of time, with shardings given and the input's buffer donated."""
    x, p = placed(mesh, x, p)
    shardings = jax.tree.map(lambda v: v.sharding, (x, p))
    step = jax.jit(
        grads(f), in_shardings=shardings, out_shardings=shardings, donate_argnums=0
    )
    return step.lower(x, p).compile()(x, p)


ON_MESH = {
    "shard_map": shard_map,
    "shard_map, check_vma=False": shard_map_unchecked,
    "gradient inside shard_map": gradient_inside_shard_map,
    **{
        f"shard_map over {axis} alone, check_vma={check}": partial(
            partly_manual, axis, check
        )
        for axis, check in product((ROWS, COLUMNS), (True, False))
    },
    "shard_map in shard_map": nested_shard_map,
    "vmap of an ensemble over devices": ensemble_over_devices,
    "vmap with spmd_axis_name": spmd_axis_name,
    "set_mesh, nothing placed": nothing_placed_under_set_mesh,
    "sharding constraint on x alone": constraint_on_x,
    "sharding constraint on a, b alone": constraint_on_params,
    "in_shardings, donated": in_shardings_donated,
}


def jax_cannot(context, axis_types, residual):
    """Why JAX 0.8.1 to 0.10.2 differentiates no such function there, or None.

    tests/test_contexts.py repeats it with a function that is not of this package.
    """
    if isinstance(context, Placement):
        on_mesh = {context.x, context.params} & {"replicated", "sharded"}
        if "explicit" in axis_types and on_mesh:
            if not context.set_mesh and not context.compiled:
                return "eager gradients of explicitly sharded arrays need jax.set_mesh"
        return None
    if context == "shard_map in shard_map":
        if axis_types.endswith("explicit"):
            return "the cotangent of an inner shard_map has the type of its axis"
        if residual == "autodiff":
            return "what is computed in an inner shard_map cannot be saved"
    return None
