"""Histograms with fixed bins: NumPy's counts, under every transformation."""

from functools import partial

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from apalu_jax.introspection import (
    histogram_init,
    histogram_merge,
    histogram_update,
)
from tests.helpers import table
from tests.introspection.helpers import expected_counts
from tests.introspection.models import X


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


@pytest.mark.parametrize(
    ("end", "dtype"),
    table(
        (0.1, 0.7, 1 / 3, 2.0**-40, 1e30),
        ("float32", "bfloat16", "float64"),
        strength=1,
    ),
)
def test_bounds_that_the_dtype_cannot_represent(x64, end, dtype):
    x = jnp.asarray(end, dtype)
    x = jnp.stack([jnp.nextafter(x, -jnp.inf), x, jnp.nextafter(x, jnp.inf)])
    exact = np.asarray(x, np.float64)
    low = histogram_update(histogram_init(end, 2.0**100, 3), x)
    assert low.underflow == (exact < end).sum()
    assert low.counts.sum() == ((exact >= end) & (exact < 2.0**100)).sum()
    high = histogram_update(histogram_init(-1.0, end, 3), x)
    assert high.overflow == (exact >= end).sum()
    assert high.counts.sum() == (exact < end).sum()


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
    assert h.calls == 2


@pytest.mark.parametrize("shape", [(), (0, 3), (5, 7, 2)])
def test_calls_are_counted(shape):
    h = histogram_init()
    assert h.calls == 0
    update, x = jax.jit(histogram_update), np.zeros(shape, np.float32)
    for _ in range(3):
        h = update(h, x)
    assert h.calls == 3 and histogram_merge(h, h).calls == 6
    stacked = jax.jit(jax.vmap(histogram_update, (None, 0)))(h, np.stack([x, x]))
    assert stacked.calls.tolist() == [4, 4]


def test_serialization():
    h = histogram_update(histogram_init(-0.7, 3.0, 5), X)
    target = {"act": histogram_init(-0.7, 3.0, 5)}
    encoded = flax.serialization.to_bytes({"act": h})
    restored = flax.serialization.from_bytes(target, encoded)["act"]
    assert_counts(restored, expected_counts(X, -0.7, 3.0, 5))
    assert jax.tree.structure(restored) == jax.tree.structure(h)
    jax.tree.map(
        np.testing.assert_array_equal,
        histogram_merge(restored, h),
        histogram_merge(h, h),
    )
    for other in (histogram_init(-0.7, 3.0, 6), histogram_init(-0.7, 2.0, 5)):
        with pytest.raises(ValueError, match="low, high, bins.* got"):
            flax.serialization.from_bytes({"act": other}, encoded)


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


def test_bad_bounds_and_bins_are_rejected():
    with pytest.raises(ValueError, match="`low`.*`high`"):
        histogram_init(1.0, 1.0)
    with pytest.raises(ValueError, match="`low`.*`high`"):
        histogram_init(0.0, float("nan"))
    with pytest.raises(ValueError, match="`bins`.* got 0"):
        histogram_init(bins=0)
    with pytest.raises(ValueError, match="low, high, bins"):
        histogram_merge(histogram_init(bins=4), histogram_init(bins=5))
