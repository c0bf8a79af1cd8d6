from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from apalu_jax import APALUParams, apalu, linen
from apalu_jax import nnx as apalu_nnx
from apalu_jax.introspection import (
    Alarm,
    alarms,
    capture_linen,
    capture_nnx,
    collect,
    describe,
    format_descriptions,
    histogram_init,
    histogram_merge,
    histogram_update,
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


def expected_counts(x, low, high, bins):
    """Counts by NumPy: inside, below, above, NaN."""
    x = np.asarray(x, np.float64).ravel()
    inside = np.histogram(x[(x >= low) & (x < high)], bins, (low, high))[0]
    return inside, (x < low).sum(), (x >= high).sum(), np.isnan(x).sum()


def assert_counts(histogram, expected):
    np.testing.assert_array_equal(histogram.counts, expected[0])
    assert histogram.underflow == expected[1]
    assert histogram.overflow == expected[2]
    assert histogram.nan == expected[3]


# On this grid binning is exact.
grid = st.integers(-3072, 3072).map(lambda i: i / 1024)
values = st.lists(grid | st.sampled_from([3e38, np.inf, -np.inf, np.nan]), max_size=12)


@given(values, st.sampled_from([1, 8, 64]))
def test_histogram_equals_numpy(values, bins):
    # Always of one size, so that it compiles once.
    x = np.array(values + [0.0] * (12 - len(values)), np.float32)
    h = jax.jit(histogram_update)(histogram_init(-2.0, 2.0, bins), x)
    assert_counts(h, expected_counts(x, -2.0, 2.0, bins))
    np.testing.assert_array_equal(h.edges, np.linspace(-2.0, 2.0, bins + 1))


def test_histogram_of_nothing():
    h = histogram_update(histogram_init(), jnp.zeros((0, 3)))
    assert h.counts.sum() == h.underflow == h.overflow == h.nan == 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8", "float32"])
def test_histogram_of_every_dtype(dtype):
    x = (3 * X).astype(dtype)
    h = histogram_update(histogram_init(-4.0, 4.0, 16), x)
    assert_counts(h, expected_counts(np.asarray(x, np.float64), -4.0, 4.0, 16))


def test_histogram_near_the_ends():
    ends = np.float32([-1.0, 0.1])
    x = np.concatenate([np.nextafter(ends, -9), ends, np.nextafter(ends, 9)])
    h = histogram_update(histogram_init(-1.0, float(ends[1]), 7), x)
    assert (h.underflow, h.overflow, h.counts[0], h.counts[-1]) == (1, 2, 2, 1)


def test_histogram_under_transformations():
    empty = histogram_init(-3.0, 3.0, 12)
    batches = X.reshape(4, 4, 3)
    expected = expected_counts(X, -3.0, 3.0, 12)

    def body(h, batch):
        return histogram_update(h, batch), None

    assert_counts(
        jax.jit(lambda h, b: jax.lax.scan(body, h, b)[0])(empty, batches), expected
    )
    stack = jax.vmap(histogram_update, in_axes=(None, 0))(empty, batches)
    assert stack.counts.shape == (4, 12) and stack.bins == 12
    merged = empty
    for i in range(4):
        np.testing.assert_array_equal(
            stack.counts[i], expected_counts(batches[i], -3.0, 3.0, 12)[0]
        )
        merged = histogram_merge(merged, jax.tree.map(lambda w, i=i: w[i], stack))
    assert_counts(merged, expected)


@pytest.mark.parametrize("check_vma", [True, False])
def test_histogram_in_shard_map(check_vma):
    mesh = jax.make_mesh(
        (4,), ("data",), devices=jax.devices()[:4], axis_types=(AxisType.Auto,)
    )
    sharded = jax.device_put(X, NamedSharding(mesh, P("data")))
    update = jax.shard_map(
        partial(histogram_update, axis_name="data"),
        mesh=mesh,
        in_specs=(P(), P("data")),
        out_specs=P(),
        check_vma=check_vma,
    )
    h = histogram_update(histogram_init(-3.0, 3.0, 12), X)
    h = jax.jit(update)(h, sharded)
    doubled = expected_counts(np.concatenate([X, X]), -3.0, 3.0, 12)
    assert_counts(h, doubled)


def test_histogram_in_pmap_and_sharded_jit():
    expected = expected_counts(X, -3.0, 3.0, 12)
    empty = histogram_init(-3.0, 3.0, 12)
    update = jax.pmap(
        partial(histogram_update, axis_name="i"), axis_name="i", in_axes=(None, 0)
    )
    everywhere = update(empty, X.reshape(8, 2, 3))
    for i in range(8):
        assert_counts(jax.tree.map(lambda w, i=i: w[i], everywhere), expected)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(X, NamedSharding(mesh, P("data")))
    assert_counts(jax.jit(histogram_update)(empty, sharded), expected)


def test_histogram_counts_beyond_32_bits():
    h = histogram_init(0.0, 2.0, 2)
    nearly = h.words.at[1].set(2**32 - 3).at[2].set(2**24)
    h = histogram_update(type(h)(nearly, h.carries, h.low, h.high), jnp.full(10, 0.5))
    h = histogram_update(h, jnp.array([1.5]))
    np.testing.assert_array_equal(h.counts, [2**32 + 7, 2**24 + 1])
    merged = histogram_merge(h, h)
    np.testing.assert_array_equal(merged.counts, [2**33 + 14, 2**25 + 2])
    high = type(h)(h.words, h.carries + jnp.uint32(2**31 - 2), h.low, h.high)
    np.testing.assert_array_equal(
        histogram_merge(high, high).counts[0], np.uint64(2 * (2**63 - 2**32 + 7))
    )


def test_histogram_rejects():
    with pytest.raises(ValueError, match="`low` must be below `high`"):
        histogram_init(1.0, 1.0)
    with pytest.raises(ValueError, match="`low` must be below `high`"):
        histogram_init(0.0, float("nan"))
    with pytest.raises(ValueError, match="`bins` must be at least 1, got 0"):
        histogram_init(bins=0)
    with pytest.raises(ValueError, match="same .low, high, bins."):
        histogram_merge(histogram_init(bins=4), histogram_init(bins=5))


def test_capture_linen():
    model, variables = linen_model()
    empty = histogram_init(-4.0, 4.0, 16)
    found = capture_linen(model, variables, X, empty=empty)
    assert found.keys() == collect(variables).keys()
    h = histogram_update(empty, X / np.sqrt(1 + 1e-5))
    np.testing.assert_array_equal(found["APALU_0"].counts, h.counts)
    # A shared module counts both of its calls; a scanned one keeps its layers apart.
    assert found["shared"].counts.sum() == 2 * X.size
    assert found["stack/act"].counts.shape == (2, 16)
    params, x = collect(variables), X / np.sqrt(1 + 1e-5)
    x = apalu(x, params["APALU_0"])
    for layer in range(2):
        x = x @ variables["params"]["stack"]["Dense_0"]["kernel"][layer]
        expected = expected_counts(x, -4.0, 4.0, 16)[0]
        np.testing.assert_array_equal(found["stack/act"].counts[layer], expected)
        x = apalu(x, jax.tree.map(lambda p, i=layer: p[i], params["stack/act"]))


def test_capture_linen_under_transformations():
    model, variables = linen_model()
    once = capture_linen(model, variables, X)
    jitted = jax.jit(lambda v, x: capture_linen(model, v, x))(variables, X)
    jax.tree.map(np.testing.assert_array_equal, once, jitted)
    seeds = jax.tree.map(lambda v: jnp.stack([v, v]), variables)
    stacked = jax.vmap(lambda v: capture_linen(model, v, X))(seeds)
    jax.tree.map(
        lambda s, o: np.testing.assert_array_equal(s, np.stack([o, o])), stacked, once
    )

    # Streaming over batches on the device.
    def body(total, x):
        new = capture_linen(model, variables, x)
        return {path: histogram_merge(total[path], new[path]) for path in new}, None

    total, _ = jax.lax.scan(body, once, jnp.stack([X, X]))
    for path, histogram in once.items():
        np.testing.assert_array_equal(total[path].counts, 3 * histogram.counts)


def test_capture_linen_passes_arguments_and_changes_nothing():
    model, variables = linen_model()
    kept = jax.tree.map(np.array, variables)
    trained = capture_linen(model, variables, X, train=True)
    jax.tree.map(np.testing.assert_array_equal, kept, variables)
    normalised = (X - X.mean(0)) / np.sqrt(X.var(0) + 1e-5)
    h = histogram_update(histogram_init(), normalised)
    assert np.abs(trained["APALU_0"].counts - h.counts.astype(int)).sum() <= 2


def test_capture_linen_of_other_modules():
    class Relu(nn.Module):
        def __call__(self, x):
            return nn.relu(x)

    model = nn.Sequential([nn.Dense(4), Relu(), nn.Dense(2), nn.PReLU()])
    variables = model.init(jax.random.key(0), X)
    found = capture_linen(model, variables, X, sites=(Relu, nn.PReLU))
    assert {path: h.counts.sum() for path, h in found.items()} == {
        "layers_1": 64,
        "layers_3": 32,
    }
    with pytest.raises(ValueError, match="must call a module of `sites`.*APALU"):
        capture_linen(model, variables, X)


def test_capture_linen_tells_what_scan_loses():
    stack = nn.scan(
        Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=2
    )
    model = stack()
    variables = model.init(jax.random.key(0), X)
    with pytest.raises(ValueError, match="variable_axes.*lost at act"):
        capture_linen(model, variables, X)


def test_capture_nnx():
    model = nnx_model()
    before = nnx.to_pure_dict(nnx.state(model))
    empty = histogram_init(-4.0, 4.0, 16)
    found = capture_nnx(model, X, empty=empty)
    assert found.keys() == collect(model).keys()
    normalised = (X - X.mean(0)) / np.sqrt(X.var(0) + 1e-5)
    h = histogram_update(empty, normalised)
    assert np.abs(found["layers/1"].counts - h.counts.astype(int)).sum() <= 2
    assert found["layers/2/blocks/layers/1"].counts.shape == (2, 16)
    assert found["layers/2/blocks/layers/1"].counts.sum() == 2 * X.size
    # Neither values nor classes of the model have changed.
    jax.tree.map(
        np.testing.assert_array_equal, before, nnx.to_pure_dict(nnx.state(model))
    )
    assert type(model.layers[1]) is apalu_nnx.APALU


def test_capture_nnx_under_jit():
    model = nnx_model()
    once = capture_nnx(model, X)
    jitted = nnx.jit(lambda model, x: capture_nnx(model, x))(model, X)
    jax.tree.map(np.testing.assert_array_equal, once, jitted)
    graph, state = nnx.split(model)
    pure = jax.jit(lambda s, x: capture_nnx(nnx.merge(graph, s), x))(state, X)
    jax.tree.map(np.testing.assert_array_equal, once, pure)


def test_capture_nnx_of_other_modules():
    prelu = nnx.PReLU()
    model = nnx.Sequential(prelu, nnx.Linear(3, 2, rngs=nnx.Rngs(0)), prelu)
    found = capture_nnx(model, X, sites=nnx.PReLU)
    # One instance in two places is one module, under its first path.
    assert {path: h.counts.sum() for path, h in found.items()} == {"layers/0": 80}
    with pytest.raises(ValueError, match="must call a module of `sites`"):
        capture_nnx(model, X)
