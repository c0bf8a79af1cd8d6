"""A residual network of seven layers that learns CIFAR-10 in minutes."""

from flax import linen as nn
from jax import Array

from apalu_jax.experiments.models.layers import ConvNet, max_pool_2x2

# Channels of the groups; every group but the first begins by halving the map.
_GROUPS = (16, 64, 64)


class ResNet9(ConvNet):
    """Three groups of two convolutions, with six activations, and a dense layer.

    The image becomes one of half the size first, whose channels hold squares of 2 x 2
    pixels. A group is a convolution, a maximum over squares in all groups but the
    first, and a second convolution that is added to its input. At width 1 there are 125
    thousand parameters, on images of 32 pixels maps of 16, 8 and 4.

    It has the shape of K. Jordan's `airbench
    <https://github.com/KellerJordan/cifar10-airbench>`_, after D. Page's ResNet-9, with
    the space-to-depth stem instead of the whitening convolution.
    """

    @nn.compact
    def __call__(self, inputs: Array, *, train: bool = False) -> Array:
        """Maps images [n, height, width, channels] to float32 outputs [n, outputs]."""
        x = space_to_depth(inputs)
        for i, features in enumerate(_GROUPS):
            x = self._convolve(x, features, 3)
            x = self._activate(max_pool_2x2(x) if i else x, train)
            x += self._conv(x, features, 3, train)
        return self._classify(x)


def space_to_depth(images: Array) -> Array:
    """Moves squares of 2 x 2 pixels into channels; a last odd row or column is dropped.

    Examples:
      >>> import jax.numpy as jnp
      >>> space_to_depth(jnp.arange(16).reshape(1, 4, 4, 1))[0, 0].tolist()
      [[0, 1, 4, 5], [2, 3, 6, 7]]
    """
    n, height, width, channels = images.shape
    height, width = height // 2, width // 2
    squares = images[:, : 2 * height, : 2 * width]
    squares = squares.reshape(n, height, 2, width, 2, channels)
    return squares.transpose(0, 1, 3, 2, 4, 5).reshape(n, height, width, 4 * channels)
