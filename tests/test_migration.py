"""Parameters saved under the names of version 0.1."""

import equinox as eqx
import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.core import FrozenDict, freeze
from flax.training.train_state import TrainState

import apalu_jax
from apalu_jax import migrate_params

KEY = jax.random.key(0)
X = jnp.ones((2, 3))
OLD = {
    "apalu_a": "a",
    "apalu_b": "b",
    "apalu_a_raw": "a_raw",
    "apalu_b_raw": "b_raw",
}


def renamed(tree):
    """Nested dicts as they were saved under the old names, with other values."""
    if isinstance(tree, dict | FrozenDict):
        return {OLD.get(k, k): renamed(v) for k, v in tree.items()}
    return tree + 1


class LoRA(nn.Module):
    """Somebody else's parameters of the names a and b."""

    @nn.compact
    def __call__(self, x):
        a = self.param("a", nn.initializers.ones, (3, 2))
        return x @ a @ self.param("b", nn.initializers.ones, (2, 3))


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = apalu_jax.linen.APALU()(nn.Dense(3)(x))
        return apalu_jax.linen.APALU(feature_axes=-1, constraint="softplus")(LoRA()(x))


def assert_same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize("kind", [dict, freeze])
def test_linen_variables(kind):
    like = Net().init(KEY, X)
    expected = jax.tree.map(lambda p: p + 1, like)
    for new in (like, jax.eval_shape(Net().init, KEY, X)):
        assert_same(migrate_params(kind(renamed(like)), kind(new)), kind(expected))
    assert_same(migrate_params(renamed(like), freeze(like)), freeze(expected))
    assert_same(migrate_params(expected, like), expected)  # nothing to rename


def test_train_state():
    def make(params):
        return TrainState.create(apply_fn=None, params=params, tx=optax.adam(0.1))

    like = make(Net().init(KEY, X)["params"])
    expected = jax.tree.map(lambda p: p + 1, like)
    saved = make(renamed(like.params)).replace(step=1)
    saved = saved.replace(opt_state=jax.tree.map(lambda p: p + 1, saved.opt_state))
    assert_same(migrate_params(saved, like), expected)
    # As a checkpoint gives it back without a target.
    data = flax.serialization.to_bytes(saved)
    restored = flax.serialization.msgpack_restore(data)
    assert_same(migrate_params(restored, like), expected)


@pytest.mark.parametrize("constraint", [None, "softplus"])
def test_nnx(constraint):
    model = nnx.Sequential(
        nnx.Linear(3, 3, rngs=nnx.Rngs(0)),
        apalu_jax.nnx.APALU(3, constraint=constraint),
        apalu_jax.nnx.APALU(),
    )
    state = nnx.state(model)
    pure = nnx.to_pure_dict(state)
    expected = jax.tree.map(lambda p: p + 1, pure)
    saved = renamed(pure)
    assert_same(migrate_params(saved, pure), expected)
    # Without a target, orbax gives names of layers as strings, and nodes of variables.
    nodes = {
        "layers": {
            str(i): {name: {"value": p} for name, p in layer.items()}
            for i, layer in saved["layers"].items()
        }
    }
    for old in (saved, nodes):
        nnx.update(model, jax.tree.map(jnp.zeros_like, state))
        nnx.update(model, migrate_params(old, state))
        assert_same(nnx.to_pure_dict(nnx.state(model)), expected)


def test_bridge_to_linen():
    model = nnx.bridge.to_linen(apalu_jax.nnx.APALU, 3)
    like = model.init(KEY, X)
    old = {"ActivationParam": {"a": jnp.full(3, 2.0), "b": jnp.full(3, 3.0)}}
    assert_same(
        migrate_params(old, like),
        {"params": {"apalu_a": jnp.full(3, 2.0), "apalu_b": jnp.full(3, 3.0)}},
    )


def test_equinox():
    like = [eqx.nn.Linear(2, 2, key=KEY), apalu_jax.equinox.APALU()]
    weights, _ = like
    old = [weights, {"a": jnp.float32(2), "b": jnp.float32(3)}]
    migrated = migrate_params(old, like)
    assert migrated[1](1.0) == apalu_jax.apalu(1.0, apalu_jax.APALUParams(2.0, 3.0))


@pytest.mark.parametrize(
    ("old", "message"),
    [
        ({"act": {"a": 1.0}, "w": 1.0}, "act/apalu_b is missing"),
        ({"w": 1.0}, "act/apalu_a is missing, act/apalu_b is missing"),
        ({"act": {"a": 1.0, "b": 1.0}}, "w is missing"),
        (
            {"act": {"a": 1.0, "b": np.ones(3)}, "w": 1.0},
            r"act/apalu_b .*\(3,\).* \(\)",
        ),
        ({"act": {"a": 1.0, "b": 1.0}, "w": 1.0, "v": 1.0}, "v is left over"),
        (
            {"act": {"a_raw": 1.0, "b_raw": 1.0}, "w": 1.0},
            "act/apalu_b is missing, act/a_raw is left over, act/b_raw is left over",
        ),
        (
            {"act": {"a": 1.0, "b": 1.0}, "w": {str(i): i for i in range(20)}},
            r"w is missing, w/0 is left over, .*, and 11 more\.",
        ),
    ],
)
def test_parameters_that_do_not_match_are_listed(old, message):
    like = {"act": {"apalu_a": 0.5, "apalu_b": 0.5}, "w": 0.0}
    with pytest.raises(ValueError, match=f"`old`.*{message}"):
        migrate_params(old, like)
