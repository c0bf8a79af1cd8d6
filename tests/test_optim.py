"""The optimizer kit: decay, positivity, scaling, freezing."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from apalu_jax.optim import (
    freeze,
    keep_positive,
    label_params,
    scale_activation_updates,
    weight_decay_mask,
)
from tests.helpers import quick_code_generation, table
from tests.trees import PARAMS, PATHS, activations, nnx_model, train

pytestmark = pytest.mark.usefixtures("optax_promotion", "quick_compilation")


def muon(lr, mask):
    tx = optax.contrib.muon(lr, weight_decay=0.1, adam_weight_decay=0.1)
    if mask is None:
        return tx
    return optax.partition({"weights": tx, "activation": optax.adam(lr)}, label_params)


# Optimizers that decay, by name: (learning rate, decay mask) -> transformation. Muon
# has no mask for all it decays, and is kept from the activations instead.
OPTIMIZERS = {
    "sgd": lambda lr, mask: optax.chain(
        optax.add_decayed_weights(0.1, mask), optax.sgd(lr, momentum=0.9)
    ),
    "adamw": lambda lr, mask: optax.adamw(lr, weight_decay=0.1, mask=mask),
    "lion": lambda lr, mask: optax.lion(lr, weight_decay=0.1, mask=mask),
    "muon": muon,
}


optimizers = pytest.mark.parametrize("name", OPTIMIZERS)
decay_cases = pytest.mark.parametrize(
    ("name", "form"), [*((name, "function") for name in OPTIMIZERS), ("adamw", "tree")]
)


def train_nnx(tx, model, gradient, steps=3):
    """The state of ``model`` after some steps of nnx.Optimizer."""
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        state = nnx.state(model, nnx.Param)
        grads = jax.tree.map(lambda p: jnp.full_like(p, gradient), state)
        optimizer.update(model, grads)

    for _ in range(steps):
        step(model, optimizer)
    return nnx.state(model, nnx.Param)


def assert_unchanged(before, after):
    assert before and before.keys() == after.keys()
    for path, value in before.items():
        assert value.tobytes() == after[path].tobytes(), path


@decay_cases
def test_decay_never_moves_activations(name, form):
    before = PARAMS
    zeros = jax.tree.map(jnp.zeros_like, before)
    mask = weight_decay_mask if form == "function" else weight_decay_mask(before)
    after = train(OPTIMIZERS[name](0.1, mask), before, zeros)
    assert_unchanged(activations(before), activations(after))
    assert np.all(after["Dense_0"]["kernel"] != before["Dense_0"]["kernel"])


def test_decay_without_the_mask_moves_activations():
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    after = activations(train(OPTIMIZERS["adamw"](0.1, None), PARAMS, zeros))
    assert all(np.all(after[path] != v) for path, v in activations(PARAMS).items())


@pytest.mark.parametrize(
    ("name", "form"), [("adamw", "function"), ("adamw", "tree"), ("muon", "function")]
)
def test_decay_never_moves_activations_of_nnx(name, form):
    model = nnx_model()
    state = nnx.state(model, nnx.Param)
    before, kernel = activations(state), np.asarray(model.layers[0].kernel[...])
    mask = weight_decay_mask if form == "function" else weight_decay_mask(state)
    after = train_nnx(OPTIMIZERS[name](0.1, mask), model, gradient=0.0)
    assert_unchanged(before, activations(after))
    assert np.all(model.layers[0].kernel[...] != kernel)


@pytest.mark.parametrize(
    ("name", "lr"), table(tuple(OPTIMIZERS), (1.0, 1e6), strength=1)
)
def test_keep_positive_for_any_learning_rate(name, lr):
    tx = optax.chain(OPTIMIZERS[name](lr, weight_decay_mask), keep_positive(0.01))
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    after = train(tx, PARAMS, ones, steps=5)
    assert all(np.all(np.float64(v) >= 0.01) for v in activations(after).values())
    assert np.all(after["Dense_0"]["kernel"] < 0)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_keep_positive_under_nnx_optimizer(name):
    model = nnx_model()
    tx = optax.chain(OPTIMIZERS[name](1e6, weight_decay_mask), keep_positive(0.01))
    state = activations(train_nnx(tx, model, gradient=1.0))
    assert all(np.all(np.float64(state[f"layers/1/apalu_{n}"]) >= 0.01) for n in "ab")
    # Raw parameters are not limited: their softplus is positive everywhere.
    assert all(np.all(state[f"layers/3/apalu_{n}_raw"] < -1) for n in "ab")


@pytest.fixture(scope="module")
def plain():
    """Parameters after two steps with one learning rate for all."""
    with jax.numpy_dtype_promotion("standard"), quick_code_generation():
        return train(optax.adam(1.0), PARAMS, jax.tree.map(jnp.ones_like, PARAMS), 2)


@pytest.mark.parametrize(
    "factor",
    [0.25, np.float32(0.25), jnp.float32(0.25), lambda count: 0.25 * (count < 2)],
)
def test_scale_activation_updates(factor, plain):
    tx = optax.chain(optax.adam(1.0), scale_activation_updates(factor))
    after = train(tx, PARAMS, jax.tree.map(jnp.ones_like, PARAMS), 2)
    assert_unchanged(
        {"kernel": np.asarray(plain["Dense_0"]["kernel"])},
        {"kernel": np.asarray(after["Dense_0"]["kernel"])},
    )
    for path, value in activations(after).items():
        start = activations(PARAMS)[path]
        expected = start + 0.25 * (activations(plain)[path] - start)
        np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("factor", [-1.0, float("nan"), float("inf"), "a", np.ones(2)])
def test_bad_factors_are_rejected(factor):
    with pytest.raises(ValueError, match="`factor`.* got"):
        scale_activation_updates(factor)


def test_float32_updates_of_bfloat16_parameters():
    """Float32 updates of bfloat16 parameters, where JAX promotes nothing implicitly."""
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    updates = jax.tree.map(lambda p: jnp.full(p.shape, -1e3, jnp.float32), params)
    tx = optax.chain(
        optax.sgd(1.0),
        scale_activation_updates(np.float32(0.5)),
        scale_activation_updates(lambda count: jnp.float32(0.5)),
        optax.inject_hyperparams(keep_positive)(floor=0.01),
        keep_positive(0.01),
        freeze(lambda path, leaf: False),
    )
    with jax.numpy_dtype_promotion("strict"):
        limited, _ = tx.update(updates, tx.init(params), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(limited)} == {jnp.dtype("float32")}
    with jax.numpy_dtype_promotion("standard"):
        after = optax.apply_updates(params, limited)
    for value in activations(after).values():
        assert np.all(value.astype(np.float64) >= 0.01)


@pytest.mark.parametrize(
    "make", [keep_positive, partial(scale_activation_updates, 0.5), freeze]
)
def test_predicate_must_be_a_function(make):
    with pytest.raises(ValueError, match="`predicate`.* got a dict"):
        make(predicate=PARAMS)


@optimizers
def test_freeze(name):
    # No mask: placed last, it cancels the decay too.
    tx = optax.chain(OPTIMIZERS[name](0.1, None), freeze())
    after = train(tx, PARAMS, jax.tree.map(jnp.ones_like, PARAMS))
    assert_unchanged(activations(PARAMS), activations(after))
    assert np.all(after["Dense_0"]["kernel"] != PARAMS["Dense_0"]["kernel"])


def by_name(path, _):
    return path.endswith(("/apalu_a", "/apalu_b"))


@pytest.mark.parametrize("predicate", [None, by_name])
def test_groups_of_a_partition_may_hold_no_activation(predicate):
    tx = optax.adamw(0.1, mask=partial(weight_decay_mask, predicate=predicate))
    tx = optax.partition({"weights": tx, "activation": tx}, label_params)
    after = train(tx, PARAMS, jax.tree.map(jnp.zeros_like, PARAMS))
    assert_unchanged(activations(PARAMS), activations(after))
    assert np.all(after["Dense_0"]["kernel"] != PARAMS["Dense_0"]["kernel"])


def test_freeze_nnx():
    model = nnx_model()
    state = nnx.state(model, nnx.Param)
    before, kernel = activations(state), np.asarray(model.layers[0].kernel[...])
    tx = optax.chain(optax.adamw(0.1, weight_decay=0.1), freeze())
    assert_unchanged(before, activations(train_nnx(tx, model, gradient=1.0)))
    assert np.all(model.layers[0].kernel[...] != kernel)


def test_freeze_some_layers():
    def in_features(path, leaf):
        return path.startswith("features/")

    tx = optax.chain(optax.sgd(0.1), freeze(in_features))
    after = train(tx, PARAMS, jax.tree.map(jnp.ones_like, PARAMS))
    moved = {
        path
        for path, value in activations(PARAMS).items()
        if np.any(activations(after)[path] != value)
    }
    assert moved == PATHS - {"features/apalu_a", "features/apalu_b"}


def test_frozen_by_partition_takes_no_state():
    tx = optax.partition(
        {"weights": optax.adam(0.1), "activation": optax.set_to_zero()}, label_params
    )
    sizes = [np.size(leaf) for leaf in jax.tree.leaves(tx.init(PARAMS))]
    n_weights = sum(np.size(leaf) for leaf in jax.tree.leaves(PARAMS)) - sum(
        np.size(leaf) for leaf in activations(PARAMS).values()
    )
    assert sum(sizes) == 2 * n_weights + 1
    after = train(tx, PARAMS, jax.tree.map(jnp.ones_like, PARAMS))
    assert_unchanged(activations(PARAMS), activations(after))
