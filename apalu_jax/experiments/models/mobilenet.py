"""MobileNet for images of the size of CIFAR's."""

from flax import linen as nn
from jax import Array

from apalu_jax.experiments.models.depthwise import Depthwise
from apalu_jax.experiments.models.layers import (
    ConvNet,
    first_blocks,
    scaled_normal,
)

_STEM = 32

# Channels and stride of a block.
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

_HALVING = 1  # the first block that halves the image


class MobileNet(ConvNet):
    """A convolution and 13 depthwise-separable blocks, with 27 activations.

    With ``conv_impl="patches"`` the depthwise convolutions are sums of shifted products
    on every platform. The stem keeps the size of the image, as in
    https://github.com/kuangliu/pytorch-cifar; the paper's, for ImageNet, halves it.
    With ``early_halving`` the stem halves it, and the second block, which does so
    otherwise, does not: the last map of an image of 32 pixels is 2 x 2 either way.

    References:
      A. G. Howard et al., `MobileNets: Efficient Convolutional Neural Networks for
      Mobile Vision Applications <https://arxiv.org/abs/1704.04861>`_, 2017.
    """

    blocks: int = len(_BLOCKS)
    early_halving: bool = False

    @nn.compact
    def __call__(self, inputs: Array, *, train: bool = False) -> Array:
        """Maps images [n, height, width, channels] to float32 outputs [n, outputs]."""
        init, everywhere = scaled_normal(self.gain), self.conv_impl == "patches"
        x = self._conv(inputs, _STEM, 3, train, 1 + self.early_halving)
        for i, (features, stride) in enumerate(first_blocks(_BLOCKS, self.blocks)):
            if self.early_halving and i == _HALVING:
                stride = 1
            x = Depthwise(stride, init, everywhere, self.dtype)(x)
            x = self._conv(self._activate(x, train), features, 1, train)
        return self._classify(x)
