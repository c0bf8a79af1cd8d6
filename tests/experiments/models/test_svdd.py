"""The networks of Deep SVDD, against the published layers written out."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from apalu_jax import introspection
from apalu_jax.experiments import models
from apalu_jax.experiments.arms import ARMS


def build(arm="leaky_relu", init="he", decoder=False, **options):
    name = "svdd_autoencoder" if decoder else "svdd"
    return models.build({"name": name, "init": init, **options}, ARMS[arm], 1)


def shapes(network):
    """Abstract variables."""
    image = jnp.zeros((1, 28, 28, 1))
    return jax.eval_shape(network.init, jax.random.key(0), image)


@cache
def drawn(decoder):
    """Variables for any form of the convolutions."""
    image = jnp.zeros((1, 28, 28, 1))
    return jax.jit(build(decoder=decoder).init)(jax.random.key(0), image)


def images(n):
    return jax.random.uniform(jax.random.key(1), (n, 28, 28, 1))


def sizes(tree):
    return sorted(leaf.size for leaf in jax.tree.leaves(tree))


def norm(x):
    mean, var = (f((0, 1, 2), keepdims=True) for f in (x.mean, x.var))
    return (x - mean) / jnp.sqrt(var + 1e-4)


def act(x):
    return jnp.where(x >= 0, x, 0.01 * x)


def convolve(x, layer, padding):
    dims = ("NHWC", "HWIO", "NHWC")
    padding = [(padding, padding)] * 2
    return lax.conv_general_dilated(
        x, layer["kernel"], (1, 1), padding, dimension_numbers=dims
    )


def pool(x):
    window = (1, 2, 2, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")


def double(x):
    return x.repeat(2, axis=1).repeat(2, axis=2)


def published_encoder(params, x):
    for name in ("Conv_0", "Conv_1"):
        x = pool(act(norm(convolve(x, params[name], 2))))
    return x.reshape(len(x), 196) @ params["Dense_0"]["kernel"]


def published_autoencoder(params, x):
    code = published_encoder(params["encoder"], x)
    x = double(act(code.reshape(len(x), 4, 4, 2)))
    # A transposed convolution with padding p is a convolution with padding 4 - p.
    x = double(act(norm(convolve(x, params["Conv_0"], 4 - 2))))
    x = double(act(norm(convolve(x, params["Conv_1"], 4 - 3))))
    return jax.nn.sigmoid(convolve(x, params["Conv_2"], 4 - 2))


def test_the_encoder_has_three_kernels_and_nothing_else():
    variables = shapes(build())
    assert sizes(variables["params"]) == [200, 800, 6272]
    # A running mean and variance for each of the 8 and the 4 channels.
    assert sizes(variables["batch_stats"]) == [4, 4, 8, 8]


def test_the_decoder_has_three_more():
    params = dict(shapes(build(decoder=True))["params"])
    assert sizes(params.pop("encoder")) == [200, 800, 6272]
    assert sizes(params) == [200, 200, 800]


@pytest.mark.parametrize(("decoder", "sites"), [(False, 2), (True, 5)])
def test_activations_are_from_the_factory(decoder, sites):
    params = shapes(build("apalu", decoder=decoder))["params"]
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), params)
    assert len(introspection.collect(zeros)) == sites


@pytest.mark.parametrize(
    ("decoder", "conv", "published"),
    [
        (False, "lax", published_encoder),
        (False, "rows", published_encoder),
        (True, "lax", published_autoencoder),
    ],
)
def test_layers_are_those_published(decoder, conv, published):
    network, variables = build(decoder=decoder, conv_impl=conv), drawn(decoder)
    # So faint that the normalization's epsilon counts.
    x = 0.01 * images(3)
    train = jax.jit(partial(network.apply, train=True, mutable="batch_stats"))
    got, state = train(variables, x)
    want = jax.jit(published)(variables["params"], x)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    # Statistics follow at a tenth a step.
    encoder, kernel = (
        (tree["encoder"] if decoder else tree)
        for tree in (state["batch_stats"], variables["params"])
    )
    mean = convolve(x, kernel["Conv_0"], 2).mean(axis=(0, 1, 2))
    np.testing.assert_allclose(
        encoder["BatchNorm_0"]["mean"], 0.1 * mean, rtol=1e-3, atol=1e-7
    )


def test_evaluation_uses_the_running_statistics():
    """Without a bias anywhere, what is drawn at first maps nothing to nothing."""
    variables, apply = drawn(False), jax.jit(build().apply)
    x = images(3)
    np.testing.assert_array_equal(apply(variables, jnp.zeros_like(x)), 0)
    np.testing.assert_allclose(
        apply(variables, x)[:2], apply(variables, x[:2]), rtol=1e-4, atol=1e-5
    )


def test_kernels_have_the_declared_variance():
    params = drawn(False)["params"]
    spread = float(params["Conv_1"]["kernel"].std())
    assert spread == pytest.approx(np.sqrt(2 / (25 * 8)), rel=0.1)
    # No activation follows the last one.
    spread = float(params["Dense_0"]["kernel"].std())
    assert spread == pytest.approx(1 / np.sqrt(196), rel=0.05)
