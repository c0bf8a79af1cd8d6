"""GoogLeNet for images of the size of CIFAR's."""

import functools
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from apalu_jax.experiments.arms import ActivationFactory
from apalu_jax.experiments.models.layers import (
    Conv,
    ConvImpl,
    first_blocks,
    scaled_normal,
)

__all__ = ("GoogLeNet", "max_pool")

_STEM = 192

# Channels of the branches of each inception block: the 1x1 convolution; the 1x1 and the
# 3x3; the 1x1 and the two 3x3; the one behind the pooling.
_BLOCKS = (
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
)
_HALVED = (2, 7)  # in front of these blocks


class GoogLeNet(nn.Module):
    """A convolution and nine inception blocks, with 64 activations.

    The 5x5 convolutions are two of 3x3. Every convolution is without bias, since batch
    normalization follows it, and an activation after that. The statistics of the
    normalization are the collection ``batch_stats``, which a call with ``train=True``
    updates. The average is taken over all places that are left, so that images may have
    any size.

    Attributes:
      outputs: Size of the output.
      activation: Factory of the activations.
      gain: Kernels in front of them have standard deviation ``gain / sqrt(fan_in)``,
        the last one ``1 / sqrt(fan_in)``.
      width: Multiplies the channels of every layer.
      conv_impl: ConvImpl of the convolutions, see
        :func:`~apalu_jax.experiments.models.layers.convolve`.
      dtype: Of the computation; parameters and statistics are float32.
      blocks: How many of the blocks there are, see
        :func:`~apalu_jax.experiments.models.layers.first_blocks`.

    References:
      C. Szegedy et al., `Going Deeper with Convolutions
      <https://arxiv.org/abs/1409.4842>`_, 2014.
    """

    outputs: int
    activation: ActivationFactory
    gain: float
    width: float = 1.0
    conv_impl: ConvImpl = "lax"
    dtype: Any = jnp.float32
    blocks: int = len(_BLOCKS)

    @nn.compact
    def __call__(self, inputs: Array, *, train: bool = False) -> Array:
        """Maps images [n, height, width, channels] to float32 outputs [n, outputs]."""
        init = scaled_normal(self.gain)

        def layer(x: Array, features: int, size: int) -> Array:
            x = Conv(
                max(1, round(self.width * features)),
                size,
                init,
                impl=self.conv_impl,
                dtype=self.dtype,
            )(x)
            x = nn.BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                epsilon=1e-5,
                dtype=self.dtype,
            )(x)
            return self.activation()(x)

        def inception(x: Array, features: tuple[int, ...]) -> Array:
            one, reduce3, three, reduce5, five, pooled = features
            branches = (
                layer(x, one, 1),
                layer(layer(x, reduce3, 1), three, 3),
                layer(layer(layer(x, reduce5, 1), five, 3), five, 3),
                layer(max_pool(x, stride=1), pooled, 1),
            )
            return jnp.concatenate(branches, axis=-1)

        x = layer(inputs, _STEM, 3)
        for i, features in enumerate(first_blocks(_BLOCKS, self.blocks)):
            x = max_pool(x, stride=2) if i in _HALVED else x
            x = inception(x, features)
        x = x.mean(axis=(1, 2))
        return nn.Dense(self.outputs, dtype=self.dtype)(x).astype(jnp.float32)


def max_pool(x: Array, stride: int) -> Array:
    """The largest value in windows of 3x3, padded so that a stride of 1 keeps sizes.

    A chain of maxima of shifted images, along one axis and then the other, since the
    gradient of XLA's pooling takes many times as long on CPU. Values that are equally
    large share the gradient.

    Args:
      x: Images [n, height, width, channels], of a float type.
      stride: Step between the windows, in both directions.

    Returns:
      Images [n, ceil(height / stride), ceil(width / stride), channels].
    """
    for axis in (1, 2):
        padding = [(0, 0)] * 4
        padding[axis] = (1, 1)
        padded = jnp.pad(x, padding, constant_values=-jnp.inf)
        x = functools.reduce(
            jnp.maximum,
            (
                lax.slice_in_dim(padded, start, start + x.shape[axis], stride, axis)
                for start in range(3)
            ),
        )
    return x
