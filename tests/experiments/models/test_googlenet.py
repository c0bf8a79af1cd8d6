"""GoogLeNet: its size, its sites, its pooling."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from apalu_jax import introspection
from apalu_jax.experiments import ExperimentError, models
from apalu_jax.experiments.arms import ARMS
from apalu_jax.experiments.models.googlenet import max_pool


def shapes(arm="relu", side=32, **options):
    """Abstract variables of a network, and its abstract outputs for two images."""
    options = {"name": "googlenet", "init": "he", **options}
    network = models.build(options, ARMS[arm], 10)
    images = jnp.zeros((2, side, side, 3))
    variables = jax.eval_shape(network.init, jax.random.key(0), images)
    train = partial(network.apply, train=True, mutable="batch_stats")
    return variables, jax.eval_shape(train, variables, images)


def test_size_and_sites_are_those_of_the_paper():
    variables, (outputs, state) = shapes("apalu")
    params = variables["params"]
    kernels = [value["kernel"] for name, value in params.items() if "Conv" in name]
    assert len(kernels) == 64
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), params)
    assert len(introspection.collect(zeros)) == 64
    # The published count has the biases, which are left out here, and no APALU.
    ours = sum(leaf.size for leaf in jax.tree.leaves(params)) - 2 * 64
    biases = sum(kernel.shape[-1] for kernel in kernels)
    assert ours + biases == 6_166_250
    assert outputs.shape == (2, 10)
    assert jax.tree.structure(state["batch_stats"]) == jax.tree.structure(
        variables["batch_stats"]
    )


def test_work_is_that_of_the_paper():
    """Multiplications for an image, which tell where the images are halved."""
    options = {"name": "googlenet", "init": "he"}
    network = models.build(options, ARMS["relu"], 10)
    image = jnp.zeros((1, 32, 32, 3))
    variables = jax.eval_shape(network.init, jax.random.key(0), image)
    work = sum(
        equation.outvars[0].aval.size * np.prod(equation.invars[1].aval.shape[:-1])
        for equation in jax.make_jaxpr(network.apply)(variables, image).eqns
        if equation.primitive.name == "conv_general_dilated"
    )
    assert work == pytest.approx(1.522e9, rel=5e-4)


def test_width_and_small_images():
    variables, (outputs, _) = shapes(width=0.125, side=16, dtype="bfloat16")
    params = variables["params"]
    assert params["Conv_0"]["kernel"].shape == (3, 3, 3, 24)
    # The last block gives (384 + 384 + 128 + 128) / 8 channels.
    assert params["Dense_0"]["kernel"].shape == (128, 10)
    assert (outputs.shape, outputs.dtype) == ((2, 10), jnp.float32)
    leaves = jax.tree.leaves(variables)
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


def test_later_blocks_can_be_left_out():
    variables, (outputs, _) = shapes(side=8, blocks=3)
    whole, _ = shapes(side=8, blocks=4)
    params = variables["params"]
    for name in ("Conv_21", "BatchNorm_21"):
        leaves = (each["params"][name] for each in (variables, whole))
        assert len({str(jax.tree.map(np.shape, leaf)) for leaf in leaves}) == 1
    assert "Conv_22" not in params
    # The third block gives 192 + 208 + 48 + 64 channels.
    assert params["Dense_0"]["kernel"].shape == (512, 10)
    assert outputs.shape == (2, 10)


@pytest.mark.parametrize("blocks", [0, 10])
def test_no_more_blocks_than_there_are(blocks):
    with pytest.raises(ExperimentError, match=f"`blocks`.* {blocks}"):
        shapes(side=8, blocks=blocks)


@pytest.mark.parametrize(
    ("shape", "stride"),
    [((2, 8, 8, 3), 1), ((1, 5, 4, 2), 1), ((1, 5, 4, 2), 2), ((1, 1, 1, 1), 2)],
)
def test_max_pool_is_the_pooling(shape, stride):
    # All negative, so that a padding with zeros would show; no two are equal.
    count = int(np.prod(shape))
    order = np.random.default_rng(0).permutation(count)
    x = -1 - order.reshape(shape).astype("f4")

    def exact(x):
        padding = ((1, 1), (1, 1))
        return nn.max_pool(x, (3, 3), (stride, stride), padding=padding)

    @partial(jax.jit, static_argnums=0)
    def with_gradient(fn, x):
        y, pull = jax.vjp(fn, x)
        return y, *pull(1 + jnp.arange(y.size, dtype="f4").reshape(y.shape))

    mine = partial(max_pool, stride=stride)
    for got, want in zip(with_gradient(mine, x), with_gradient(exact, x), strict=True):
        np.testing.assert_array_equal(got, want)


def test_equal_values_share_the_gradient():
    x = jnp.zeros((1, 6, 6, 1))
    gradient = jax.jit(jax.grad(lambda x: max_pool(x, 1).sum()))(x)
    assert gradient.sum() == pytest.approx(36)
    np.testing.assert_allclose(gradient[0, 2:4, 2:4, 0], 1, atol=0.5)
