"""The convolutions of AlexNet, in the narrower form that torchvision has."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from apalu_jax.experiments.arms import ActivationFactory

CHANNELS = (64, 192, 384, 256, 256)
"""Channels of the convolutions."""

_SIZES, _STRIDES, _PADDINGS = (11, 5, 3, 3, 3), (4, 1, 1, 1, 1), (2, 2, 1, 1, 1)
_POOLED = (0, 1, 4)


class AlexNet(nn.Module):
    """Five convolutions "conv1" to "conv5", activations, and three pools.

    References:
      A. Krizhevsky, `One weird trick for parallelizing convolutional neural networks
      <https://arxiv.org/abs/1404.5997>`_, 2014.
    """

    activation: ActivationFactory
    channels: Sequence[int] = CHANNELS
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()

    @nn.compact
    def __call__(self, inputs: Array, *, train: bool = False) -> list[Array]:
        """Maps images [n, height, width, channels] to one map for every convolution.

        A map is that after the activation or, behind the first, second and fifth, after
        the pool. The last has height and width 1 from 63 pixels on.
        """
        x, maps = inputs, list[Array]()
        for i, features in enumerate(self.channels):
            x = nn.Conv(
                features,
                (_SIZES[i],) * 2,
                _STRIDES[i],
                padding=_PADDINGS[i],
                kernel_init=self.kernel_init,
                name=f"conv{i + 1}",
            )(x)
            x = self.activation()(x)
            if i in _POOLED:
                # Windows of 3 x 3, every second one, without padding.
                window, strides = (1, 3, 3, 1), (1, 2, 2, 1)
                x = lax.reduce_window(x, -jnp.inf, lax.max, window, strides, "VALID")
            maps.append(x)
        return maps
