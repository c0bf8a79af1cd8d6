"""Transformations of JAX by name; each takes (f, x, params) and returns a pytree."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from apalu_jax import APALUParams

ROWS, COLUMNS = 8, 6

# Shape of a and b for x of shape (ROWS, COLUMNS), and what of it a row sees.
PARAMS = {
    "scalar": ((), ()),
    "channel": ((COLUMNS,), (COLUMNS,)),
    "row": ((ROWS, 1), (1,)),
    "full": ((ROWS, COLUMNS), (COLUMNS,)),
}


def inputs(kind, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(0, 2, (ROWS, COLUMNS)), dtype)
    a, b = rng.uniform(0.3, 0.6, (2, *PARAMS[kind][0]))
    return x, APALUParams(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))


def loss(f):
    return lambda x, p: jnp.sum(jnp.sin(f(x, p).astype(jnp.float32)))


def both_grads(f):
    return jax.grad(loss(f), (0, 1))


def value(f, x, p):
    return f(x, p)


def vjp(f, x, p):
    y, pull = jax.vjp(f, x, p)
    return pull(jnp.cos(y))


def value_and_grad(f, x, p):
    return jax.value_and_grad(loss(f), (0, 1))(x, p)


def grad_of_vmap(f, x, p):
    """x batched, the parameters not: their gradients are summed over the batch."""
    row = APALUParams(*(v[0] if v.shape[:1] == (ROWS,) else v for v in p))
    return both_grads(jax.vmap(f, (0, None)))(x, row)


def vmap_of_grad(f, x, p):
    row = APALUParams(*(v[0] if v.shape[:1] == (ROWS,) else v for v in p))
    return jax.vmap(both_grads(f), (0, None))(x, row)


def vmap_over_params(f, x, p):
    many = jax.tree.map(lambda v: jnp.stack([v, 2 * v, 3 * v]), p)
    return jax.vmap(both_grads(f), (None, 0))(x, many)


def vmap_over_both(f, x, p):
    many = jax.tree.map(lambda v: jnp.stack([v, v / 2]), p)
    return jax.vmap(both_grads(f))(jnp.stack([x, -x]), many)


def vmap_last_axis(f, x, p):
    row = APALUParams(*(v.ravel()[0] for v in p))
    return jax.vmap(both_grads(f), (1, None), 0)(x, row)


def scan(f, x, p):
    def run(x, p):
        y, _ = lax.scan(lambda h, _: (f(h, p), None), x, length=3)
        return y

    return both_grads(run)(x, p)


def loop_in_scan(f, x, p):
    def body(h, _):
        count, h = lax.while_loop(
            lambda s: s[0] < 2, lambda s: (s[0] + 1, f(s[1], p)), (0, h)
        )
        return h, count

    return lax.scan(body, x, length=2)


def fori_with_gradient(f, x, p):
    return both_grads(lambda x, p: lax.fori_loop(0, 3, lambda _, h: f(h, p), x))(x, p)


def cond(f, x, p):
    return both_grads(lambda x, p: lax.cond(x[0, 0] > 0, f, f, x, p))(x, p)


def checkpoint(f, x, p):
    return both_grads(jax.checkpoint(lambda x, p: f(f(x, p), p)))(x, p)


def checkpoint_with(policy, f, x, p):
    body = jax.checkpoint(lambda x, p: f(jnp.sin(f(x, p)), p), policy=policy)
    return both_grads(body)(x, p)


def checkpoint_in_scan(f, x, p):
    step = jax.checkpoint(lambda h, p: f(h, p), prevent_cse=False)

    def run(x, p):
        return lax.scan(lambda h, _: (step(h, p), None), x, length=3)[0]

    return both_grads(run)(x, p)


def linearize_gradient(f, x, p):
    _, linear = jax.linearize(both_grads(f), x, p)
    return linear(jnp.ones_like(x), p)


def transpose_linearized(f, x, p):
    y, linear = jax.linearize(f, x, p)
    return jax.linear_transpose(linear, x, p)(jnp.cos(y))


def grad_of_grad(f, x, p):
    inner = both_grads(f)

    def norm(x, p):
        return sum(jnp.sum(v**2) for v in jax.tree.leaves(inner(x, p)))

    return jax.grad(norm, (0, 1))(x, p)


def hessian(f, x, p):
    return jax.hessian(lambda v: loss(f)(x.at[0].set(v), p))(x[0])


def jacrev(f, x, p):
    return jax.jacrev(lambda p: f(x[:2, :2], p))(
        APALUParams(*(v.ravel()[0] for v in p))
    )


POLICIES = {
    name: partial(checkpoint_with, getattr(jax.checkpoint_policies, name))
    for name in (
        "nothing_saveable",
        "everything_saveable",
        "dots_saveable",
        "dots_with_no_batch_dims_saveable",
    )
}


TRANSFORMS = {
    f.__name__: f
    for f in (
        value,
        vjp,
        value_and_grad,
        grad_of_vmap,
        vmap_of_grad,
        vmap_over_params,
        vmap_over_both,
        vmap_last_axis,
        scan,
        loop_in_scan,
        fori_with_gradient,
        cond,
        checkpoint,
        checkpoint_in_scan,
        linearize_gradient,
        transpose_linearized,
        grad_of_grad,
        hessian,
        jacrev,
    )
} | POLICIES
