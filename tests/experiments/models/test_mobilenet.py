"""MobileNet: its size, its sites, its depthwise convolution, and training it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from apalu_jax import APALUParams, apalu, introspection
from apalu_jax.experiments import ExperimentError, models
from apalu_jax.experiments.arms import ARMS
from apalu_jax.experiments.models.depthwise import depthwise


def build(arm="relu", **options):
    options = {"name": "mobilenet", "init": "he", **options}
    return models.build(options, ARMS[arm], 10)


def spec(network, side=32):
    """Abstract variables of a network."""
    return jax.eval_shape(
        network.init, jax.random.key(0), jnp.zeros((1, side, side, 3))
    )


def convolution(x, kernel, stride):
    channels = x.shape[-1]
    layer = nn.Conv(
        channels,
        (3, 3),
        stride,
        padding=1,
        feature_group_count=channels,
        use_bias=False,
    )
    return layer.apply({"params": {"kernel": kernel}}, x)


@pytest.mark.parametrize(
    ("shape", "stride"), [((2, 8, 8, 3), 2), ((1, 7, 9, 2), 2), ((2, 1, 2, 4), 1)]
)
def test_depthwise_is_the_grouped_convolution(shape, stride):
    rng = np.random.default_rng(0)
    x, kernel = (
        rng.normal(size=size).astype("f4") for size in (shape, (3, 3, 1, shape[-1]))
    )

    def with_gradients(fn):
        y, pull = jax.vjp(partial(fn, stride=stride), x, kernel)
        return y, *pull(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    forms = (depthwise, convolution)
    got, want = jax.jit(lambda: [with_gradients(fn) for fn in forms])()
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_depthwise_has_the_form_of_the_platform():
    x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 1, 2))
    traced = jax.jit(depthwise, static_argnums=2).trace(x, kernel, 1)
    for platform, convolutions in {"cpu": 0, "cuda": 1, "tpu": 1}.items():
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert text.count("stablehlo.convolution") == convolutions


def test_depthwise_of_half_precision_is_rounded_once():
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (4, 8, 8, 16), jnp.bfloat16)
    kernel = jax.random.normal(keys[1], (3, 3, 1, 16), jnp.bfloat16)
    run = jax.jit(partial(depthwise, stride=1))
    want = run(x.astype(jnp.float32), kernel.astype(jnp.float32))
    np.testing.assert_array_equal(run(x, kernel), want.astype(jnp.bfloat16))


def test_cotangents_in_half_precision_are_summed_in_float32():
    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel, g = (
        jax.random.normal(key, shape, jnp.bfloat16)
        for key, shape in zip(
            keys, [(4, 9, 8, 16), (3, 3, 1, 16), (4, 5, 4, 16)], strict=True
        )
    )

    def cotangents(x, kernel, g):
        # Not compiled: XLA may keep the float32 of a product that is to be rounded.
        form = partial(depthwise, stride=2, everywhere=True)
        return jax.vjp(form, x, kernel)[1](g)

    want = cotangents(*(v.astype(jnp.float32) for v in (x, kernel, g)))
    for got, exact in zip(cotangents(x, kernel, g), want, strict=True):
        np.testing.assert_array_equal(got, exact.astype(jnp.bfloat16))


def test_gradients_of_vmapped_depthwise_are_those_of_each_model():
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (3, 2, 7, 5, 4))
    kernel = jax.random.normal(keys[1], (3, 3, 3, 1, 4))

    def loss(x, kernel, everywhere):
        return jnp.sum(jnp.sin(depthwise(x, kernel, 2, everywhere)))

    gradient = jax.grad(loss, argnums=(0, 1))
    together = jax.jit(jax.vmap(lambda x, k: gradient(x, k, True)))(x, kernel)
    alone = jax.jit(lambda x, k: gradient(x, k, False))
    for i in range(3):
        for got, want in zip(together, alone(x[i], kernel[i]), strict=True):
            np.testing.assert_allclose(got[i], want, rtol=1e-5, atol=1e-5)


def test_a_trained_activation_in_front_takes_no_more_memory():
    """With JAX's own rule XLA for CPU stored nine products for its two loops."""
    x, kernel = jnp.ones((8, 16, 16, 32)), jnp.ones((3, 3, 1, 32))

    def temporary(activation):
        def loss(x, kernel, params):
            y = depthwise(activation(x, params), kernel, 1).reshape(-1, 32)
            return jnp.sum(jnp.tanh(y @ jnp.ones((32, 32))))

        gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
        compiled = gradient.lower(x, kernel, APALUParams()).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(apalu) < temporary(lambda x, _: jax.nn.relu(x)) + x.nbytes


