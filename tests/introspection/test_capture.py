"""The inputs of every APALU of a model."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from apalu_jax import apalu, linen
from apalu_jax import nnx as apalu_nnx
from apalu_jax.introspection import (
    capture_linen,
    capture_nnx,
    collect,
    histogram_init,
    histogram_merge,
    histogram_update,
    split_layers,
)
from tests.helpers import table
from tests.introspection.helpers import expected_counts
from tests.introspection.models import Block, X, linen_model, nnx_model


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
    assert {path: h.calls.tolist() for path, h in found.items()} == {
        "APALU_0": 1,
        "shared": 2,
        "stack/act": [1, 1],
    }
    layers = split_layers(found, lambda path, h: h.words.ndim > 1)
    assert (
        layers["stack/act[1]"].counts.tolist() == found["stack/act"].counts.tolist()[1]
    )
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
    normalized = (X - X.mean(0, keepdims=True)) / np.sqrt(
        X.var(0, keepdims=True) + 1e-5
    )
    h = histogram_update(histogram_init(), normalized)
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
    with pytest.raises(ValueError, match="`sites`.*APALU"):
        capture_linen(model, variables, X)


def test_capture_linen_tells_what_scan_loses():
    stack = nn.scan(
        Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=2
    )
    model = stack()
    variables = model.init(jax.random.key(0), X)
    with pytest.raises(ValueError, match="variable_axes.* act "):
        capture_linen(model, variables, X)


def test_capture_nnx():
    model = nnx_model()
    before = nnx.to_pure_dict(nnx.state(model))
    empty = histogram_init(-4.0, 4.0, 16)
    found = capture_nnx(model, X, empty=empty)
    assert found.keys() == collect(model).keys()
    normalized = (X - X.mean(0, keepdims=True)) / np.sqrt(
        X.var(0, keepdims=True) + 1e-5
    )
    h = histogram_update(empty, normalized)
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
    with pytest.raises(ValueError, match="`sites`"):
        capture_nnx(model, X)


AXES = {
    "auto": (AxisType.Auto, AxisType.Auto),
    "explicit": (AxisType.Explicit, AxisType.Explicit),
    "mixed": (AxisType.Explicit, AxisType.Auto),
}


@pytest.mark.parametrize(
    ("axes", "context"), table(tuple(AXES), ("", "set_mesh"), strength=1)
)
def test_capture_on_meshes(axes, context):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=AXES[axes])
    x = jax.device_put(X, NamedSharding(mesh, P("data")))
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(nnx.Linear(3, 4, rngs=rngs), apalu_nnx.APALU())
    net = nn.Sequential([nn.Dense(4), linen.APALU()])
    variables = net.init(jax.random.key(0), X)
    expected = capture_nnx(model, X), capture_linen(net, variables, X)
    everywhere = NamedSharding(mesh, P())
    nnx.update(model, jax.device_put(nnx.state(model), everywhere))
    variables = jax.device_put(variables, everywhere)

    def check():
        found = capture_nnx(model, x), capture_linen(net, variables, x)
        jitted = jax.jit(lambda v, x: capture_linen(net, v, x))(variables, x)
        jax.tree.map(
            np.testing.assert_array_equal, (*found, jitted), (*expected, found[1])
        )

    if context:
        with jax.set_mesh(mesh):
            check()
    else:
        check()
