"""A plain stack of convolutions for small images."""

from flax import linen as nn
from jax import Array

from apalu_jax.experiments.arms import ActivationFactory
from apalu_jax.experiments.models.layers import Conv, ConvImpl, scaled_normal

__all__ = ("CNN",)


class CNN(nn.Module):
    """3x3 convolutions with an activation after each, and a dense layer.

    Attributes:
      outputs: Size of the output.
      activation: Factory of the activations.
      gain: Kernels in front of them have standard deviation ``gain / sqrt(fan_in)``,
        the last one ``1 / sqrt(fan_in)``.
      features: Channels of each convolution.
      strides: Stride of each.
      normalize: Whether each is followed by batch normalization, whose statistics are
        the collection ``batch_stats``; else it has a bias.
      conv_impl: ConvImpl of the convolutions, see
        :func:`~apalu_jax.experiments.models.layers.convolve`.
    """

    outputs: int
    activation: ActivationFactory
    gain: float
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
                x = nn.BatchNorm(
                    use_running_average=not train, momentum=0.9, epsilon=1e-5
                )(x)
            x = self.activation()(x)
        return nn.Dense(self.outputs)(x.mean(axis=(1, 2)))
