"""AlexNet as a stack of maps."""

import jax
import numpy as np

from apalu_jax.experiments.backbones.alexnet import AlexNet

from ..helpers import (
    map_shapes,
    normal_images,
    plain_conv,
    plain_pool,
    random_params,
    relu,
)


def test_maps_of_alexnet():
    assert map_shapes(AlexNet(relu), 224) == [
        *((27, 27, 64), (13, 13, 192), (13, 13, 384), (13, 13, 256), (6, 6, 256)),
    ]
    assert map_shapes(AlexNet(relu), 63)[-1] == (1, 1, 256)


def test_alexnet_is_what_its_layers_say():
    x, network = normal_images(67), AlexNet(relu, (3, 4, 5, 6, 7))
    params = random_params(network, x)

    @jax.jit
    def plain(params, y):
        maps = []
        for i, (stride, padding) in enumerate([(4, 2), (1, 2), (1, 1), (1, 1), (1, 1)]):
            y = jax.nn.relu(plain_conv(y, params[f"conv{i + 1}"], stride, padding))
            y = plain_pool(y, 3) if i in (0, 1, 4) else y
            maps.append(y)
        return maps

    maps = jax.jit(network.apply)({"params": params}, x)
    for found, expected in zip(maps, plain(params, x), strict=True):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found / scale, expected / scale, atol=1e-5)
