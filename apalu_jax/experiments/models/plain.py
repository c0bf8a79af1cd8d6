"""Plain stacks: dense layers, and convolutions for small images."""

from flax import linen as nn
from jax import Array

from apalu_jax.experiments.models.layers import (
    Conv,
    ConvImpl,
    Network,
    batch_norm,
    scaled_normal,
)


class MLP(Network):
    """Dense layers with an activation after each but the last; no normalization."""

    features: tuple[int, ...]

    @nn.compact
    def __call__(self, inputs: Array, *, train: bool = False) -> Array:
        """Maps inputs [n, ...] to outputs [n, outputs]; the same in training."""
        x = inputs.reshape(len(inputs), -1)
        hidden_init = scaled_normal(self.gain)
        for features in self.features:
            x = self.activation()(nn.Dense(features, kernel_init=hidden_init)(x))
        return nn.Dense(self.outputs)(x)


class CNN(Network):
    """3x3 convolutions with an activation after each, and a dense layer.

    With ``normalize``, each is followed by batch normalization, whose statistics are
    the collection ``batch_stats``; else it has a bias.
    """

    features: tuple[int, ...] = (16, 32, 64, 64, 128)
    strides: tuple[int, ...] = (1, 2, 2, 1, 2)
    normalize: bool = True
    conv_impl: ConvImpl = "lax"

    @nn.compact
    def __call__(self, inputs: Array, *, train: bool = False) -> Array:
        """Maps images [n, height, width, channels] to outputs [n, outputs]."""
        init = scaled_normal(self.gain)
        x = inputs
        for features, stride in zip(self.features, self.strides, strict=True):
            x = Conv(features, 3, init, stride, not self.normalize, self.conv_impl)(x)
            if self.normalize:
                x = batch_norm(x, train)
            x = self.activation()(x)
        return nn.Dense(self.outputs)(x.mean(axis=(1, 2)))
