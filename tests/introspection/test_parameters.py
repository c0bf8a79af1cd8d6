"""Every a and b of a model, what they mean, and checks."""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from apalu_jax import APALUParams, apalu, introspection, linen
from apalu_jax import nnx as apalu_nnx
from apalu_jax.introspection import (
    ParamIssue,
    check_params,
    collect,
    describe,
    format_descriptions,
    snapshot,
    split_layers,
)
from tests.introspection.models import X, linen_model, nnx_model


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
    state = nnx.state(model, nnx.Param)
    for tree in (state, nnx.to_pure_dict(state)):
        jax.tree.map(np.testing.assert_array_equal, found, collect(tree))


def test_collect_boxes_lone_activations_and_none():
    init = nn.with_partitioning(nn.initializers.constant(0.5), ("model",))
    boxed = linen.APALU((init, init), feature_axes=-1).init(jax.random.key(0), X)
    assert collect(boxed)[""].a.shape == (3,)
    assert collect(apalu_nnx.APALU()).keys() == {""}
    assert collect({"params": {"dense": {"kernel": X}}}) == {}
    # Half of a pair is none.
    for absent in (None, optax.MaskedNode(), nnx.Param(None)):
        assert collect({"act": {"apalu_a": X, "apalu_b": absent}}) == {}
    assert collect({"act": {"apalu_a": X}}) == {}


def test_collect_keeps_equal_paths_of_different_trees_apart():
    class Networks(NamedTuple):
        policy: Any
        value: Any

    policy, value = ({"params": {"act": APALUParams(0.5, b)}} for b in (-1.0, 0.25))
    found = collect(Networks(policy, value))
    assert {path: float(pair.b) for path, pair in found.items()} == {
        "policy/params/act": -1.0,
        "value/params/act": 0.25,
    }
    assert [issue.path for issue in check_params(Networks(policy, value))] == [
        "policy/params/act"
    ]
    shared = apalu_nnx.APALU()
    assert collect(nnx.Sequential(shared, shared)).keys() == {"layers/0"}
    act = {"apalu_a": 0.5, "apalu_b": 0.25}
    with pytest.raises(ValueError, match="'act'"):
        collect({"params": {"act": act}, "act": act})


def test_collect_accepts_its_own_result():
    model = nnx_model()
    found = collect(model)
    jax.tree.map(np.testing.assert_array_equal, collect(found), found)
    jax.tree.map(np.testing.assert_array_equal, describe(found), describe(model))
    taken = snapshot(model, 3)
    assert collect(taken).keys() == found.keys()


def test_abstract_trees():
    _, variables = linen_model()
    abstract = jax.eval_shape(lambda: variables)
    found = collect(abstract)
    expected = jax.eval_shape(collect, variables)
    assert found == expected and found["stack/act"].a.shape == (2,)
    for fn in (describe, check_params):
        with pytest.raises(TypeError, match="`tree`.* abstract"):
            fn(abstract)
    assert collect(nnx.eval_shape(nnx_model)).keys() == collect(nnx_model()).keys()


def test_collect_is_jittable_and_strongly_typed():
    _, variables = linen_model()
    eager, traced = collect(variables), jax.jit(collect)(variables)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), eager, traced)
    assert not any(
        leaf.weak_type
        for leaf in jax.tree.leaves(collect({"apalu_a": 1.0, "apalu_b": 2.0}))
    )


def test_describe_agrees_with_the_function():
    params = APALUParams(jnp.array([0.55, 0.5]), jnp.array([0.065, 0.75]))
    rows = jax.jit(describe)({"act": params})["act"]
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
        "one": APALUParams(0.5, 0.25),
        "many": APALUParams(np.array([0.5, 1.0]), np.array([0.1, 0.2])),
    }
    lines = format_descriptions(describe(tree)).splitlines()
    assert lines[0].split()[:4] == ["path", "a", "b", "smoothness"]
    many, one = lines[1:]
    assert one.split()[:3] == ["one", "0.500", "0.250"]
    assert "0.750 [0.500, 1.000]" in many and "0.150 [0.100, 0.200]" in many


