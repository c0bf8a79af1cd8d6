"""Captures through control flow and bridges: what is kept, and what is lost."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from apalu_jax import linen
from apalu_jax import nnx as apalu_nnx
from apalu_jax.introspection import capture_linen, capture_nnx, collect
from tests.trees import X


class Sites(nnx.Module):
    """Two activations, called by a function of the module and the input."""

    def __init__(self, run):
        self.act, self.other = apalu_nnx.APALU(), apalu_nnx.APALU(3)
        self.run = nnx.static(run) if hasattr(nnx, "static") else run

    def __call__(self, x):
        return self.run(self, x)


def split_and_merge(model, x):
    graph, state = nnx.split(model.act)
    return lax.scan(lambda x, _: (nnx.merge(graph, state)(x), None), x, length=3)[0]


# Ways to call the sites, with the calls of act and of other.
KEPT = {
    "nnx.cond": (
        lambda m, x: nnx.cond(
            True, lambda m, x: m.act(x), lambda m, x: m.other(x), m, x
        ),
        (1, 0),
    ),
    "nnx.switch": (
        lambda m, x: nnx.switch(
            1, [lambda m, x: m.act(x), lambda m, x: m.other(x)], m, x
        ),
        (0, 1),
    ),
    "nnx.fori_loop": (
        lambda m, x: nnx.fori_loop(0, 3, lambda i, c: (c[0], c[0].act(c[1])), (m, x))[
            1
        ],
        (3, 0),
    ),
    "nnx.while_loop": (
        lambda m, x: nnx.while_loop(
            lambda c: c[2] < 2,
            lambda c: (c[0], c[0].other(c[0].act(c[1])), c[2] + 1),
            (m, x, 0),
        )[1],
        (2, 2),
    ),
    "nnx.jit": (lambda m, x: nnx.jit(lambda m, x: m.act(m.other(x)))(m, x), (1, 1)),
    "nnx.remat": (lambda m, x: nnx.remat(lambda m, x: m.act(x))(m, x), (1, 0)),
    "twice": (lambda m, x: m.act(m.act(x)), (2, 0)),
}


@pytest.mark.parametrize(("run", "calls"), KEPT.values(), ids=KEPT)
def test_capture_nnx_through_control_flow(run, calls):
    model = Sites(run)
    found = capture_nnx(model, X)
    assert found.keys() == {"act", "other"}
    for path, count in zip(("act", "other"), calls, strict=True):
        assert found[path].calls == count
        assert found[path].counts.sum() == count * X.size
    traced = nnx.jit(lambda model, x: capture_nnx(model, x))(model, X)
    jax.tree.map(np.testing.assert_array_equal, traced, found)


LOST = {
    "lax.scan over split and merge": split_and_merge,
    "lax.cond": lambda m, x: lax.cond(True, m.act, lambda x: x, x),
    "jax.jit of a module": lambda m, x: jax.jit(lambda act, x: act(x))(m.act, x),
    "jax.checkpoint of a module": lambda m, x: jax.checkpoint(lambda act, x: act(x))(
        m.act, x
    ),
}


@pytest.mark.parametrize("run", LOST.values(), ids=LOST)
def test_capture_nnx_says_what_is_lost(run):
    model = Sites(lambda m, x: run(m, m.other(x)))
    with pytest.raises(ValueError, match="flax.nnx.* act "):
        capture_nnx(model, X)
    # What the control flow gives is not in doubt.
    assert model(X).shape == X.shape


def test_capture_nnx_of_stacked_layers_without_features():
    """Every layer has its own counts, in a stack of pairs per channel too."""

    @nnx.vmap(in_axes=0)
    def layers(key):
        return apalu_nnx.APALU(3)

    class Stack(nnx.Module):
        def __init__(self):
            self.blocks = layers(jnp.arange(5))

        def __call__(self, x):
            return nnx.scan(
                lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry
            )(x, self.blocks)

    found = capture_nnx(Stack(), X)
    assert found["blocks"].calls.tolist() == [1] * 5
    assert found["blocks"].counts.sum(1).tolist() == [X.size] * 5


class Branches(nn.Module):
    """Two activations in the branches of a cond."""

    balanced: bool

    def setup(self):
        self.act, self.other = linen.APALU(), linen.APALU()

    def __call__(self, x):
        if self.is_initializing():
            return self.act(self.other(x))
        return nn.cond(
            True,
            lambda m, x: m.other(m.act(x)),
            lambda m, x: m.act(m.other(x)) if self.balanced else m.act(x),
            self,
            x,
        )


class Loop(nn.Module):
    @nn.compact
    def __call__(self, x):
        act = linen.APALU(name="act")
        if self.is_initializing():
            return act(x)
        return nn.while_loop(
            lambda m, c: c[0] < 3, lambda m, c: (c[0] + 1, m(c[1])), act, (0, x)
        )[1]


class PureScan(nn.Module):
    @nn.compact
    def __call__(self, x):
        act = linen.APALU(name="act")
        if self.is_initializing():
            return act(x)
        apply, variables = linen.APALU(parent=None).apply, act.variables
        return lax.scan(lambda x, _: (apply(variables, x), None), x, length=3)[0]


def test_capture_linen_through_control_flow():
    model = Branches(balanced=True)
    variables = model.init(jax.random.key(0), X)
    found = capture_linen(model, variables, X)
    assert {path: int(h.calls) for path, h in found.items()} == {"act": 1, "other": 1}
    for model, message in {
        Branches(balanced=False): "branch.* act, other ",
        Loop(): "carry.* act ",
        PureScan(): "carry.* APALU ",
    }.items():
        variables = model.init(jax.random.key(0), X)
        with pytest.raises(ValueError, match=message):
            capture_linen(model, variables, X)
        assert model.apply(variables, X).shape == X.shape


def test_capture_through_bridges():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            act = nnx.bridge.to_linen(apalu_nnx.APALU, 3, name="act")
            return act(linen.APALU(name="own")(act(x)))

    variables = Net().init(jax.random.key(0), X)
    found = capture_linen(Net(), variables, X)
    assert found.keys() == collect(variables).keys() == {"act", "own"}
    assert {path: int(h.calls) for path, h in found.items()} == {"act": 2, "own": 1}
    assert found["act"].counts.sum() == 2 * X.size
    lone = nnx.bridge.to_linen(apalu_nnx.APALU)
    assert capture_linen(lone, lone.init(jax.random.key(0), X), X).keys() == {""}
    act = nnx.bridge.ToNNX(linen.APALU(), rngs=nnx.Rngs(0)).lazy_init(X)
    model = nnx.Sequential(act, apalu_nnx.APALU())
    found = capture_nnx(model, X)
    assert found.keys() == collect(model).keys() == {"layers/0", "layers/1"}
    assert all(h.counts.sum() == X.size for h in found.values())


def test_capture_says_what_a_bridge_hides():
    """Activations in a bridged network are out of reach, and are not left out."""
    net = nn.Sequential([nn.Dense(3), linen.APALU()])
    bridged = nnx.bridge.ToNNX(net, rngs=nnx.Rngs(0)).lazy_init(X)
    model = nnx.Sequential(bridged, apalu_nnx.APALU())
    with pytest.raises(ValueError, match="layers/0/layers_1 "):
        capture_nnx(model, X)

    class Mlp(nnx.Module):
        def __init__(self, *, rngs):
            self.act = apalu_nnx.APALU()
            self.out = nnx.Linear(3, 3, rngs=rngs)

        def __call__(self, x):
            return self.out(self.act(x))

    model = nn.Sequential([nnx.bridge.to_linen(Mlp, name="mlp"), linen.APALU()])
    variables = model.init(jax.random.key(0), X)
    with pytest.raises(ValueError, match="layers_0/act "):
        capture_linen(model, variables, X)
