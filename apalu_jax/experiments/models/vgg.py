"""The convolutions of VGG16, seen after every one of them, and a narrow student."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import jax
from flax import linen as nn
from jax import Array

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.arms import ActivationFactory
from apalu_jax.experiments.models.layers import Conv, ConvImpl, batch_norm, max_pool_2x2

BLOCKS = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)
"""Channels of the convolutions, by block; a block ends with a pool."""

COMPARED = (3, 6, 9, 12)
"""Indices of the maps behind the last four pools, by which networks are compared."""

Channels: TypeAlias = tuple[tuple[int, ...], ...]


class VGG(nn.Module):
    """Blocks of 3x3 convolutions, an activation after each, and a pool after a block.

    The layers are named by block and position: "conv3_1", "norm3_1". ``tapped`` makes
    the activations of the maps of :data:`COMPARED`, by default ``activation``.
    ``normalize`` says which convolutions are followed by batch normalization, whose
    statistics are the collection ``batch_stats``: "inner" are all but the last of a
    block.

    References:
      K. Simonyan, A. Zisserman, `Very Deep Convolutional Networks for Large-Scale Image
      Recognition <https://arxiv.org/abs/1409.1556>`_, 2014: configuration D.
    """

    activation: ActivationFactory
    blocks: Sequence[Sequence[int]] = BLOCKS
    tapped: ActivationFactory | None = None
    normalize: Literal["none", "all", "inner"] = "none"
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
    conv_impl: ConvImpl = "lax"

    @nn.compact
    def __call__(self, inputs: Array, *, train: bool = False) -> list[Array]:
        """Maps images [n, height, width, channels] to one map for every convolution.

        A map is that after the activation or, at the end of a block, after the pool.
        """
        if self.normalize not in ("none", "all", "inner"):
            raise ExperimentError(
                f"`normalize` must be none, all or inner, got {self.normalize!r}."
            )
        x, maps = inputs, list[Array]()
        for i, block in enumerate(self.blocks, 1):
            for j, features in enumerate(block, 1):
                last, layer = j == len(block), f"{i}_{j}"
                x = Conv(
                    features,
                    3,
                    self.kernel_init,
                    use_bias=self.use_bias,
                    impl=self.conv_impl,
                    name=f"conv{layer}",
                )(x)
                if self.normalize == "all" or (self.normalize == "inner" and not last):
                    x = batch_norm(x, train, name=f"norm{layer}")
                tapped = self.tapped if len(maps) in COMPARED else None
                x = (tapped or self.activation)()(x)
                x = max_pool_2x2(x) if last else x
                maps.append(x)
        return maps


class Classifier(nn.Module):
    """A dense layer on the averages of the last of the maps that ``features`` gives."""

    features: nn.Module
    outputs: int

    @nn.compact
    def __call__(self, inputs: Array, *, train: bool = False) -> Array:
        """Maps images [n, height, width, channels] to outputs [n, outputs]."""
        x = self.features(inputs, train=train)[-1]
        return nn.Dense(self.outputs)(x.mean(axis=(1, 2)))


def scaled(width: float) -> Channels:
    """Multiplies the channels of :data:`BLOCKS`, at least one each.

    Examples:
      >>> scaled(0.25)[:3]
      ((16, 16), (32, 32), (64, 64, 64))
    """
    return tuple(tuple(max(1, round(width * n)) for n in block) for block in BLOCKS)


def narrowed(width: float, hidden_channels: int) -> Channels:
    """Channels of the student's convolutions, by block; see :func:`student_vgg`.

    The last one of a block has as many as the teacher's, since its map is compared; the
    map of the first block is not.

    Examples:
      >>> narrowed(1.0, 16)[:3]
      ((16, 16), (16, 128), (16, 16, 256))
    """
    first, *others = scaled(width)
    compared = [(*(hidden_channels,) * (len(block) - 1), block[-1]) for block in others]
    return (hidden_channels,) * len(first), *compared


def student_vgg(
    activation: ActivationFactory,
    gain: float,
    *,
    width: float = 1.0,
    hidden_channels: int = 16,
    replaced: Literal["all", "inner"] = "all",
    conv_impl: ConvImpl = "lax",
) -> VGG:
    """Builds the student of knowledge distillation: VGG16 with narrow hidden layers.

    Convolutions have no bias; all but the last of a block are followed by batch
    normalization. Kernels are uniform with variance ``gain**2 / (fan_in + fan_out)``:
    Xavier's for a gain of sqrt(2). ``width`` multiplies the teacher's channels;
    ``hidden_channels`` are those of the convolutions whose maps are not compared.
    ``activation`` makes the 13 activations or, if ``replaced`` is "inner", those whose
    maps are not compared; the others stay ReLU.

    References:
      M. Salehi et al., "Multiresolution Knowledge Distillation for Anomaly Detection",
      CVPR 2021.
    """
    return VGG(
        activation,
        narrowed(width, hidden_channels),
        tapped=(lambda: jax.nn.relu) if replaced == "inner" else None,
        normalize="inner",
        use_bias=False,
        kernel_init=nn.initializers.variance_scaling(gain**2 / 2, "fan_avg", "uniform"),
        conv_impl=conv_impl,
    )