def test_check_params():
    tree = {
        "fine": {"apalu_a": 0.5, "apalu_b": 0.065},
        "bad": {
            "apalu_a": jnp.array([0.5, -0.25, -0.5, jnp.nan]),
            "apalu_b": jnp.bfloat16(0.0),
        },
        "raw": {"apalu_a_raw": -1.0, "apalu_b_raw": -6.0},
        "far": APALUParams(jnp.inf, -jnp.inf),
    }
    found = {(i.path, i.name, i.kind): i.value for i in check_params(tree)}
    assert found.keys() == {
        ("bad", "a", "negative"),
        ("bad", "a", "non-finite"),
        ("bad", "b", "near zero"),
        ("raw", "b", "near zero"),
        ("far", "a", "non-finite"),
        ("far", "b", "non-finite"),
    }
    assert found["bad", "a", "negative"] == -0.5
    assert found["raw", "b", "near zero"] == pytest.approx(np.log1p(np.exp(-6.0)))
    assert check_params({"act": APALUParams(0.05, 0.5)}, near_zero=0.1) == [
        ParamIssue("act", "a", pytest.approx(0.05), "near zero")
    ]
    assert check_params(nnx_model()) == []
    with pytest.warns(DeprecationWarning, match="check_params"):
        assert introspection.alarms is check_params


def test_split_layers():
    """Layers stacked by a scan, which have the shape of a pair per channel."""
    model = nnx_model()
    found = collect(model)

    def stacked(path, value):
        assert isinstance(value, APALUParams | introspection.Description)
        return "blocks" in path

    layers = split_layers(found, stacked)
    path = "layers/2/blocks/layers/1"
    assert list(layers) == ["layers/1", f"{path}[0]", f"{path}[1]"]
    for i in range(2):
        assert layers[f"{path}[{i}]"].a.shape == ()
        assert layers[f"{path}[{i}]"].b == found[path].b[i]
    assert layers["layers/1"] is found["layers/1"]
    # Tables, checks and snapshots take what is split, and it works on their results.
    assert describe(layers).keys() == split_layers(describe(found), stacked).keys()
    assert len(format_descriptions(describe(layers)).splitlines()) == 4
    bad = {path: APALUParams(jnp.array([0.5, -0.5]), jnp.ones(2))}
    assert [i.path for i in check_params(split_layers(bad, stacked))] == [f"{path}[1]"]
    assert list(snapshot(layers, 0).params) == list(layers)
    traced = jax.jit(lambda model: split_layers(collect(model), stacked))(model)
    jax.tree.map(np.testing.assert_array_equal, traced, layers)
    twice = split_layers({"blocks": APALUParams(X, X)}, stacked)
    twice = split_layers(twice, stacked)
    assert len(twice) == X.size and float(twice["blocks[3][2]"].a) == float(X[3, 2])
    for wrong in (APALUParams(), APALUParams(jnp.ones(2), jnp.ones(3))):
        with pytest.raises(ValueError, match="`stacked`.*'blocks'"):
            split_layers({"blocks": wrong}, stacked)


class TwoInOneScope(nn.Module):
    def setup(self):
        self.one, self.two = linen.APALU(), linen.APALU(constraint="softplus")
        nn.share_scope(self, self.one)
        nn.share_scope(self, self.two)

    def __call__(self, x):
        return self.two(self.one(x))


def test_two_activations_in_one_scope_are_not_passed_over():
    variables = TwoInOneScope().init(jax.random.key(0), jnp.ones(3))
    mixed = {"act": {"apalu_a": 1.0, "apalu_b_raw": 1.0}}
    for tree in (variables, mixed):
        with pytest.raises(ValueError, match="`tree`.*two activations"):
            collect(tree)
