"""The optimizer kit inside of optax's wrappers, under vmap, and saved."""

from functools import partial

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from apalu_jax.optim import (
    freeze,
    keep_positive,
    label_params,
    scale_activation_updates,
    weight_decay_mask,
)
from tests.trees import PARAMS, Model, X, activations, train

pytestmark = pytest.mark.usefixtures("optax_promotion", "quick_compilation")


def kit(learning_rate=1e3):
    """All transformations of the module in one chain."""
    return optax.chain(
        optax.adamw(learning_rate, mask=weight_decay_mask),
        scale_activation_updates(0.5),
        keep_positive(),
    )


WRAPPED = {
    "chain": kit,
    "inject_hyperparams": lambda: optax.inject_hyperparams(kit)(learning_rate=1e3),
    "inject_factor": lambda: optax.chain(
        kit(),
        optax.inject_hyperparams(scale_activation_updates)(factor=1.0),
        keep_positive(),
    ),
    "MultiSteps": lambda: optax.MultiSteps(kit(), 2).gradient_transformation(),
    "apply_if_finite": lambda: optax.apply_if_finite(kit(), 3),
    "partition": lambda: optax.partition(
        {"weights": optax.sgd(1.0), "activation": optax.chain(kit(), keep_positive())},
        label_params,
    ),
    "frozen": lambda: optax.chain(kit(), freeze()),
}


@pytest.mark.parametrize("make", WRAPPED.values(), ids=WRAPPED)
def test_works_in_wrappers_and_keeps_dtypes(make):
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    gradients = jax.tree.map(jnp.ones_like, params)
    tx = make()
    traces = []

    @jax.jit
    def step(params, state):
        traces.append(None)
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(3):
        before, (params, state) = (params, state), step(params, state)
        assert jax.tree.map(jnp.result_type, before) == jax.tree.map(
            jnp.result_type, (params, state)
        )
    assert len(traces) == 1
    assert np.all(params["Dense_0"]["kernel"] < 0)
    for value in activations(params).values():
        assert np.all(value.astype(np.float64) >= 1e-3)


def test_seeds_in_parallel_equal_one_by_one():
    keys = jax.random.split(jax.random.key(1), 3)
    seeds = jax.jit(jax.vmap(lambda key: Model().init(key, X)["params"]))(keys)
    # The labels do not depend on the leading axis of a stack of models.
    assert label_params(seeds) == label_params(PARAMS)

    def run(params):
        return train(kit(1e-2), params, params, steps=2)

    together = jax.jit(jax.vmap(run))(seeds)
    one_by_one = jax.jit(lambda seeds: jax.lax.map(run, seeds))(seeds)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), together, one_by_one)


def test_state_survives_serialization():
    tx = kit()
    state = tx.init(PARAMS)
    updates, state = tx.update(jax.tree.map(jnp.ones_like, PARAMS), state, PARAMS)
    encoded = flax.serialization.to_bytes(state)
    restored = flax.serialization.from_bytes(tx.init(PARAMS), encoded)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)


def test_tree_map_params_reaches_the_state():
    """Shardings of an optimizer's state are derived by this function of optax."""
    tx = kit()
    names = jax.tree.map(lambda _: "spec", PARAMS)
    mapped = optax.tree_map_params(
        tx,
        lambda _, name: name,
        tx.init(PARAMS),
        names,
        transform_non_params=lambda _: "other",
        is_leaf=lambda node: isinstance(node, optax.MaskedNode),
    )
    leaves = jax.tree.leaves(mapped)
    assert leaves.count("spec") >= 2 * len(jax.tree.leaves(PARAMS))
    assert set(leaves) == {"spec", "other"}
