"""Initial values of a lifted function, and how far its result moves with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from apalu_jax import init_like
from apalu_jax.surgery import lift
from apalu_jax.surgery._choice import moved_by

X = jax.random.normal(jax.random.key(3), (7, 3))


@pytest.mark.parametrize(
    ("act", "share"),
    [
        (jax.nn.silu, 0.8),
        (jax.nn.mish, 0.8),
        (jax.nn.elu, 1),
        (jax.nn.gelu, 1),
        # The fit of each place alone moves these networks 1 % further.
        (jax.nn.relu, None),
        (jax.nn.leaky_relu, None),
    ],
)
def test_values_fitted_to_the_inputs_move_a_trained_network_less(act, share):
    x = jax.random.normal(jax.random.key(1), (64, 3))
    y = jnp.sin(2 * x).sum(1, keepdims=True)

    def network(weights, x):
        for w, b in weights[:-1]:
            x = act(x @ w + b)
        return x @ weights[-1][0] + weights[-1][1]

    keys = jax.random.split(jax.random.key(2), 3)
    sizes = [(3, 17), (17, 17), (17, 1)]
    weights = [
        (
            jax.random.normal(key, size) / jnp.sqrt(size[0] * 1.0),
            jnp.zeros((1, size[1])),
        )
        for key, size in zip(keys, sizes, strict=True)
    ]

    @jax.jit
    def step(weights, _):
        def loss(weights):
            return jnp.mean((network(weights, x) - y) ** 2)

        value, grads = jax.value_and_grad(loss)(weights)
        return jax.tree.map(lambda w, g: w - 0.05 * g, weights, grads), value

    weights, losses = lax.scan(step, weights, length=400)
    assert losses[-1] < losses[0] / 3
    lifted = lift(network, weights, x, match="inputs")
    moved = lifted.report.moved
    if share is not None:
        assert moved["inputs"] < share * moved["function"]
    taken = moved_by(lifted.apply(lifted.init(), weights, x), network(weights, x))
    assert taken == pytest.approx(min(moved.values()), rel=1e-4)
    assert moved[lifted.report.taken] == min(moved.values())


def test_initial_values_are_those_asked_for():
    """Closest on the inputs or a normal distribution; PReLU by its trained slope."""
    x = jax.random.normal(jax.random.key(4), (501, 3)) * 3 - 1

    def network(slope, x):
        return jax.nn.silu(x), jnp.where(x >= 0, x, slope * x)

    slope = jnp.full((1, 3), 0.4)

    def prelu(z):
        return np.where(z >= 0, z, 0.4 * z)

    for match, sample in ((None, None), ("inputs", x)):
        params = lift(network, slope, x, match=match).init()
        for name, function in (("silu", jax.nn.silu), ("prelu", prelu)):
            a, b = init_like(function, sample)[0]
            found = params[name]["apalu_a"], params[name]["apalu_b"]
            np.testing.assert_allclose(found, (a, b), rtol=1e-4)
