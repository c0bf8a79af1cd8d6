"""The optimizer kit on parameters of every kind, and on models without activations."""

from typing import Any, NamedTuple

import equinox as eqx
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

from apalu_jax import APALUParams
from apalu_jax.introspection import collect
from apalu_jax.optim import (
    describe_groups,
    freeze,
    keep_positive,
    label_params,
    scale_activation_updates,
    weight_decay_mask,
)
from tests import trees
from tests.helpers import table
from tests.trees import (
    PAIR,
    PARAMS,
    Bridged,
    Mlp,
    Networks,
    Nodes,
    Policy,
    X,
    activations,
    arrays_of,
    equinox_model,
    linen_variables,
    nnx_model,
    siblings,
    to_nnx,
)

pytestmark = pytest.mark.usefixtures("optax_promotion", "quick_compilation")

FLOOR = 0.125


def train(tx: Any, params: Any, gradient: float, steps: int = 2) -> Any:
    """Parameters after some steps with the same gradient everywhere."""
    gradients = jax.tree.map(lambda p: jnp.full_like(p, gradient), params)
    return trees.train(tx, params, gradients, steps)


def train_equinox(tx: Any, model: Mlp, gradient: float) -> Any:
    arrays, static = eqx.partition(model, eqx.is_inexact_array)
    return eqx.combine(train(tx, arrays, gradient), static)


def train_nnx(tx: Any, model: Any, gradient: float) -> Any:
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    for _ in range(2):
        gradients = jax.tree.map(
            lambda p: jnp.full_like(p, gradient), nnx.state(model, nnx.Param)
        )
        optimizer.update(model, gradients)
    return nnx.state(model, nnx.Param)


def train_state(tx: Any, params: Any, gradient: float) -> Any:
    state = TrainState.create(apply_fn=None, params=params, tx=tx)
    for _ in range(2):
        gradients = jax.tree.map(lambda p: jnp.full_like(p, gradient), params)
        state = state.apply_gradients(grads=gradients)
    return state.params


def filtered(model: Any) -> Any:
    return eqx.filter(model, eqx.is_inexact_array)


# How parameters are made and trained, by name.
TREES = {
    "linen": (train, lambda: PARAMS),
    "linen variables": (train, lambda: linen_variables("softplus")),
    "FrozenDict": (train, lambda: flax.core.freeze(PARAMS)),
    "partitioned": (
        train,
        lambda: jax.tree.map(lambda p: nn.Partitioned(p, ()), PARAMS),
    ),
    "TrainState": (train_state, lambda: PARAMS),
    "nnx.Optimizer": (train_nnx, nnx_model),
    "nnx.Optimizer of ToNNX": (train_nnx, to_nnx),
    "nnx arrays": (train, lambda: arrays_of(nnx_model())),
    "nnx module as a pytree": (train, nnx_model),
    "to_linen": (train, lambda: Bridged().init(jax.random.key(0), X)["params"]),
    "equinox": (train_equinox, equinox_model),
    "dataclass": (train, lambda: Policy(PAIR, jnp.ones(3))),
    "flax dataclass": (train, lambda: Nodes(PAIR, jnp.ones(3))),
    "NamedTuple": (train, lambda: Networks({"act": PAIR, "w": jnp.ones(3)}, PAIR)),
    "APALUParams": (
        train,
        lambda: {"act": APALUParams(*map(jnp.float32, (0.5, 0.25))), "w": jnp.ones(3)},
    ),
    "siblings": (train, siblings),
    "None leaves": (train, lambda: {"act": PAIR, "w": jnp.ones(3), "bias": None}),
}
each_tree = pytest.mark.parametrize(("train", "make"), TREES.values(), ids=TREES)


