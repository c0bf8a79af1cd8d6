"""The plain convolutional network: its size, its sites, its initialization."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apalu_jax import introspection
from apalu_jax.experiments import models
from apalu_jax.experiments.arms import ARMS


def build(arm="relu", init="he", **options):
    return models.build({"name": "cnn", "init": init, **options}, ARMS[arm], 10)


def shapes(network, side=28):
    """Abstract variables of a network."""
    return jax.eval_shape(
        network.init, jax.random.key(0), jnp.zeros((1, side, side, 1))
    )


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_size_and_sites():
    channels = [1, 16, 32, 64, 64, 128]
    kernels = sum(9 * a * b for a, b in zip(channels, channels[1:], strict=False))
    dense = 129 * 10
    normalized, plain = shapes(build()), shapes(build(normalize=False))
    # A scale and a shift for each channel, or a bias.
    assert count(normalized["params"]) == kernels + 2 * sum(channels[1:]) + dense
    assert count(plain["params"]) == kernels + sum(channels[1:]) + dense
    assert list(plain) == ["params"]
    params = shapes(build("apalu"))["params"]
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), params)
    assert len(introspection.collect(zeros)) == 5


@pytest.mark.parametrize("normalize", [True, False])
def test_strides_and_training_mode(normalize):
    network = build(features=[4, 6], strides=[1, 2], normalize=normalize)
    x = jax.random.normal(jax.random.key(1), (3, 5, 5, 1))
    variables = jax.jit(network.init)(jax.random.key(0), x)
    train = partial(
        network.apply,
        train=True,
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=True,
    )
    outputs, state = jax.jit(train)(variables, x)
    assert outputs.shape == (3, 10)
    layers = state["intermediates"]
    sizes = [layers[f"Conv_{i}"]["__call__"][0].shape[1:] for i in (0, 1)]
    assert sizes == [(5, 5, 4), (3, 3, 6)]
    assert ("batch_stats" in state) == normalize
    evaluated = jax.jit(network.apply)(variables, x)
    assert np.allclose(outputs, evaluated) != normalize


def test_kernels_have_the_declared_variance():
    network = build("silu", "gain", features=[64, 128], strides=[1, 1])
    init = jax.jit(network.init)
    params = init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))["params"]
    spread = float(params["Conv_1"]["kernel"].std())
    assert spread == pytest.approx(ARMS["silu"].gain / np.sqrt(9 * 64), rel=0.02)


def test_forms_of_the_convolutions_agree():
    x = jax.random.normal(jax.random.key(1), (2, 6, 6, 1))
    lax, patches = (
        build(features=[4, 6], strides=[1, 2], conv_impl=form)
        for form in ("lax", "patches")
    )
    variables = jax.jit(lax.init)(jax.random.key(0), x)
    train = {"train": True, "mutable": "batch_stats"}
    got, want = (
        jax.jit(partial(network.apply, **train))(variables, x)
        for network in (patches, lax)
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), got, want)
