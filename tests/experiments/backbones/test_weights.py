"""Weights and activation of random frozen networks."""

import jax
import numpy as np

from apalu_jax.experiments.backbones import weights
from apalu_jax.experiments.backbones.config import BackboneConfig

from ..helpers import pictures


def test_the_network_is_given_scaled_channels(two_blocks):
    plain = weights.load(BackboneConfig())
    scaled = weights.load(BackboneConfig(mean=(0.1, 0.2, 0.3), std=(0.5,)))
    x = pictures().astype("f4")
    same = 255 * (x / 255 - np.array([0.1, 0.2, 0.3], "f4")) / np.float32(0.5)
    maps = jax.jit(scaled.maps)(x), jax.jit(plain.maps)(same)
    for a, b in zip(*maps, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_random_weights_are_xavier_uniform_and_by_seed():
    one, same, other = (
        weights.load(BackboneConfig(width=0.25, seed=s)) for s in (0, 0, 1)
    )
    kernel, again, different = (
        np.asarray(each.variables["params"]["conv5_3"]["kernel"])
        for each in (one, same, other)
    )
    limit = np.sqrt(6 / (9 * (128 + 128)))
    assert 0.99 * limit < np.abs(kernel).max() <= limit
    assert abs(kernel.std() - limit / np.sqrt(3)) < 0.01 * limit
    assert np.array_equal(kernel, again) and not np.array_equal(kernel, different)
    assert one.label == "VGG16, width 1/4, relu, random weights, seed 0"


def test_activation_of_a_backbone(two_blocks):
    relu, apalu = (
        weights.load(BackboneConfig(activation=a)) for a in ("relu", "apalu")
    )
    lowest = [jax.jit(each.maps)(pictures())[1].min() for each in (relu, apalu)]
    assert lowest[0] == 0 > lowest[1]
    assert (
        len(jax.tree.leaves(apalu.variables))
        == len(jax.tree.leaves(relu.variables)) + 6
    )
