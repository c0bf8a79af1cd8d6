"""Forward mode: with residual="autodiff" it works, with the others it says so."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import jet
from jax.sharding import PartitionSpec as P

from apalu_jax import APALUParams, apalu
from tests import oracle
from tests.doors import DOORS
from tests.helpers import table
from tests.mesh_contexts import ROWS, make_mesh

pytestmark = pytest.mark.usefixtures("quick_compilation")

rng = np.random.default_rng(0)
X = rng.normal(0, 2, (8, 5)).astype(np.float32)
X[:2, 0] = 0.0, -1e-7
TANGENT = rng.normal(size=X.shape).astype(np.float32)
PARAMS = {
    "layer": APALUParams(np.float32(0.5), np.float32(0.2)),
    "channel": APALUParams(*rng.uniform(0.3, 0.6, (2, 5)).astype(np.float32)),
}


# Each takes (f, params), of f(x, params), and returns what is computed and expected.


def jvp(f, p):
    da, db = p.b, p.a
    got = jax.jvp(f, (X, p), (TANGENT, APALUParams(da, db)))
    return got, (oracle.value(X, *p), tangent(p, TANGENT, da, db))


def tangent(p, dx, da, db):
    up, down, _, _ = oracle.parts(X)
    return oracle.slope(X, *p) * dx + up * da + down * db


def jacfwd(f, p):
    by_x, by_p = jax.jacfwd(f, (0, 1))(X[0], p)
    up, down, _, _ = oracle.parts(X[0])
    spread = np.diag if np.ndim(p.a) else np.asarray
    want = np.diag(oracle.slope(X[0], *p)), APALUParams(spread(up), spread(down))
    return (by_x, by_p), want


def linearize(f, p):
    _, linear = jax.linearize(f, X, p)
    ct = jax.linear_transpose(linear, X, p)(TANGENT)[0]
    got = linear(TANGENT, p), ct
    return got, (tangent(p, TANGENT, *p), TANGENT * oracle.slope(X, *p))


def second_derivative_of_a_network(f, p):
    """u_xx, as in the residual of a differential equation."""
    inner, outer = TANGENT[0], TANGENT[1]

    def u(t):
        return f(jnp.outer(t, inner), p) @ outer

    def u_t(t):
        return jax.jvp(u, (t,), (jnp.ones_like(t),))[1]

    t = X[:, 1]
    got = jax.jit(lambda t: jax.jvp(u_t, (t,), (jnp.ones_like(t),))[1])(t)
    second, _ = oracle.higher_slopes(np.outer(t, inner), *p)
    return got, second * inner.astype(float) ** 2 @ outer


def hessian(f, p):
    got = jax.jit(jax.hessian(lambda x: jnp.sum(jnp.sin(f(x, p)))))(X[0])
    y, y1 = oracle.value(X[0], *p), oracle.slope(X[0], *p)
    y2, _ = oracle.higher_slopes(X[0], *p)
    return got, np.diag(np.cos(y) * y2 - np.sin(y) * y1**2)


def taylor_series(f, p):
    zero = np.zeros_like(X)
    got = jet.jet(lambda x: f(x, p), (X,), ((TANGENT, zero, zero),))
    slopes = oracle.slope(X, *p), *oracle.higher_slopes(X, *p)
    want = [y * TANGENT.astype(float) ** n for n, y in enumerate(slopes, 1)]
    return got, (oracle.value(X, *p), want)


def fixed_point(f, p):
    """The gradient through the equilibrium z = f(z / 4 + x)."""

    def solve(g, z):
        return lax.fori_loop(0, 60, lambda _, z: z + g(z), z)

    def equilibrium(x):
        # The Jacobian is diagonal.
        return lax.custom_root(
            lambda z: f(z / 4 + x, p) - z,
            jnp.zeros_like(x),
            solve,
            lambda g, y: y / g(jnp.ones_like(y)),
        )

    got = equilibrium(X), jax.grad(lambda x: jnp.sum(equilibrium(x)))(X)
    z = np.zeros_like(X, float)
    for _ in range(200):
        z = oracle.value(z / 4 + X, *p)
    slope = oracle.slope(z / 4 + X, *p)
    return got, (z, slope / (1 - slope / 4))


TRANSFORMS = {
    f.__name__: f
    for f in (
        jvp,
        jacfwd,
        linearize,
        second_derivative_of_a_network,
        hessian,
        taylor_series,
        fixed_point,
    )
}


@pytest.mark.parametrize(
    ("transform", "door", "kind"),
    table(tuple(TRANSFORMS), tuple(DOORS), tuple(PARAMS), strength=1),
)
def test_forward_mode_agrees_with_the_oracle(transform, door, kind):
    got, want = TRANSFORMS[transform](
        partial(DOORS[door], residual="autodiff"), PARAMS[kind]
    )
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)


# Each needs the tangent of f(x, params) in forward mode, with x of shape (8, 5).


def push(f, x, p):
    return jax.jvp(f, (x, p), (x, p))


def by_x_alone(f, x, p):
    return jax.jvp(lambda x: f(x, p), (x,), (x,))


def by_a_alone(f, x, p):
    return jax.jvp(lambda a: f(x, APALUParams(a, p.b)), (p.a,), (p.a,))


def jacobian(f, x, p):
    return jax.jacfwd(f)(x, p)


def linearized(f, x, p):
    return jax.linearize(f, x, p)[1](x, p)


def jit_of_linearized(f, x, p):
    return jax.jit(jax.linearize(f, x, p)[1])(x, p)


def jit_of_jvp(f, x, p):
    return jax.jit(partial(push, f))(x, p)


def ahead_of_time(f, x, p):
    return jax.jit(partial(push, f)).lower(x, p)


def exported(f, x, p):
    return jax.export.export(jax.jit(partial(push, f)))(x, p)


def jvp_of_jit(f, x, p):
    return push(jax.jit(f), x, p)


def vmap_of_jvp(f, x, p):
    return jax.vmap(lambda x: push(f, x, p))(x)


def jvp_of_vmap(f, x, p):
    return push(jax.vmap(f, (0, None)), x, p)


def pmap(f, x, p):
    return jax.pmap(lambda x: push(f, x, p))(x)


def jvp_of_jvp(f, x, p):
    return jax.jvp(lambda x: by_x_alone(f, x, p)[1], (x,), (x,))


def gradient_of_jvp(f, x, p):
    return jax.grad(lambda x: jnp.sum(by_x_alone(f, x, p)[1]))(x)


def scan(f, x, p):
    return push(lambda x, p: lax.scan(lambda h, _: (f(h, p), 0), x, length=3)[0], x, p)


def while_loop(f, x, p):
    def run(x, p):
        step = lambda s: (s[0] + 1, f(s[1], p))  # noqa: E731
        return lax.while_loop(lambda s: s[0] < 3, step, (0, x))[1]

    return push(run, x, p)


def cond(f, x, p):
    return push(lambda x, p: lax.cond(x[0, 0] > 9, lambda x, _: x, f, x, p), x, p)


def rows(f, x, p):
    return push(lambda x, p: lax.map(lambda row: f(row, p), x), x, p)


def checkpoint(f, x, p):
    return push(jax.checkpoint(f), x, p)


def jit_of_checkpoint(f, x, p):
    return jax.jit(partial(push, jax.checkpoint(f)))(x, p)


def inside_shard_map(f, x, p):
    specs = {"in_specs": (P(ROWS), P()), "out_specs": P(ROWS)}
    inside = jax.shard_map(lambda *v: push(f, *v)[1], mesh=make_mesh("auto"), **specs)
    return inside(x, p)


def jvp_of_shard_map(f, x, p):
    specs = {"in_specs": (P(ROWS), P()), "out_specs": P(ROWS)}
    return push(jax.shard_map(f, mesh=make_mesh("auto"), **specs), x, p)


def implicit(f, x, p):
    return fixed_point(f, p)


FORWARD = {
    f.__name__: f
    for f in (
        push,
        by_x_alone,
        by_a_alone,
        jacobian,
        linearized,
        jit_of_linearized,
        jit_of_jvp,
        ahead_of_time,
        exported,
        jvp_of_jit,
        vmap_of_jvp,
        jvp_of_vmap,
        pmap,
        jvp_of_jvp,
        gradient_of_jvp,
        scan,
        while_loop,
        cond,
        rows,
        checkpoint,
        jit_of_checkpoint,
        inside_shard_map,
        jvp_of_shard_map,
        implicit,
    )
}


@pytest.mark.parametrize(
    ("forward", "door", "residual", "kind"),
    table(tuple(FORWARD), tuple(DOORS), ("input", "output"), tuple(PARAMS), strength=1),
)
def test_other_residuals_name_the_remedy(forward, door, residual, kind):
    x, p = jnp.asarray(X), jax.tree.map(jnp.asarray, PARAMS[kind])
    f = partial(DOORS[door], residual=residual)
    with pytest.raises(TypeError, match="`residual` must be 'autodiff'"):
        FORWARD[forward](f, x, p)


@pytest.mark.slow
@pytest.mark.parametrize("forward", FORWARD)
def test_autodiff_works_in_each_of_these_contexts(forward):
    x, p = jnp.asarray(X), jax.tree.map(jnp.asarray, PARAMS["channel"])
    FORWARD[forward](partial(apalu, residual="autodiff"), x, p)


@pytest.mark.parametrize("residual", ["input", "output"])
def test_taylor_series_of_other_residuals_raise(residual):
    """By an error of JAX, whose jet takes no custom_vjp.

    That of 0.10.2 calls the function outside of its own trace; that of 0.8.1 does not
    know an argument of its rule.
    """
    with pytest.raises((jax.errors.UnexpectedTracerError, TypeError)):
        taylor_series(partial(apalu, residual=residual), PARAMS["layer"])