def test_forms_of_the_convolutions_agree():
    lax, patches = (
        build(width=0.125, blocks=3, conv_impl=form) for form in ("lax", "patches")
    )
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    variables = jax.jit(lax.init)(jax.random.key(0), x)
    want, got = (jax.jit(network.apply)(variables, x) for network in (lax, patches))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    over_models = jax.jit(jax.vmap(patches.apply, (0, None)))
    stacked = jax.tree.map(lambda leaf: leaf[None], variables)
    text = over_models.trace(stacked, x).lower(lowering_platforms=("cuda",)).as_text()
    assert "stablehlo.convolution" not in text


def test_size_and_sites_are_those_of_the_paper():
    params = spec(build())["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 3_217_226
    params = spec(build("apalu"))["params"]
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), params)
    assert len(introspection.collect(zeros)) == 27


def test_width_multiplies_the_channels():
    params = spec(build(width=0.25), side=16)["params"]
    assert params["Conv_0"]["kernel"].shape == (3, 3, 3, 8)
    assert params["Depthwise_12"]["kernel"].shape == (3, 3, 1, 256)
    assert params["Dense_0"]["kernel"].shape == (256, 10)


def test_later_blocks_can_be_left_out():
    params = spec(build(blocks=4))["params"]
    assert params["Depthwise_3"]["kernel"].shape == (3, 3, 1, 128)
    assert "Depthwise_4" not in params
    assert params["Dense_0"]["kernel"].shape == (256, 10)


@pytest.mark.parametrize("blocks", [0, 14])
def test_no_more_blocks_than_there_are(blocks):
    with pytest.raises(ExperimentError, match=f"`blocks`.* {blocks}"):
        spec(build(blocks=blocks))


def test_kernels_have_the_declared_variance():
    network = build("silu", init="gain")
    layers = {"Conv_12": 512, "Depthwise_12": 9}

    @jax.jit
    def draw(key):
        # Of two kernels: XLA drops the rest of the network.
        params = network.init(key, jnp.zeros((1, 16, 16, 3)))["params"]
        return {layer: params[layer]["kernel"] for layer in layers}

    kernels, gain = draw(jax.random.key(0)), ARMS["silu"].gain
    for layer, fan_in in layers.items():
        spread = float(kernels[layer].std())
        assert spread == pytest.approx(gain / np.sqrt(fan_in), rel=0.02)


def test_statistics_are_updated_in_training_and_used_in_evaluation():
    network = build(width=0.125, blocks=2)
    x = 3 + 2 * jax.random.normal(jax.random.key(1), (4, 10, 10, 3))
    variables = jax.jit(network.init)(jax.random.key(0), x)
    train = jax.jit(partial(network.apply, train=True, mutable="batch_stats"))
    _, after = train(variables, x)
    stem = lax.conv_general_dilated(
        x,
        variables["params"]["Conv_0"]["kernel"],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    mean = after["batch_stats"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(
        mean, 0.1 * stem.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-4
    )
    evaluate = jax.jit(network.apply)
    outputs = evaluate(variables, x)
    assert outputs.shape == (4, 10)
    assert not np.allclose(outputs, evaluate({**variables, **after}, x))

    half = build(width=0.125, blocks=2, dtype="bfloat16")
    close = jax.jit(half.apply)(variables, x)
    assert close.dtype == jnp.float32
    assert 0 < np.abs(close - outputs).max() < 0.05 * np.abs(outputs).max()


def test_half_precision_keeps_float32_state():
    half = build("apalu", dtype="bfloat16")
    x = jax.ShapeDtypeStruct((4, 32, 32, 3), jnp.float32)
    variables = spec(half)
    train = partial(half.apply, train=True, mutable="batch_stats")
    state = variables, jax.eval_shape(train, variables, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("side", [32, 33])
def test_the_last_map_of_a_small_image(early, side):
    """An early halving leaves the parameters as they are, and the last map too."""
    plain, network = build(), build(early_halving=early)
    x = jnp.zeros((1, side, side, 3))
    _, state = jax.eval_shape(
        lambda: network.init_with_output(
            jax.random.key(0), x, capture_intermediates=True, mutable=True
        )
    )
    maps = state["intermediates"]
    assert maps["Depthwise_12"]["__call__"][0].shape[1:3] == ((side + 15) // 16,) * 2
    first = maps["Conv_0"]["__call__"][0].shape[1:3]
    assert first == ((side + 1) // 2 if early else side,) * 2
    assert jax.tree.map(jnp.shape, state["params"]) == jax.tree.map(
        jnp.shape, spec(plain)["params"]
    )
