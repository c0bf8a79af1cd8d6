"""Initial variables: the numbers of Flax, from few compiled programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from apalu_jax.experiments import models
from apalu_jax.experiments.arms import ARMS
from apalu_jax.experiments.models.layers import scaled_normal
from apalu_jax.experiments.tasks.base import init_variables


# Of 63, 64, 65, 2880 and 1 numbers: about a power of two, and far from one.
@pytest.mark.parametrize(
    ("dtype", "gain", "shapes"),
    [
        ("float32", np.sqrt(2), [(3, 3, 1, 7), (1, 1, 480, 6), (1, 1)]),
        ("bfloat16", 0.37, [(8, 8), (13, 5)]),
    ],
)
def test_kernels_are_those_of_variance_scaling(dtype, gain, shapes):
    flax = nn.initializers.variance_scaling(gain**2, "fan_in", "truncated_normal")
    for shape in shapes:
        key = jax.random.key(7)
        got = scaled_normal(gain)(key, shape, dtype)
        assert got.dtype == dtype
        # Another shape is another program, which may round otherwise: 2 units in the
        # last place with jax 0.8.1, none with 0.10.2.
        want = np.asarray(flax(key, shape, dtype), "f4")
        unit = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(np.asarray(got, "f4"), want, rtol=2 * unit, atol=0)


def test_kernels_of_many_shapes_share_a_program(monkeypatch):
    drawn = []

    def noting(key, lower, upper, shape, dtype):
        drawn.append(shape)
        return jnp.zeros(shape, dtype)

    monkeypatch.setattr(jax.random, "truncated_normal", noting)
    for channels in range(5, 9):
        jax.eval_shape(
            lambda key, c=channels: scaled_normal(1.0)(key, (3, 3, 8, c)),
            jax.random.key(0),
        )
    assert drawn == [(512,), (512,), (512,), (1024,)]


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"name": "mlp", "features": [9]}, (4,)),
        ({"name": "cnn", "features": [4], "strides": [2]}, (6, 6, 3)),
        ({"name": "recurrent", "cell": "gru", "features": [4]}, (5, 3)),
        ({"name": "mobilenet", "width": 0.0625, "blocks": 1}, (4, 4, 3)),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_variables_are_those_of_init(options, shape):
    network = models.build({"init": "he", **options}, ARMS["apalu"], 3)
    examples = jnp.zeros((2, *shape))

    def init(key):
        return dict(network.init(key, examples[:1], train=False))

    def draw(key):
        return init_variables(network, key, examples)

    @jax.jit
    def both(keys):
        # A key alone, and keys that are vmapped, as the seeds of a trial are.
        return [(run(keys[0]), jax.vmap(run)(keys)) for run in (draw, init)]

    got, want = both(jax.random.split(jax.random.key(0)))
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_the_network_is_not_run_to_draw_it():
    class Watched(nn.Module):
        @nn.compact
        def __call__(self, inputs, *, train):
            x = nn.Dense(3)(inputs)
            assert isinstance(x, jax.core.Tracer)
            return x

    variables = init_variables(Watched(), jax.random.key(0), jnp.zeros((1, 2)))
    assert variables["params"]["Dense_0"]["kernel"].shape == (2, 3)