def split(tree: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The activations' leaves and all others, by path."""
    params = filtered(tree) if isinstance(tree, Mlp) else tree
    everything = activations(params, lambda path, leaf: True)
    found = activations(params)
    rest = {path: value for path, value in everything.items() if path not in found}
    assert found and rest
    return found, rest


@each_tree
def test_decay_is_for_weights_alone(train, make):
    model = make()
    before, weights = split(nnx.state(model, nnx.Param) if is_nnx(model) else model)
    tx = optax.chain(optax.add_decayed_weights(0.5, weight_decay_mask), optax.sgd(0.5))
    after, decayed = split(train(tx, model, 0.0))
    assert {p: v.tobytes() for p, v in before.items()} == {
        p: v.tobytes() for p, v in after.items()
    }
    for path, value in weights.items():
        np.testing.assert_allclose(decayed[path], 0.75**2 * value, rtol=1e-5)


def is_nnx(model: Any) -> bool:
    return isinstance(model, nnx.Module)


UPDATES = {
    "scaled": lambda: optax.chain(optax.sgd(1.0), scale_activation_updates(0.5)),
    "limited": lambda: optax.chain(optax.sgd(1.0), keep_positive(FLOOR)),
    "frozen": lambda: optax.chain(optax.sgd(1.0, momentum=0.9), freeze()),
    "partition": lambda: optax.partition(
        {"activation": optax.set_to_zero(), "weights": optax.sgd(1.0)}, label_params
    ),
}


@pytest.mark.parametrize(
    ("tree", "kind"), table(tuple(TREES), tuple(UPDATES), strength=1)
)
def test_each_transformation_reaches_the_activations_alone(tree, kind):
    train, make = TREES[tree]
    model = make()
    before, weights = split(nnx.state(model, nnx.Param) if is_nnx(model) else model)
    after, moved = split(train(UPDATES[kind](), make(), 2.0))
    assert after.keys() == before.keys() and moved.keys() == weights.keys()
    assert all(np.all(moved[path] < weights[path]) for path in weights)
    for path, value in after.items():
        expected = {
            "scaled": before[path] - 2.0,
            "limited": before[path] - 4 if "_raw" in path else FLOOR,
        }.get(kind, before[path])
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        assert kind != "limited" or "_raw" in path or np.all(value >= FLOOR)


def test_a_model_without_activations_trains_as_without_the_kit():
    params = {"dense": {"kernel": jnp.ones((3, 3)), "bias": jnp.ones(3)}}
    plain = train(optax.adamw(0.1, weight_decay=0.1), params, 1.0)
    tx = optax.chain(
        optax.adamw(0.1, weight_decay=0.1, mask=weight_decay_mask),
        scale_activation_updates(10.0),
        keep_positive(100.0),
        freeze(),
    )
    jax.tree.map(np.testing.assert_array_equal, train(tx, params, 1.0), plain)
    assert set(jax.tree.leaves(label_params(params))) == {"weights"}
    assert "activation: 0 parameters in 0 leaves" in describe_groups(params)
    empty = optax.chain(freeze(), keep_positive()).init({})
    assert jax.tree.leaves(empty) == []


class Gains(NamedTuple):
    gain: Any
    w: Any


def test_a_predicate_sees_paths_and_shapes_at_every_call():
    seen = []

    def predicate(path, leaf):
        seen.append((path, np.shape(leaf)))
        return path == "gain"

    tx = optax.chain(optax.sgd(1.0), keep_positive(0.5, predicate))
    after = train(tx, Gains(jnp.ones(2), jnp.ones(3)), 5.0, steps=1)
    np.testing.assert_allclose(after.gain, 0.5, rtol=1e-5)
    np.testing.assert_array_equal(after.w, -4.0)
    assert set(seen) == {("gain", (2,)), ("w", (3,))}
    model = nnx_model()
    kernels = freeze(lambda path, leaf: path.endswith("kernel"))
    before = {path: pair.a for path, pair in collect(model).items()}
    kernel = np.asarray(model.layers[0].kernel[...])
    state = train_nnx(optax.chain(optax.sgd(0.1), kernels), model, 1.0)
    np.testing.assert_array_equal(state["layers"][0]["kernel"][...], kernel)
    assert np.all(collect(state)["layers/1"].a != before["layers/1"])


def test_inject_hyperparams():
    """Numbers may become arrays; functions must be named in static_args."""
    wrap = optax.inject_hyperparams
    with pytest.raises(ValueError, match="single array.*static_args"):
        wrap(optax.adamw)(learning_rate=0.1, mask=weight_decay_mask).init(PARAMS)
    tx = optax.chain(
        wrap(optax.adamw, static_args=("mask",))(
            learning_rate=10.0, weight_decay=0.1, mask=weight_decay_mask
        ),
        wrap(scale_activation_updates)(factor=0.5),
        wrap(keep_positive)(floor=FLOOR),
    )
    state = tx.init(PARAMS)
    gradients = jax.tree.map(jnp.ones_like, PARAMS)
    updates, state = jax.jit(tx.update)(gradients, state, PARAMS)
    after = optax.apply_updates(PARAMS, updates)
    for value in activations(after).values():
        np.testing.assert_allclose(value, FLOOR, rtol=1e-5)
    # Hyperparameters may be set in the state.
    state[2].hyperparams["floor"] = jnp.float32(2.0)
    updates, _ = jax.jit(tx.update)(gradients, state, PARAMS)
    after = optax.apply_updates(PARAMS, updates)
    for value in activations(after).values():
        np.testing.assert_allclose(value, 2.0, rtol=1e-5)


def test_inside_of_schedule_free():
    """It takes a step of its own with the updates: freezing inside works, as said."""
    inside = optax.chain(optax.sgd(0.5), freeze())
    tx = optax.contrib.schedule_free(inside, learning_rate=0.5)
    after = train(tx, PARAMS, 1.0, steps=3)
    for path, value in activations(after).items():
        np.testing.assert_allclose(value, activations(PARAMS)[path], rtol=1e-6)
    assert np.all(after["Dense_0"]["kernel"] < PARAMS["Dense_0"]["kernel"])
