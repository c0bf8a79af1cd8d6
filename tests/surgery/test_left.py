"""Places of a model that are left as they are, with the reason."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from apalu_jax.surgery import replace_activations

X = jax.random.normal(jax.random.key(0), (9, 3))


def of_nnx(make):
    """Three layers, one stack."""

    @nnx.split_rngs(splits=3)
    @nnx.vmap
    def stack(rngs):
        return make(rngs)

    return stack(nnx.Rngs(0))


class NnxBlock(nnx.Module):
    def __init__(self, layer, rngs):
        self.layer = layer(rngs)
        self.acts = {"hidden": [nnx.relu]}

    def __call__(self, x):
        return self.acts["hidden"][0](self.layer(x))


class NnxStack(nnx.Module):
    def __init__(self, layer):
        self.blocks = of_nnx(lambda rngs: NnxBlock(layer, rngs))
        self.out = nnx.Linear(3, 2, rngs=nnx.Rngs(1))
        self.act = nnx.silu

    def __call__(self, x):
        scan = nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        x = scan(lambda x, block: block(x))(x, self.blocks)
        return self.act(self.out(x))


class EquinoxBlock(eqx.Module):
    layer: eqx.Module
    act: Callable = jax.nn.relu

    def __call__(self, x):
        return self.act(self.layer(x))


class EquinoxStack(eqx.Module):
    blocks: EquinoxBlock
    out: eqx.Module
    act: Callable
    unset: Callable = jax.nn.elu

    def __init__(self, layer):
        keys = jax.random.split(jax.random.key(0), 3)
        self.blocks = eqx.filter_vmap(lambda key: EquinoxBlock(layer(key)))(keys)
        self.out, self.act = layer(keys[0]), jax.nn.silu

    def __call__(self, x):
        arrays, static = eqx.partition(self.blocks, eqx.is_array)
        x, _ = jax.lax.scan(
            lambda x, array: (eqx.combine(array, static)(x), None), x, arrays
        )
        return self.act(self.out(x))


STACKS = {
    "nnx.Linear": lambda: NnxStack(lambda rngs: nnx.Linear(3, 3, rngs=rngs)),
    "nnx.Conv": lambda: NnxStack(lambda rngs: nnx.Conv(3, 3, 5, rngs=rngs)),
    "nnx.LinearGeneral": lambda: NnxStack(
        lambda rngs: nnx.LinearGeneral(3, 3, rngs=rngs)
    ),
    "eqx.nn.Linear": lambda: EquinoxStack(lambda key: eqx.nn.Linear(3, 3, key=key)),
    "eqx.nn.Conv": lambda: EquinoxStack(lambda key: eqx.nn.Conv1d(9, 9, 1, key=key)),
}


@pytest.mark.parametrize("name", STACKS)
def test_stacked_layers_are_left(name):
    """Their parameters would lack the axis of the stack; the model still runs."""
    model = STACKS[name]()
    x = X[0] if name == "eqx.nn.Linear" else X
    new, report = replace_activations(model, match="inputs", example_args=(x,))
    assert [row.path for row in report.rows if not row.left] == ["act"]
    assert all("surgery.lift" in row.left for row in report.rows if row.left)
    assert new(x).shape == model(x).shape
    with pytest.raises(ValueError, match=r"`model`.*none: .*act.*: .*surgery\.lift"):
        replace_activations(model.blocks)


def test_static_containers_are_left():
    class Net(eqx.Module):
        acts: dict = eqx.field(static=True)

    with pytest.raises(ValueError, match="acts/a/0: a static field"):
        replace_activations(Net({"a": (jax.nn.relu,)}))


class NnxHolder(nnx.Module):
    def __init__(self, call):
        self.first, self.act, self.call = nnx.silu, nnx.gelu, call

    def __call__(self, x):
        return self.call(self.act, self.first(x))


class EquinoxHolder(eqx.Module):
    call: Callable = eqx.field(static=True)
    first: Callable = jax.nn.silu
    act: Callable = jax.nn.gelu

    def __call__(self, x):
        return self.call(self.act, self.first(x))


USES = {
    "keyword": (lambda act, x: act(x, approximate=False), "approximate"),
    "second argument": (lambda act, x: act(x, False), "argument"),
    "axis of a stack": (
        lambda act, x: jax.vmap(lambda a, x: x if a is None else act(x))(
            getattr(act, "apalu_a", jnp.zeros(9)), x
        ),
        "rank",
    ),
    "attribute": (lambda act, x: act.__code__ and act(x), "__code__"),
}


@pytest.mark.parametrize("holder", [NnxHolder, EquinoxHolder])
@pytest.mark.parametrize("use", USES)
def test_places_where_no_module_can_stand_are_left(holder, use):
    call, reason = USES[use]
    model = holder(call)
    new, report = replace_activations(model, match="inputs", example_args=(X,))
    first, act = report.rows
    assert (first.path, first.left, act.path) == ("first", "", "act")
    assert "the model fails with APALU there, take surgery.lift (" in act.left
    assert reason in act.left
    assert "\n" not in act.left
    assert new(X).shape == X.shape
    with pytest.raises(ValueError, match=f"`model`.*none:.*act: the model.*{reason}"):
        replace_activations(model, {"gelu_tanh"}, example_args=(X,))


def test_errors_of_the_model_itself_are_its_own():
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'axis'"):
        replace_activations(NnxHolder(lambda act, x: act(x, axis=0)), example_args=(X,))
