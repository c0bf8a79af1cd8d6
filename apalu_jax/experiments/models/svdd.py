"""The networks of Deep SVDD for MNIST: an encoder, and the autoencoder around it."""

from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from apalu_jax.experiments.arms import ActivationFactory
from apalu_jax.experiments.models.layers import (
    Conv,
    ConvImpl,
    max_pool_2x2,
    scaled_normal,
)

_Norm = partial(
    nn.BatchNorm, momentum=0.9, epsilon=1e-4, use_scale=False, use_bias=False
)


class Encoder(nn.Module):
    """Two convolutions with activations and a linear map, none with a bias.

    A bias, or a scale and shift behind the normalization, would let the network map
    every input to one point.

    References:
      L. Ruff et al., "Deep One-Class Classification", ICML 2018, section 3.3 on biases;
      the layers are those of the authors' code for MNIST.
    """

    activation: ActivationFactory
    gain: float
    conv_impl: ConvImpl = "lax"

    @nn.compact
    def __call__(self, inputs: Array, *, train: bool = False) -> Array:
        """Maps images [n, 28, 28, 1] to [n, 32]."""
        init = scaled_normal(self.gain)
        x = inputs
        for features in (8, 4):
            x = Conv(features, 5, init, impl=self.conv_impl)(x)
            x = _Norm(use_running_average=not train)(x)
            x = max_pool_2x2(self.activation()(x))
        x = x.reshape(len(x), -1)
        return nn.Dense(32, use_bias=False, kernel_init=scaled_normal(1.0))(x)


class Autoencoder(nn.Module):
    """The encoder and a decoder, with five activations; fields as :class:`Encoder`."""

    activation: ActivationFactory
    gain: float
    conv_impl: ConvImpl = "lax"

    @nn.compact
    def __call__(self, inputs: Array, *, train: bool = False) -> Array:
        """Maps images [n, 28, 28, 1] to images of that shape in (0, 1)."""
        encoder = Encoder(self.activation, self.gain, self.conv_impl, name="encoder")
        x = encoder(inputs, train=train).reshape(len(inputs), 4, 4, -1)
        x = _double(self.activation()(x))
        # The authors' transposed convolution with a padding of 3 gives 14 x 14 from
        # 16 x 16: the outermost row on every side is cut.
        for features, cut in ((4, 0), (8, 1)):
            x = Conv(features, 5, scaled_normal(self.gain), impl=self.conv_impl)(x)
            x = x[:, cut : x.shape[1] - cut, cut : x.shape[2] - cut]
            x = _Norm(use_running_average=not train)(x)
            x = _double(self.activation()(x))
        return nn.sigmoid(Conv(1, 5, scaled_normal(1.0), impl=self.conv_impl)(x))


def _double(x: Array) -> Array:
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
