"""A narrow network of VGG16's shape, which learns to give the maps of a wide one."""

import jax
from flax import linen as nn

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.arms import ActivationFactory
from apalu_jax.experiments.models.convolution import Form
from apalu_jax.experiments.models.vgg import VGG, scaled

__all__ = ("build", "narrowed")


def narrowed(width: float, inner: int) -> tuple[tuple[int, ...], ...]:
    """Channels of the cloner's convolutions, by block.

    The last of a block has as many as the source's, since its map is compared; but the
    map of the first block is not, and the others are narrow.

    Args:
      width: Factor of the source's channels, positive.
      inner: Channels of the convolutions whose maps are not compared, positive.

    Returns:
      The channels.

    Examples:
      >>> narrowed(1.0, 16)[:3]
      ((16, 16), (16, 128), (16, 16, 256))
    """
    first, *others = scaled(width)
    compared = [(*(inner,) * (len(block) - 1), block[-1]) for block in others]
    return (inner,) * len(first), *compared


def build(
    activation: ActivationFactory,
    outputs: int,
    gain: float,
    *,
    width: float = 1.0,
    inner: int = 16,
    replaced: str = "all",
    conv: Form = "lax",
) -> VGG:
    """Builds the network.

    Convolutions have no bias; all but the last of a block are followed by batch
    normalisation.

    Args:
      activation: Factory of the 13 activations.
      outputs: Not used: the data have no targets.
      gain: Kernels are uniform with variance ``gain**2 / (fan_in + fan_out)``: Xavier's
        for a gain of sqrt(2).
      width: See :func:`narrowed`.
      inner: Likewise.
      replaced: Which activations the factory makes: "all", or "inner" for those whose
        maps are not compared; the others stay ReLU.
      conv: Form of the convolutions.

    Returns:
      The network.

    Raises:
      ExperimentError: ``replaced`` is neither of the two.

    References:
      M. Salehi et al., "Multiresolution Knowledge Distillation for Anomaly Detection",
      CVPR 2021.
    """
    if replaced not in ("all", "inner"):
        raise ExperimentError(f"`replaced` must be all or inner, got {replaced!r}.")
    return VGG(
        activation,
        narrowed(width, inner),
        tapped=(lambda: jax.nn.relu) if replaced == "inner" else None,
        normalize="inner",
        use_bias=False,
        kernel_init=nn.initializers.variance_scaling(gain**2 / 2, "fan_avg", "uniform"),
        conv=conv,
    )
