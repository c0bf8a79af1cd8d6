"""Student network for knowledge distillation: VGG16 with narrow hidden layers."""

from typing import Literal

import jax
from flax import linen as nn

from apalu_jax.experiments.arms import ActivationFactory
from apalu_jax.experiments.models.layers import ConvImpl
from apalu_jax.experiments.models.vgg import VGG, scaled

__all__ = ("narrowed", "student_vgg")


def narrowed(width: float, hidden_channels: int) -> tuple[tuple[int, ...], ...]:
    """Channels of the student's convolutions, by block.

    The last one of a block has as many as the teacher's, since its map is compared; the
    map of the first block is not, and the other convolutions are narrow.

    Args:
      width: Factor of the teacher's channels, positive.
      hidden_channels: Channels of the convolutions whose maps are not compared,
        positive.

    Returns:
      The channels.

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
    """Builds the student.

    Convolutions have no bias; all but the last of a block are followed by batch
    normalization.

    Args:
      activation: Factory of the 13 activations.
      gain: Kernels are uniform with variance ``gain**2 / (fan_in + fan_out)``: Xavier's
        for a gain of sqrt(2).
      width: Factor of the teacher's channels, positive.
      hidden_channels: Channels of the convolutions whose maps are not compared.
      replaced: Activations that the factory makes: "all", or "inner" for those whose
        maps are not compared; the others stay ReLU.
      conv_impl: ConvImpl of the convolutions.

    Returns:
      The network.

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
