"""Arrays on a mesh whose types say how they lie there."""

from typing import Any

import jax
from jax import Array, lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P


def share_sharding(x: Array, *params: Array) -> Array:
    """`x`, also sharded by type along the axes where a parameter of its rank is.

    Binary operations of JAX do the same, but a selection needs equal shardings.
    """
    for sharding in (jax.typeof(p).sharding for p in params if p.ndim):
        own = jax.typeof(x).sharding
        spec = [i or j for i, j in zip(own.spec, sharding.spec, strict=True)]
        if spec != [*own.spec]:
            x = jax.sharding.reshard(x, NamedSharding(sharding.mesh, P(*spec)))
    return x


def like_primal(ct: Array, primal: Array) -> Array:
    """Give a cotangent the type of its primal on a mesh.

    It is summed over the axes of `jax.shard_map` along which only `ct` varies, and
    resharded where the primal's type has explicit axes.
    """
    surplus = tuple(_varying(ct) - _varying(primal))
    if surplus:
        ct = lax.psum(ct, surplus)
    sharding = jax.typeof(primal).sharding
    explicit = AxisType.Explicit in sharding.mesh.axis_types
    if explicit and jax.typeof(ct).sharding != sharding:
        ct = jax.sharding.reshard(ct, sharding)
    return ct


def _varying(value: Array) -> frozenset[Any]:
    aval: Any = jax.typeof(value)
    # JAX 0.10 renamed the field.
    return aval.vma if hasattr(aval, "vma") else aval.manual_axis_type.varying
