"""MobileNet for images of the size of CIFAR's."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from apalu_jax.experiments.arms import ActivationFactory
from apalu_jax.experiments.models.layers import (
    Conv,
    ConvImpl,
    Depthwise,
    first_blocks,
    scaled_normal,
)

__all__ = ("MobileNet",)

_STEM = 32

# Channels that a block gives, and its stride.
_BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)


class MobileNet(nn.Module):
    """A convolution and 13 depthwise-separable blocks, with 27 activations.

    Every convolution is followed by batch normalization and an activation. The
    statistics of the normalization are the collection ``batch_stats``, which a call
    with ``train=True`` updates.

    Attributes:
      outputs: Size of the output.
      activation: Factory of the activations.
      gain: Kernels in front of them have standard deviation ``gain / sqrt(fan_in)``,
        the last one ``1 / sqrt(fan_in)``.
      width: Multiplies the channels of every layer.
      conv_impl: ConvImpl of the convolutions, see
        :func:`~apalu_jax.experiments.models.layers.convolve`; with "patches" the
        depthwise ones are sums of shifted products on every platform.
      dtype: Of the computation; parameters and statistics are float32.
      blocks: How many of the blocks there are, see
        :func:`~apalu_jax.experiments.models.layers.first_blocks`.

    References:
      A. G. Howard et al., `MobileNets: Efficient Convolutional Neural Networks for
      Mobile Vision Applications <https://arxiv.org/abs/1704.04861>`_, 2017.
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

        def convolve(x: Array, features: int, size: int) -> Array:
            return Conv(
                max(1, round(self.width * features)),
                size,
                init,
                impl=self.conv_impl,
                dtype=self.dtype,
            )(x)

        def activate(x: Array) -> Array:
            x = nn.BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                epsilon=1e-5,
                dtype=self.dtype,
            )(x)
            return self.activation()(x)

        x = activate(convolve(inputs, _STEM, 3))
        for features, stride in first_blocks(_BLOCKS, self.blocks):
            x = activate(
                Depthwise(stride, init, self.conv_impl == "patches", self.dtype)(x)
            )
            x = activate(convolve(x, features, 1))
        x = x.mean(axis=(1, 2))
        return nn.Dense(self.outputs, dtype=self.dtype)(x).astype(jnp.float32)
