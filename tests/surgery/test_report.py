"""The report's figures, with whatever a model takes and returns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from apalu_jax.surgery import lift, replace_activations

X = jax.random.normal(jax.random.key(0), (9, 3))


def lifted(fn, x):
    return lift(fn, x, match="inputs").report


def replaced(fn, x):
    class Net(nnx.Module):
        def __init__(self):
            self.act = nnx.silu

        def __call__(self, x):
            return jax.tree.map(lambda v: v, fn(x, self.act))

    return replace_activations(Net(), match="inputs", example_args=(x,))[1]


KINDS = {"lift": lifted, "replace_activations": replaced}

OUTPUTS = {
    "key": lambda y: (y, jax.random.key(3), jax.random.split(jax.random.key(4), 5)),
    "key as integers": lambda y: (y, jax.random.PRNGKey(3)),
    "integers": lambda y: {"y": y, "n": y.argmax(-1), "big": jnp.int32(2**31 - 1)},
    "boolean": lambda y: [y, y > 0],
    "number of Python": lambda y: (y, 7, True),
    "two": lambda y: (y[:, :1], y[:, 1:]),
    "complex": lambda y: y * jnp.exp(1j),
    "bfloat16": lambda y: y.astype(jnp.bfloat16),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_only_floating_arrays_count(kind, output, optax_promotion):
    def alone(x, act=jax.nn.silu):
        return act(x)

    report = KINDS[kind](lambda x, act=jax.nn.silu: OUTPUTS[output](act(x)), X)
    want = KINDS[kind](alone, X)
    rtol = 0.05 if output == "bfloat16" else 1e-5
    assert report.moved == pytest.approx(want.moved, rel=rtol)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_example_that_is_not_finite(kind, bad):
    """The report says so, and the fit uses what is finite."""
    report = KINDS[kind](lambda x, act=jax.nn.silu: act(x), X.at[2, 1].set(bad))
    assert "output not of finite numbers with initial values by inputs" in str(report)
    assert " nan" not in str(report)
    assert np.isnan(report.moved["inputs"])
    (row,) = report.rows
    without = KINDS[kind](lambda x, act=jax.nn.silu: act(x), jnp.delete(X, 2, 0))
    assert np.isfinite(row.a) and row.a == pytest.approx(without.rows[0].a, rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_output_without_floating_arrays(kind):
    report = KINDS[kind](lambda x, act=jax.nn.silu: act(x).argmax(-1), X)
    assert "output not of finite numbers" in str(report)
