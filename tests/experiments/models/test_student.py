"""The student of a distillation: its layers, its kernels, its activations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apalu_jax.experiments import ExperimentError, models
from apalu_jax.experiments.arms import ARMS
from apalu_jax.experiments.models.vgg import narrowed, scaled


def student(arm="relu", **options):
    options = {
        "name": "student_vgg",
        "init": "he",
        "width": 0.25,
        "hidden_channels": 4,
        **options,
    }
    return models.build(options, ARMS[arm], 1)


def test_the_cloner_has_the_published_layers():
    assert narrowed(1.0, 16) == (
        *((16, 16), (16, 128), (16, 16, 256), (16, 16, 512)),
        (16, 16, 512),
    )
    x = jnp.zeros((2, 32, 32, 3))
    shapes = jax.eval_shape(student("apalu").init, jax.random.key(0), x)
    names = set(shapes["params"])
    assert sum(name.startswith("APALU") for name in names) == 13
    # Normalized but before a pool, and nowhere a bias.
    assert {n for n in names if n.startswith("norm")} == {
        *("norm1_1", "norm2_1", "norm3_1", "norm3_2"),
        *("norm4_1", "norm4_2", "norm5_1", "norm5_2"),
    }
    assert all(
        set(shapes["params"][name]) == {"kernel"}
        for name in names
        if name.startswith("conv")
    )
    maps = jax.eval_shape(lambda v: student("apalu").apply(v, x), shapes)
    assert [maps[i].shape[-1] for i in (3, 6, 9, 12)] == [
        block[-1] for block in scaled(0.25)[1:]
    ]


def test_kernels_have_the_variance_of_xavier():
    network, x = student(width=1.0, hidden_channels=16), jnp.zeros((1, 32, 32, 3))

    @jax.jit
    def draw(key):
        # Of one kernel: XLA drops the rest of the network.
        return network.init(key, x)["params"]["conv4_3"]["kernel"]

    kernel = draw(jax.random.key(0))
    assert kernel.shape == (3, 3, 16, 512)
    limit = np.sqrt(6 / (9 * (16 + 512)))
    assert float(jnp.abs(kernel).max()) == pytest.approx(limit, rel=1e-3)
    assert float(kernel.std()) == pytest.approx(limit / np.sqrt(3), rel=0.01)


def test_compared_maps_keep_relu():
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    network = student("elu", replaced="inner", width=1 / 64, hidden_channels=2)
    maps, _ = jax.jit(network.init_with_output)(jax.random.key(1), x)
    assert all(maps[i].min() >= 0 for i in (3, 6, 9, 12))
    assert min(float(maps[i].min()) for i in (0, 2, 4, 5)) < 0
    shapes = jax.eval_shape(
        student("apalu", replaced="inner").init, jax.random.key(0), x
    )
    assert sum(name.startswith("APALU") for name in shapes["params"]) == 9
    with pytest.raises(ExperimentError, match="`replaced`.*none"):
        student(replaced="none")
