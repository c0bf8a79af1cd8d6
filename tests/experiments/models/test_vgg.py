"""VGG16 as a stack of maps."""

import jax
import numpy as np
import pytest

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.models.vgg import (
    BLOCKS,
    COMPARED,
    VGG,
    Classifier,
    scaled,
)

from ..helpers import (
    map_shapes,
    normal_images,
    plain_conv,
    plain_pool,
    random_params,
    relu,
)

# Names of the maps, whatever the activation is.
TAPS = (
    *("relu1_1", "pool1", "relu2_1", "pool2", "relu3_1", "relu3_2", "pool3"),
    *("relu4_1", "relu4_2", "pool4", "relu5_1", "relu5_2", "pool5"),
)
SMALL = ((3,), (4, 5))


def test_maps_of_vgg16():
    found = dict(zip(TAPS, map_shapes(VGG(relu), 64), strict=True))
    assert found["relu1_1"] == (64, 64, 64) and found["pool1"] == (32, 32, 64)
    assert found["relu2_1"] == (32, 32, 128) and found["pool2"] == (16, 16, 128)
    assert found["relu3_2"] == (16, 16, 256) and found["pool3"] == (8, 8, 256)
    assert found["relu4_1"] == (8, 8, 512) and found["pool4"] == (4, 4, 512)
    assert found["relu5_2"] == (4, 4, 512) and found["pool5"] == (2, 2, 512)
    assert [TAPS[i] for i in COMPARED] == ["pool2", "pool3", "pool4", "pool5"]


def test_a_last_odd_row_is_dropped():
    assert [each[0] for each in map_shapes(VGG(relu, SMALL), 11)] == [5, 5, 2]


def test_widths():
    assert scaled(1) == BLOCKS
    assert scaled(1 / 16) == ((4, 4), (8, 8), (16,) * 3, (32,) * 3, (32,) * 3)
    assert scaled(1e-6) == tuple((1,) * len(block) for block in BLOCKS)


def test_vgg_is_what_its_layers_say():
    x, network = normal_images(9), VGG(relu, SMALL)
    params = random_params(network, x)
    assert set(params) == {"conv1_1", "conv2_1", "conv2_2"}

    @jax.jit
    def by_form(params):
        one = plain_pool(jax.nn.relu(plain_conv(x, params["conv1_1"])), 2)
        two = jax.nn.relu(plain_conv(one, params["conv2_1"]))
        three = plain_pool(jax.nn.relu(plain_conv(two, params["conv2_2"])), 2)
        forms = [VGG(relu, SMALL, conv_impl=form) for form in ("lax", "patches")]
        return (one, two, three), [each.apply({"params": params}, x) for each in forms]

    want, forms = by_form(params)
    for maps in forms:
        for found, expected in zip(maps, want, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("normalize", "norms"),
    [
        ("none", set()),
        ("inner", {"norm2_1"}),
        ("all", {"norm1_1", "norm2_1", "norm2_2"}),
    ],
)
def test_normalized_convolutions(normalize, norms):
    network = VGG(relu, SMALL, normalize=normalize, use_bias=False)
    variables = jax.eval_shape(network.init, jax.random.key(0), normal_images(8))
    layers = variables["params"]
    assert {name for name in layers if name.startswith("norm")} == norms
    assert set(variables.get("batch_stats", {})) == norms
    assert all(set(layers[name]) == {"kernel"} for name in layers if "conv" in name)


def test_unknown_normalization_is_refused():
    network = VGG(relu, SMALL, normalize="some")
    with pytest.raises(ExperimentError, match="`normalize`.*some"):
        map_shapes(network, 8)


def test_tapped_maps_have_their_own_activation():
    # Minus one in front of the other activations makes them visible.
    network = VGG(lambda: lambda x: x * 0 - 1, scaled(1 / 64), tapped=relu)
    x = normal_images(32)
    maps = jax.jit(network.apply)({"params": random_params(network, x)}, x)
    for i, each in enumerate(maps):
        assert float(each.min()) >= 0 if i in COMPARED else float(each.max()) == -1


def test_classifier_averages_the_last_map():
    x, features = normal_images(8), VGG(relu, SMALL)
    network = Classifier(features, 10)
    params = random_params(network, x)
    last = np.asarray(jax.jit(features.apply)({"params": params["features"]}, x)[-1])
    dense = jax.tree.map(np.asarray, params["Dense_0"])
    expected = last.mean(axis=(1, 2)) @ dense["kernel"] + dense["bias"]
    found = jax.jit(network.apply)({"params": params}, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
