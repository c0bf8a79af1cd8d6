"""Activations in models of Flax Linen: where their parameters lie, how they compare."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from apalu_jax import APALUParams
from apalu_jax.linen import APALU
from tests.helpers import table

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (2, 3, 4, 5)) * 3


class WithGain(APALU):
    """A subclass whose own compact method calls that of APALU."""

    @nn.compact
    def __call__(self, x):
        return self.param("gain", nn.initializers.ones, ()) * APALU.__call__(self, x)


class Shares(nn.Module):
    """A module in whose scope the activation stores its parameters."""

    def setup(self):
        self.inner = APALU()
        nn.share_scope(self, self.inner)
        self.gain = self.param("gain", nn.initializers.ones, ())

    def __call__(self, x):
        return self.gain * self.inner(x)


@pytest.mark.parametrize("module", [WithGain(), Shares()])
def test_parameters_beside_those_of_the_activation(module):
    y, variables = module.init_with_output(KEY, X)
    assert set(variables["params"]) == {"apalu_a", "apalu_b", "gain"}
    np.testing.assert_array_equal(y, APALU().init_with_output(KEY, X)[0])
    bound = module.bind(variables)
    assert getattr(bound, "inner", bound).a == jnp.float32(0.55)


class Shared(nn.Module):
    """One activation used twice, another once."""

    @nn.compact
    def __call__(self, x):
        shared = APALU()
        return APALU()(shared(shared(x)))


def test_an_instance_used_twice_has_one_pair_of_parameters():
    variables = Shared().init(KEY, X)
    assert set(variables["params"]) == {"APALU_0", "APALU_1"}
    assert len(jax.tree.leaves(variables)) == 4
    sequential = nn.Sequential([nn.Dense(4), APALU(), nn.Dense(4), APALU("gelu")])
    params = sequential.init(KEY, X)["params"]
    assert params["layers_1"]["apalu_a"] != params["layers_3"]["apalu_a"]


ARRAYS = (jnp.full(4, 0.5), np.full(4, 0.1))


INITS = {
    "name": "gelu",
    "pair": (0.5, 0.1),
    "mapping": {"a": 0.5, "b": 0.1},
    "arrays": APALUParams(*ARRAYS),
    "list of arrays": list(ARRAYS),
    "mapping of an array and a number": {"a": ARRAYS[0], "b": 0.5},
    "an array and an initializer": (ARRAYS[0], nn.initializers.ones),
}


@pytest.mark.parametrize(
    ("given", "feature_axes"), table(tuple(INITS), (-1, [-1], np.int64(1)), strength=1)
)
def test_attributes_are_hashable_and_compare(given, feature_axes):
    params_init = INITS[given]
    x = jnp.ones((2, 4))

    def make():
        return APALU(params_init, feature_axes)

    assert make() == make() == make().clone() and hash(make()) == hash(make())
    assert make() != APALU((0.5, 0.2), feature_axes)
    expected = make().init(KEY, x)
    init = jax.jit(lambda module, x: module.init(KEY, x), static_argnums=0)
    assert_same = partial(jax.tree.map, np.testing.assert_array_equal)
    assert_same(init(make(), x), expected)
    assert_same(nn.jit(APALU)(params_init, feature_axes).init(KEY, x), expected)
    assert_same(nn.remat(APALU)(params_init, feature_axes).init(KEY, x), expected)

    class Net(nn.Module):
        act: nn.Module

        @nn.jit
        @nn.compact
        def __call__(self, x):
            return self.act(x)

    assert_same(Net(make()).init(KEY, x)["params"]["act"], expected["params"])


class Block(nn.Module):
    """A residual block of the usual kind: its activation is an attribute."""

    act: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x):
        y = self.act(nn.Dense(3)(x))
        y = nn.Dense(3)(y)
        return self.act(x + y)


class ResNet(nn.Module):
    act: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(self, x):
        x = self.act(nn.Dense(3)(x))
        for _ in range(2):
            x = Block(self.act)(x)
        return nn.Dense(2)(x)


def test_each_place_in_a_network_has_its_own_parameters():
    x = jax.random.normal(KEY, (7, 5))
    model = ResNet(act=lambda x: APALU()(x))
    params = jax.jit(model.init)(KEY, x)["params"]
    paths = {
        "/".join(path[:-1]) for path in flatten_dict(params) if "apalu" in path[-1]
    }
    places = {f"Block_{i}/APALU_{j}" for i in range(2) for j in range(2)}
    assert paths == {"APALU_0", *places}
    grads = jax.jit(jax.grad(lambda p: model.apply({"params": p}, x).sum()))(params)
    slopes = [g for path, g in flatten_dict(grads).items() if path[-1] == "apalu_a"]
    assert len({float(g) for g in slopes} - {0.0}) == 5
    shared = jax.eval_shape(ResNet(act=APALU()).init, KEY, x)["params"]
    assert sum("apalu_a" in path for path in flatten_dict(shared)) == 1
