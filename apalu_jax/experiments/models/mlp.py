"""A plain stack of dense layers, without normalization."""

from flax import linen as nn
from jax import Array

from apalu_jax.experiments.arms import ActivationFactory
from apalu_jax.experiments.models.layers import scaled_normal

__all__ = ("MLP",)


class MLP(nn.Module):
    """Dense layers with an activation after each but the last.

    Attributes:
      features: Sizes of the hidden layers.
      outputs: Size of the output.
      activation: Factory of the activations.
      gain: Hidden kernels have standard deviation ``gain / sqrt(fan_in)``, the last one
        ``1 / sqrt(fan_in)``.
    """

    features: tuple[int, ...]
    outputs: int
    activation: ActivationFactory
    gain: float

    @nn.compact
    def __call__(self, inputs: Array, *, train: bool = False) -> Array:
        """Maps inputs [n, ...] to outputs [n, outputs]; the same in training."""
        x = inputs.reshape(len(inputs), -1)
        hidden_init = scaled_normal(self.gain)
        for features in self.features:
            x = self.activation()(nn.Dense(features, kernel_init=hidden_init)(x))
        return nn.Dense(self.outputs)(x)
