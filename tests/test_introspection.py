"""Every a and b of a model, what they mean, alarms, snapshots."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from apalu_jax import APALUParams, apalu, linen
from apalu_jax import nnx as apalu_nnx
from apalu_jax.introspection import (
    Alarm,
    alarms,
    collect,
    describe,
    format_descriptions,
    snapshot,
    stack_snapshots,
)

X = jax.random.normal(jax.random.key(0), (16, 3))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return linen.APALU(name="act")(nn.Dense(3, use_bias=False)(x)), None


class Model(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(not train)(x)
        x = linen.APALU("smooth", feature_axes=-1, constraint="softplus")(x)
        axes = {"params": 0, "input_histograms": 0}
        rngs = {"params": True}
        stack = nn.scan(nn.remat(Block), variable_axes=axes, split_rngs=rngs, length=2)
        x, _ = stack(name="stack")(x)
        shared = linen.APALU(name="shared")
        return shared(shared(x))


def linen_model():
    return Model(), Model().init(jax.random.key(1), X)


class Stack(nnx.Module):
    def __init__(self, rngs):
        @nnx.split_rngs(splits=2)
        @nnx.vmap(in_axes=0, out_axes=0)
        def block(rngs):
            return nnx.Sequential(
                nnx.Linear(3, 3, use_bias=False, rngs=rngs), apalu_nnx.APALU()
            )

        self.blocks = block(rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def run(block, x):
            return block(x)

        return run(self.blocks, x)


def nnx_model():
    rngs = nnx.Rngs(0)
    return nnx.Sequential(
        nnx.BatchNorm(3, rngs=rngs),
        apalu_nnx.APALU(3, params_init="smooth", constraint="softplus"),
        Stack(rngs),
    )


def test_collect_linen():
    model, variables = linen_model()
    found = collect(variables)
    assert found.keys() == {"APALU_0", "stack/act", "shared"}
    # Effective values, where raw ones are stored.
    np.testing.assert_allclose(found["APALU_0"].a, [0.5] * 3, rtol=1e-6)
    np.testing.assert_allclose(found["APALU_0"].b, [0.75] * 3, rtol=1e-6)
    assert found["stack/act"].a.shape == (2,)
    assert all(isinstance(pair, APALUParams) for pair in found.values())
    from_params = collect(variables["params"])
    jax.tree.map(np.testing.assert_array_equal, found, from_params)


def test_collect_nnx():
    model = nnx_model()
    found = collect(model)
    assert found.keys() == {"layers/1", "layers/2/blocks/layers/1"}
    np.testing.assert_allclose(found["layers/1"].b, [0.75] * 3, rtol=1e-6)
    state = nnx.state(model, apalu_nnx.ActivationParam)
    for tree in (state, nnx.to_pure_dict(state)):
        jax.tree.map(np.testing.assert_array_equal, found, collect(tree))


def test_collect_boxes_lone_activations_and_none():
    init = nn.with_partitioning(nn.initializers.constant(0.5), ("model",))
    boxed = linen.APALU((init, init), feature_axes=-1).init(jax.random.key(0), X)
    assert collect(boxed)[""].a.shape == (3,)
    assert collect(apalu_nnx.APALU()).keys() == {""}
    assert collect({"params": {"dense": {"kernel": X}}}) == {}
    # Parameters of the same names that are no activation's.
    wrong = {"lora": nnx.Param(X)}
    assert collect(nnx.State({"layer": {"a": wrong["lora"], "b": wrong["lora"]}})) == {}


def test_collect_is_jittable_and_strongly_typed():
    _, variables = linen_model()
    eager, traced = collect(variables), jax.jit(collect)(variables)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), eager, traced)
    assert not any(
        leaf.weak_type for leaf in jax.tree.leaves(collect({"a": 1.0, "b": 2.0}))
    )


def test_describe_agrees_with_the_function():
    params = APALUParams(jnp.array([0.55, 0.5]), jnp.array([0.065, 0.75]))
    rows = jax.jit(describe)({"act": params._asdict()})["act"]
    slope = jax.vmap(jax.grad(lambda x, a, b: apalu(x, {"a": a, "b": b})), (None, 0, 0))
    close = partial(np.testing.assert_allclose, rtol=1e-5)
    close(rows.left_slope, slope(-1e-6, *params))
    close(rows.right_slope, slope(0.0, *params))
    close(rows.asymptotic_slope, slope(50.0, *params))
    x = np.random.default_rng(0).normal(size=(10_000, 1)).astype(np.float32)
    moments = jnp.mean(apalu(jnp.tile(x, 2), params) ** 2, axis=0)
    np.testing.assert_allclose(rows.gain, moments**-0.5, rtol=0.02)
    jax.tree.map(np.testing.assert_array_equal, APALUParams(rows.a, rows.b), params)
    np.testing.assert_allclose(rows.smoothness, [0.065 / 0.825, 1.0], rtol=1e-6)


def test_format_descriptions():
    tree = {
        "one": {"a": 0.5, "b": 0.25},
        "many": {"a": np.array([0.5, 1.0]), "b": np.array([0.1, 0.2])},
    }
    lines = format_descriptions(describe(tree)).splitlines()
    assert lines[0].split()[:4] == ["path", "a", "b", "smoothness"]
    many, one = lines[1:]
    assert one.split()[:3] == ["one", "0.500", "0.250"]
    assert "0.750 [0.500, 1.000]" in many and "0.150 [0.100, 0.200]" in many


def test_alarms():
    tree = {
        "fine": {"a": 0.5, "b": 0.065},
        "bad": {"a": jnp.array([0.5, -0.25, -0.5, jnp.nan]), "b": jnp.bfloat16(0.0)},
        "raw": {"a_raw": -1.0, "b_raw": -6.0},
        "far": {"a": jnp.inf, "b": -jnp.inf},
    }
    found = {(a.path, a.name, a.kind): a.value for a in alarms(tree)}
    assert found.keys() == {
        ("bad", "a", "negative"),
        ("bad", "a", "not finite"),
        ("bad", "b", "near zero"),
        ("raw", "b", "near zero"),
        ("far", "a", "not finite"),
        ("far", "b", "not finite"),
    }
    assert found["bad", "a", "negative"] == -0.5
    assert found["raw", "b", "near zero"] == pytest.approx(np.log1p(np.exp(-6.0)))
    assert alarms({"act": {"a": 0.05, "b": 0.5}}, near_zero=0.1) == [
        Alarm("act", "a", pytest.approx(0.05), "near zero")
    ]
    assert alarms(nnx_model()) == []


def test_snapshots_stack_over_training():
    def step(params, i):
        params = jax.tree.map(lambda p: p + 0.5, params)
        return params, snapshot(params, i)

    params = {"act": {"a": jnp.float32(0.5), "b": jnp.zeros(2)}}
    scanned = jax.lax.scan(step, params, jnp.arange(3))[1]
    looped = []
    for i in range(3):
        params, taken = step(params, i)
        looped.append(taken)
    stacked = stack_snapshots(looped)
    assert jax.tree.structure(scanned) == jax.tree.structure(stacked)
    jax.tree.map(np.testing.assert_array_equal, scanned, stacked)
    assert stacked.step.dtype == jnp.int32
    np.testing.assert_array_equal(stacked.params["act"].a, [1.0, 1.5, 2.0])
    assert stacked.params["act"].b.shape == (3, 2)
