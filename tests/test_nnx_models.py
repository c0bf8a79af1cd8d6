"""Activations in models of Flax NNX: where they are made and called, and bridges."""

import inspect
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from apalu_jax import linen
from apalu_jax.equinox import APALU as EquinoxAPALU
from apalu_jax.nnx import APALU

pytestmark = pytest.mark.usefixtures("quick_compilation")

X = jax.random.normal(jax.random.key(1), (2, 3, 4, 5)) * 3


class Block(nnx.Module):
    """A residual block of the usual kind: it is given what makes an activation."""

    def __init__(self, act, rngs):
        self.dense1, self.dense2 = (nnx.Linear(5, 5, rngs=rngs) for _ in range(2))
        self.act1, self.act2 = act(), act()

    def __call__(self, x):
        return self.act2(x + self.dense2(self.act1(self.dense1(x))))


class ResNet(nnx.Module):
    def __init__(self, act, rngs):
        self.stem, self.act = nnx.Linear(3, 5, rngs=rngs), act()
        self.blocks = nnx.List([Block(act, rngs) for _ in range(2)])
        self.head = nnx.Linear(5, 2, rngs=rngs)

    def __call__(self, x):
        x = self.act(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def test_each_place_in_a_network_has_its_own_parameters():
    x = jax.random.normal(jax.random.key(0), (7, 3))
    model = ResNet(APALU, nnx.Rngs(0))
    grads = nnx.jit(nnx.grad(lambda m: m(x).sum()))(model)
    slopes = [
        g for path, g in nnx.to_flat_state(grads) if path[-1] == "apalu_a" and g[...]
    ]
    assert len({float(g[...]) for g in slopes}) == 5
    shared = APALU()
    model = ResNet(lambda: shared, nnx.Rngs(0))
    paths = [path for path, _ in nnx.to_flat_state(nnx.state(model))]
    assert sum(path[-1] == "apalu_a" for path in paths) == 1


class MadeInCall(nnx.Module):
    def __call__(self, x):
        return APALU()(x)


class MadeInCallOfABlock(nnx.Module):
    def __call__(self, x):
        return Block(APALU, nnx.Rngs(0))(x)


class MadeInAFunction(nnx.Module):
    def __init__(self, act):
        self.act = act

    def __call__(self, x):
        return jax.checkpoint(lambda x: self.act(x))(x)


@pytest.mark.parametrize(
    "make",
    [MadeInCall, MadeInCallOfABlock, lambda: MadeInAFunction(lambda x: APALU()(x))],
)
@pytest.mark.parametrize("transform", [lambda f: f, nnx.jit])
def test_a_module_made_in_a_call_warns(make, transform):
    model, x = make(), jnp.ones((4, 5))
    message = f"nnx.APALU .*{type(model).__name__}.__call__"
    with pytest.warns(UserWarning, match=message) as record:
        transform(lambda m, x: m(x))(model, x)
    assert {warning.filename for warning in record} == {__file__}


def test_a_module_made_in_a_call_warns_once():
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("default")
        for _ in range(3):
            MadeInCall()(X)
    assert len(record) == 1
    first_line = inspect.getsourcelines(MadeInCall.__call__)[1]
    assert (record[0].filename, record[0].lineno) == (__file__, first_line + 1)


class Compact(nnx.bridge.Module):
    @nnx.bridge.compact
    def __call__(self, x):
        self.act = APALU()
        return self.act(x)


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nnx.bridge.to_linen(APALU, 5, name="act")(nn.Dense(5)(x))


class OwnBridge(nn.Module):
    """A bridge as other libraries have it, which knows its class of NNX."""

    nnx_class: type

    @nn.compact
    def __call__(self, x):
        module = self.nnx_class()
        a = self.param("apalu_a", lambda key: module.apalu_a[...])
        module.apalu_a[...] = a
        return module(x)


class FreeSubclass(APALU):
    def __init__(self, **options):
        super().__init__(**options)
        self.gain = nnx.Param(jnp.ones(()))


def make_and_call():
    """Places in which the parameters are kept: nothing is said."""
    key = jax.random.key(0)
    model = nnx.bridge.ToNNX(LinenNet(), nnx.Rngs(0)).lazy_init(X)
    yield model.act["apalu_a"] if isinstance(model.act, dict) else model.act.apalu_a
    yield LinenNet().init(key, X)["params"]["act"]["apalu_a"]
    yield OwnBridge(APALU).init(key, X)["params"]["apalu_a"]
    yield nnx.eval_shape(lambda: ResNet(APALU, nnx.Rngs(0))).act.apalu_a
    yield Compact().init(key, X)["params"]["act"]["apalu_a"]
    yield FreeSubclass().apalu_a


def test_no_warning_where_the_parameters_are_kept():
    kept = list(make_and_call())
    assert len(kept) == 6 and all(p.dtype == jnp.float32 for p in kept)


def test_bridge_to_linen():
    variables = LinenNet().init(jax.random.key(0), X)
    assert set(variables) == {"params"}
    assert set(variables["params"]["act"]) == {"apalu_a", "apalu_b"}
    grads = jax.grad(lambda v: LinenNet().apply(v, X).sum())(variables)
    assert all(np.all(g != 0) for g in jax.tree.leaves(grads["params"]["act"]))


@pytest.mark.parametrize("constraint", [None, "softplus"])
def test_bridge_to_nnx(constraint):
    module = linen.APALU("smooth", -1, constraint=constraint)
    model = nnx.bridge.ToNNX(module, nnx.Rngs(0)).lazy_init(X)
    np.testing.assert_array_equal(
        model(X), APALU(5, params_init="smooth", constraint=constraint)(X)
    )
    a, b = model.effective_params()
    np.testing.assert_allclose((a, b), [[0.5] * 5, [0.75] * 5], rtol=1e-6)
    grads = nnx.grad(lambda m: m(X).sum())(model)
    assert len(jax.tree.leaves(grads)) == 2


class CallsNnx(nn.Module):
    act: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x):
        return self.act(nn.Dense(5)(x))


