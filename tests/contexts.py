"""The contexts in which a gradient is taken on one device, and what it must be.

Each context is a function of ``(f, x, params)``, of ``f(x, params)``, a NumPy array and
a pair of NumPy arrays, and returns the gradients of :func:`loss` by ``x`` and
``params``, of their own shapes. The documentation's table lists them under their
names.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from apalu_jax import APALUParams
from tests import oracle

DEVICES = 4

# How a and b are shaped for an x of (rows, columns).
KINDS = {
    "layer": lambda n, m: (),
    "channel": lambda n, m: (m,),
    "row": lambda n, m: (n, 1),
    "full": lambda n, m: (n, m),
}


def inputs(kind, shape, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 2, shape).astype(np.float32).astype(dtype)
    params = rng.uniform(0.3, 0.6, (2, *KINDS[kind](*shape))).astype(np.float32)
    return x, APALUParams(*params)


def loss(f):
    return lambda x, p: jnp.sum(jnp.sin(f(x, p).astype(jnp.float32)))


def grads(f):
    return jax.grad(loss(f), (0, 1))


def expected(x, params):
    """The value and the gradients of :func:`loss`, in float64.

    The value is rounded to the dtype of ``x`` first, as the function itself rounds it.
    """
    a, b = params
    y = oracle.value(x, a, b).astype(x.dtype)
    g = np.cos(y.astype(float))
    up, down, _, _ = oracle.parts(x)
    aligned = np.ones(x.ndim - a.ndim, int).tolist() + list(a.shape)
    axes = tuple(axis for axis, n in enumerate(aligned) if n == 1)
    da, db = (
        np.sum(g * part, axes).reshape(a.shape).astype(a.dtype) for part in (up, down)
    )
    return y, ((g * oracle.slope(x, a, b)).astype(x.dtype), APALUParams(da, db))


# One device, or none named.


def eager(f, x, p):
    return grads(f)(x, p)


def jit(f, x, p):
    return jax.jit(grads(f))(x, p)


def python_floats(f, x, p):
    """Scalar parameters are Python floats that the function closes over."""
    if p.a.ndim:
        return jit(f, x, p)
    dx = jax.jit(jax.grad(lambda x: loss(f)(x, APALUParams(*map(float, p)))))(x)
    return dx, jit(f, x, p)[1]


def committed(f, x, p):
    """The parameters are committed to one device, x lies nowhere."""
    return jax.jit(grads(f))(x, jax.device_put(p, jax.devices()[3]))


def vmap_examples(f, x, p):
    """The gradient of each row, where a row sees the parameters of all."""
    if p.a.shape[:1] == x.shape[:1]:
        return jit(f, x, p)
    dx, dp = jax.jit(jax.vmap(grads(f), (0, None)))(x, p)
    return dx, jax.tree.map(lambda v: v.sum(0), dp)


def vmap_ensemble(f, x, p):
    many = jax.tree.map(lambda v: np.stack([v, v, v]), p)
    found = jax.jit(jax.vmap(grads(f), (None, 0)))(x, many)
    return jax.tree.map(lambda v: v[1], found)


def scan(f, x, p):
    """Layers share constant parameters; only the last one does something to x."""

    def run(x, p):
        return lax.scan(
            lambda h, i: (lax.cond(i, f, lambda h, _: h, h, p), None), x, on
        )[0]

    on = np.array([False, False, True])
    return jax.jit(grads(run))(x, p)


def remat(f, x, p):
    return jax.jit(grads(jax.checkpoint(f)))(x, p)


def pmap(f, x, p):
    """x is split over four devices, the parameters are an argument for all."""
    if p.a.shape[:1] == x.shape[:1]:
        return jit(f, x, p)
    parts = x.reshape(DEVICES, -1, *x.shape[1:])

    def step(x, p):
        dx, dp = grads(f)(x, p)
        return dx, jax.tree.map(lambda v: DEVICES * lax.pmean(v, "data"), dp)

    dx, dp = jax.pmap(step, "data", in_axes=(0, None), out_axes=(0, None))(parts, p)
    return dx.reshape(x.shape), dp


def pmap_constants(f, x, p):
    """The parameters are constants inside pmap."""
    if p.a.shape[:1] == x.shape[:1]:
        return jit(f, x, p)
    parts = x.reshape(DEVICES, -1, *x.shape[1:])
    dx = jax.pmap(lambda x: grads(f)(x, p)[0])(parts)
    return dx.reshape(x.shape), jit(f, x, p)[1]


SINGLE = {
    "eager": eager,
    "jit": jit,
    "Python floats": python_floats,
    "committed to another device": committed,
    "vmap of examples": vmap_examples,
    "vmap of an ensemble": vmap_ensemble,
    "scan and cond": scan,
    "remat": remat,
    "pmap": pmap,
    "pmap, parameters constant": pmap_constants,
}
