"""VGG16 and AlexNet as stacks of maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.backbones.alexnet import AlexNet
from apalu_jax.experiments.models.vgg import (
    BLOCKS,
    COMPARED,
    VGG,
    Classifier,
    scaled,
)

SMALL = ((3,), (4, 5))
# Names of the maps, whatever the activation is.
TAPS = (
    *("relu1_1", "pool1", "relu2_1", "pool2", "relu3_1", "relu3_2", "pool3"),
    *("relu4_1", "relu4_2", "pool4", "relu5_1", "relu5_2", "pool5"),
)


def relu():
    return jax.nn.relu


def images(size, n=2):
    return jnp.asarray(np.random.default_rng(0).normal(size=(n, size, size, 3)), "f4")


def random_params(network, x):
    """No zeros and ones, so that no weight can be left out unseen."""
    rng = np.random.default_rng(1)
    tree = jax.eval_shape(network.init, jax.random.key(0), x)["params"]
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), "f4"), tree)


def shapes(network, size):
    def maps(x):
        return network.init_with_output(jax.random.key(0), x)[0]

    return [each.shape[1:] for each in jax.eval_shape(maps, images(size))]


def test_maps_of_vgg16():
    found = dict(zip(TAPS, shapes(VGG(relu), 64), strict=True))
    assert found["relu1_1"] == (64, 64, 64) and found["pool1"] == (32, 32, 64)
    assert found["relu2_1"] == (32, 32, 128) and found["pool2"] == (16, 16, 128)
    assert found["relu3_2"] == (16, 16, 256) and found["pool3"] == (8, 8, 256)
    assert found["relu4_1"] == (8, 8, 512) and found["pool4"] == (4, 4, 512)
    assert found["relu5_2"] == (4, 4, 512) and found["pool5"] == (2, 2, 512)
    assert [TAPS[i] for i in COMPARED] == ["pool2", "pool3", "pool4", "pool5"]


def test_a_last_odd_row_is_dropped():
    assert [each[0] for each in shapes(VGG(relu, SMALL), 11)] == [5, 5, 2]


def test_widths():
    assert scaled(1) == BLOCKS
    assert scaled(1 / 16) == ((4, 4), (8, 8), (16,) * 3, (32,) * 3, (32,) * 3)
    assert scaled(1e-6) == tuple((1,) * len(block) for block in BLOCKS)


def plain_conv(x, layer, stride=1, padding=1):
    y = lax.conv_general_dilated(
        x,
        layer["kernel"],
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y + layer["bias"][None, None, None]


def plain_pool(x, size):
    return lax.reduce_window(
        x, -jnp.inf, lax.max, (1, size, size, 1), (1, 2, 2, 1), "VALID"
    )


def test_vgg_is_what_its_layers_say():
    x, network = images(9), VGG(relu, SMALL)
    params = random_params(network, x)
    assert set(params) == {"conv1_1", "conv2_1", "conv2_2"}
    one = plain_pool(jax.nn.relu(plain_conv(x, params["conv1_1"])), 2)
    two = jax.nn.relu(plain_conv(one, params["conv2_1"]))
    three = plain_pool(jax.nn.relu(plain_conv(two, params["conv2_2"])), 2)
    for form in ("lax", "patches"):
        maps = VGG(relu, SMALL, conv_impl=form).apply({"params": params}, x)
        for found, expected in zip(maps, (one, two, three), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("normalize", "norms"),
    [
        ("none", set()),
        ("inner", {"norm2_1"}),
        ("all", {"norm1_1", "norm2_1", "norm2_2"}),
    ],
)
def test_normalised_convolutions(normalize, norms):
    network = VGG(relu, SMALL, normalize=normalize, use_bias=False)
    variables = jax.eval_shape(network.init, jax.random.key(0), images(8))
    layers = variables["params"]
    assert {name for name in layers if name.startswith("norm")} == norms
    assert set(variables.get("batch_stats", {})) == norms
    assert all(set(layers[name]) == {"kernel"} for name in layers if "conv" in name)


def test_unknown_normalisation_is_refused():
    network = VGG(relu, SMALL, normalize="some")
    with pytest.raises(ExperimentError, match="`normalize` must be none, all or inner"):
        network.init(jax.random.key(0), images(8))


def test_tapped_maps_have_their_own_activation():
    # Minus one in front of the other activations makes them visible.
    network = VGG(lambda: lambda x: x * 0 - 1, scaled(1 / 64), tapped=relu)
    x = images(32)
    maps = network.apply({"params": random_params(network, x)}, x)
    for i, each in enumerate(maps):
        assert float(each.min()) >= 0 if i in COMPARED else float(each.max()) == -1


def test_classifier_averages_the_last_map():
    x, features = images(8), VGG(relu, SMALL)
    network = Classifier(features, 10)
    params = random_params(network, x)
    last = features.apply({"params": params["features"]}, x)[-1]
    dense = params["Dense_0"]
    expected = last.mean(axis=(1, 2)) @ dense["kernel"] + dense["bias"][None]
    found = network.apply({"params": params}, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_maps_of_alexnet():
    assert shapes(AlexNet(relu), 224) == [
        *((27, 27, 64), (13, 13, 192), (13, 13, 384), (13, 13, 256), (6, 6, 256)),
    ]
    assert shapes(AlexNet(relu), 63)[-1] == (1, 1, 256)


def test_alexnet_is_what_its_layers_say():
    x, network = images(67), AlexNet(relu, (3, 4, 5, 6, 7))
    params = random_params(network, x)
    maps = network.apply({"params": params}, x)
    y = x
    for i, (stride, padding) in enumerate([(4, 2), (1, 2), (1, 1), (1, 1), (1, 1)]):
        y = jax.nn.relu(plain_conv(y, params[f"conv{i + 1}"], stride, padding))
        y = plain_pool(y, 3) if i in (0, 1, 4) else y
        scale = float(jnp.abs(y).max())
        np.testing.assert_allclose(maps[i] / scale, y / scale, atol=1e-5)