@pytest.mark.parametrize("make", [APALU, EquinoxAPALU], ids=["nnx", "equinox"])
@pytest.mark.parametrize("wrap", [lambda f: f, nn.jit, nn.remat])
def test_a_call_in_a_linen_module_is_rejected(wrap, make):
    activation = make()  # an instance is no valid attribute of a Linen module
    model = wrap(CallsNnx)(lambda x: activation(x))
    with pytest.raises(RuntimeError, match="CallsNnx.*linen.APALU"):
        model.init(jax.random.key(0), X)
    activation(X)  # and the context is clean again


def test_an_instance_used_twice_has_one_pair_of_parameters():
    shared = APALU()
    model = nnx.Sequential(shared, shared, APALU())
    assert len(jax.tree.leaves(nnx.state(model))) == 4
    shared.apalu_a[...] = jnp.float32(2)
    assert model.layers[0].a == model.layers[1].a == 2
    assert model.layers[2].a == jnp.float32(0.55)


class Helper(nnx.Module):
    """Makes an activation in a method of its own, where it is made."""

    def __init__(self):
        self.make()

    def make(self):
        self.act = APALU()

    def features(self, x):
        return APALU()(self.act(x))

    def __call__(self, x):
        return self.features(x)


def test_made_in_a_method_that_call_calls_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = Helper()
    with pytest.warns(UserWarning, match="Helper.__call__"):
        model(jnp.ones(3))


class Stack(nnx.Module):
    def __init__(self):
        self.linear = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
        self.first, self.second = APALU(4), APALU(constraint="softplus")

    def __call__(self, x):
        return self.second(self.first(self.linear(x)))


def test_tabulate_has_one_row_for_each_module():
    table = nnx.tabulate(
        Stack(), X[0, 0, :, :3], console_kwargs={"force_terminal": False}
    )
    rows = [line for line in table.splitlines() if "│" in line]
    paths = [row.split("│")[1].strip() for row in rows]
    assert [path for path in paths if path] == ["linear", "first", "second"]
    assert table.count("apalu_a: float32[4]") == 1
    assert table.count("apalu_a_raw: float32[]") == 1
