"""The function and the modules, each as a function of (x, params, residual)."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from flax import nnx

from apalu_jax import APALUParams, apalu, linen
from apalu_jax import equinox as apalu_equinox
from apalu_jax import nnx as apalu_nnx


def _features(x, params):
    """Sizes and axes of x along which the parameters run, and the values stored."""
    shape = np.shape(params.a)
    axes = [i for i, n in enumerate(shape, np.ndim(x) - len(shape)) if n != 1]
    sizes = [x.shape[axis] for axis in axes]
    return sizes, axes, [jnp.reshape(jnp.asarray(p), sizes) for p in params]


def through_linen(x, params, residual):
    sizes, axes, (a, b) = _features(x, params)
    module = linen.APALU(feature_axes=axes or None, residual=residual)
    return module.apply({"params": {"apalu_a": a, "apalu_b": b}}, x)


def through_nnx(x, params, residual):
    sizes, axes, (a, b) = _features(x, params)
    module = apalu_nnx.APALU(
        sizes or None, feature_axes=axes or None, residual=residual
    )
    module.apalu_a, module.apalu_b = nnx.Param(a), nnx.Param(b)
    return module(x)


def through_equinox(x, params, residual):
    sizes, axes, stored = _features(x, params)
    module = apalu_equinox.APALU(
        sizes or None, feature_axes=axes or None, residual=residual
    )
    return eqx.tree_at(lambda m: (m.apalu_a, m.apalu_b), module, tuple(stored))(x)


DOORS = {
    "function": lambda x, params, residual: apalu(
        x, APALUParams(*params), residual=residual
    ),
    "linen": through_linen,
    "nnx": through_nnx,
    "equinox": through_equinox,
}
