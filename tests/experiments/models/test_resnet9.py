"""ResNet-9: its size, its maps, gradients of every parameter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apalu_jax.experiments import arms, models
from apalu_jax.experiments.models.resnet9 import space_to_depth


def build(arm="relu", **options):
    options = {"name": "resnet9", "init": "he", **options}
    return models.build(options, arms.get(arm), 10)


def parameters(network, size=32):
    image = jax.ShapeDtypeStruct((1, size, size, 3), "float32")
    return jax.eval_shape(network.init, jax.random.key(0), image)["params"]


@pytest.mark.parametrize(
    ("width", "count"),
    [
        # Convolutions of 12-16-16-64-64-64-64 channels, two numbers for each channel
        # of a normalization, and the dense layer.
        (1.0, 9 * (12 * 16 + 16 * 16 + 16 * 64 + 3 * 64 * 64) + 2 * 288 + 650),
        (0.5, 9 * (12 * 8 + 8 * 8 + 8 * 32 + 3 * 32 * 32) + 2 * 144 + 330),
    ],
)
def test_number_of_parameters(width, count):
    leaves = jax.tree.leaves(parameters(build(width=width)))
    assert sum(leaf.size for leaf in leaves) == count


def test_six_activations():
    found = parameters(build("apalu"))
    assert sum(name.startswith("APALU") for name in found) == 6


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("size", [pytest.param(8, marks=pytest.mark.slow), 9, 32])
def test_every_parameter_is_trained(size):
    network = build("apalu", width=0.25)
    x = jax.random.normal(jax.random.key(1), (4, size, size, 3))
    variables = jax.jit(network.init)(jax.random.key(0), x)

    def loss(params):
        given = {**variables, "params": params}
        y, _ = network.apply(given, x, train=True, mutable=["batch_stats"])
        assert y.shape == (4, 10)
        return jnp.square(y - 1).sum()

    gradients = jax.jit(jax.grad(loss))(variables["params"])
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients))


def test_the_stem_keeps_every_pixel():
    x = np.random.default_rng(0).normal(size=(2, 6, 4, 3)).astype("f4")
    y = np.asarray(space_to_depth(jnp.asarray(x)))
    assert y.shape == (2, 3, 2, 12)
    for i, j, c in np.ndindex(2, 2, 3):
        assert np.array_equal(y[..., 6 * i + 3 * j + c], x[:, i::2, j::2, c])
