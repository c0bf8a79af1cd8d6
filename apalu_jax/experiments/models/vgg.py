"""The convolutions of VGG16, seen after every one of them."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

from flax import linen as nn
from jax import Array

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.arms import ActivationFactory
from apalu_jax.experiments.models.layers import Conv, ConvImpl, max_pool_2x2

__all__ = ("BLOCKS", "COMPARED", "TAPS", "VGG", "Classifier", "Normalize", "scaled")

BLOCKS = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)
"""Channels of the convolutions, by block; a block ends with a pool."""

TAPS = (
    *("relu1_1", "pool1", "relu2_1", "pool2"),
    *("relu3_1", "relu3_2", "pool3"),
    *("relu4_1", "relu4_2", "pool4"),
    *("relu5_1", "relu5_2", "pool5"),
)
"""Names of the maps that :class:`VGG` with :data:`BLOCKS` returns, whatever the
activation is."""

COMPARED = (3, 6, 9, 12)
"""Indices into these of the maps behind the last four pools, by which two networks are
compared."""

Normalize: TypeAlias = Literal["none", "all", "inner"]


class VGG(nn.Module):
    """Blocks of 3x3 convolutions, an activation after each, and a pool after a block.

    The layers are named by block and place: "conv3_1", "norm3_1".

    Attributes:
      activation: Factory of the activations.
      blocks: Channels of the convolutions, by block.
      tapped: Factory of the activations behind the maps of :data:`COMPARED`; None for
        ``activation``.
      normalize: Which convolutions are followed by batch normalization, whose
        statistics are the collection ``batch_stats``: "none", "all", or "inner" for all
        but the last of a block.
      use_bias: Whether convolutions have a bias, at first zero.
      kernel_init: Initializer of the kernels.
      conv_impl: ConvImpl of the convolutions, see
        :func:`~apalu_jax.experiments.models.layers.convolve`.

    References:
      K. Simonyan, A. Zisserman, `Very Deep Convolutional Networks for Large-Scale Image
      Recognition <https://arxiv.org/abs/1409.1556>`_, 2014: configuration D.
    """

    activation: ActivationFactory
    blocks: Sequence[Sequence[int]] = BLOCKS
    tapped: ActivationFactory | None = None
    normalize: Normalize = "none"
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
    conv_impl: ConvImpl = "lax"

    @nn.compact
    def __call__(self, inputs: Array, *, train: bool = False) -> list[Array]:
        """Maps images [n, height, width, channels] to one map for every convolution.

        A map is that after the activation or, at the end of a block, after the pool,
        which halves height and width and drops a last odd row or column.
        """
        if self.normalize not in ("none", "all", "inner"):
            raise ExperimentError(
                f"`normalize` must be none, all or inner, got {self.normalize!r}."
            )
        x, maps = inputs, list[Array]()
        for i, block in enumerate(self.blocks, 1):
            for j, features in enumerate(block, 1):
                last = j == len(block)
                x = self._convolve(x, features, f"{i}_{j}", last, train)
                if self.tapped is not None and len(maps) in COMPARED:
                    x = self.tapped()(x)
                else:
                    x = self.activation()(x)
                if last:
                    x = max_pool_2x2(x)
                maps.append(x)
        return maps

    def _convolve(
        self, x: Array, features: int, place: str, last: bool, train: bool
    ) -> Array:
        x = Conv(
            features,
            3,
            self.kernel_init,
            use_bias=self.use_bias,
            impl=self.conv_impl,
            name=f"conv{place}",
        )(x)
        if self.normalize == "all" or (self.normalize == "inner" and not last):
            x = nn.BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                epsilon=1e-5,
                name=f"norm{place}",
            )(x)
        return x


class Classifier(nn.Module):
    """A dense layer on the averages of the last map.

    Attributes:
      features: From images to maps; its variables are under "features".
      outputs: Size of the output.
    """

    features: nn.Module
    outputs: int

    @nn.compact
    def __call__(self, inputs: Array, *, train: bool = False) -> Array:
        """Maps images [n, height, width, channels] to outputs [n, outputs]."""
        x = self.features(inputs, train=train)[-1]
        return nn.Dense(self.outputs)(x.mean(axis=(1, 2)))


def scaled(width: float) -> tuple[tuple[int, ...], ...]:
    """:data:`BLOCKS` with a multiple of the channels.

    Args:
      width: The factor, positive.

    Returns:
      Channels by block, at least one each.

    Examples:
      >>> scaled(0.25)[:3]
      ((16, 16), (32, 32), (64, 64, 64))
    """
    return tuple(tuple(max(1, round(width * n)) for n in block) for block in BLOCKS)
