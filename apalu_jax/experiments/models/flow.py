"""The normalizing flow of DifferNet: coupling blocks with dense networks inside."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from numpy.typing import NDArray

from apalu_jax.experiments.arms import ActivationFactory
from apalu_jax.experiments.models.layers import DType, scaled_normal

Start: TypeAlias = Literal["identity", "pytorch"]

# No coordinate behind a block is larger, as in the authors' code.
_LIMIT = 1e6


class Subnet(nn.Module):
    """Three hidden layers, an activation after each, and a linear map.

    With the start "identity", hidden kernels have standard deviation
    ``gain / sqrt(fan_in)``, and the last layer and all biases are zero; with "pytorch",
    kernels and biases are uniform within ``1 / sqrt(fan_in)``, whatever the gain is:
    the default of ``torch.nn.Linear``.
    """

    activation: ActivationFactory
    gain: float
    width: int
    outputs: int
    start: Start

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Maps [n, d] to [n, outputs]."""
        x, init = inputs, scaled_normal(self.gain)
        for _ in range(3):
            x = self.activation()(self._dense(x, self.width, init))
        return self._dense(x, self.outputs, nn.initializers.zeros)

    def _dense(
        self, x: Array, features: int, kernel_init: nn.initializers.Initializer
    ) -> Array:
        bias_init = nn.initializers.zeros
        if self.start == "pytorch":
            kernel_init = bias_init = _within(1 / x.shape[-1] ** 0.5)
        dense = nn.Dense(features, kernel_init=kernel_init, bias_init=bias_init)
        return dense(x)


class Coupling(nn.Module):
    r"""Two halves, each scaled and shifted by a function of the other.

    With :math:`e(s) = 0.636\,c \arctan(s / c)`, :math:`y_1 = e^{e(s_2)} x_1 + t_2`
    where :math:`(s_2, t_2)` is a function of :math:`x_2`, and
    :math:`y_2 = e^{e(s_1)} x_2 + t_1` where :math:`(s_1, t_1)` is one of :math:`y_1`.

    ``clamp`` is c: a scale is between :math:`e^{-c}` and :math:`e^c`, since 0.636 is
    about :math:`2 / \pi`. The other fields are those of :class:`Subnet`.
    """

    activation: ActivationFactory
    gain: float
    width: int
    start: Start
    clamp: float

    @nn.compact
    def __call__(self, inputs: Array) -> tuple[Array, Array]:
        """Maps x [n, d] to y, within +-1e6, and returns log |det dy/dx| [n]."""
        half, other = inputs.shape[-1] // 2, -(-inputs.shape[-1] // 2)
        of_first, of_second = (
            Subnet(self.activation, self.gain, self.width, 2 * n, self.start, name=name)
            for n, name in ((other, "first"), (half, "second"))
        )
        first, second = inputs[..., :half], inputs[..., half:]
        log_2, shift_2 = self._split(of_second(second))
        first = jnp.exp(log_2) * first + shift_2
        log_1, shift_1 = self._split(of_first(first))
        second = jnp.exp(log_1) * second + shift_1
        outputs = jnp.concatenate([first, second], axis=-1)
        logarithm = log_1.sum(axis=-1) + log_2.sum(axis=-1)
        return jnp.clip(outputs, -_LIMIT, _LIMIT), logarithm

    def _split(self, both: Array) -> tuple[Array, Array]:
        """The logarithm of the scale, and the shift."""
        scale, shift = jnp.split(both, 2, axis=-1)
        return 0.636 * self.clamp * jnp.arctan(scale / self.clamp), shift


class Flow(nn.Module):
    """Blocks of a fixed random permutation and a coupling.

    A block has six activations. A flow that starts as "identity" only permutes.

    References:
      M. Rudolph, B. Wandt, B. Rosenhahn, `Same Same But DifferNet: Semi-Supervised
      Defect Detection with Normalizing Flows <https://arxiv.org/abs/2008.12577>`_, WACV
      2021; constants and permutations are those of the authors' code.
    """

    activation: ActivationFactory
    gain: float
    blocks: int = 8
    width: int = 2048
    start: Start = "identity"
    clamp: float = 3.0

    @nn.compact
    def __call__(self, inputs: Array, *, train: bool = False) -> tuple[Array, Array]:
        """Maps features x [n, d] to z [n, d] and log |det dz/dx| [n]."""
        x, total = inputs, jnp.zeros(inputs.shape[:-1], inputs.dtype)
        options = self.activation, self.gain, self.width, self.start, self.clamp
        for i in range(self.blocks):
            x = x[..., permutation(i, x.shape[-1])]
            x, logarithm = Coupling(*options, name=f"block{i}")(x)
            total += logarithm
        return x, total


def permutation(block: int, dims: int) -> NDArray[np.int64]:
    """Permutation that a block begins with, by its number, the same in every run.

    Examples:
      >>> permutation(1, 5).tolist()
      [2, 1, 4, 0, 3]
    """
    return np.random.RandomState(block).permutation(dims)


def _within(bound: float) -> nn.initializers.Initializer:
    """Initializes uniformly between -bound and bound."""

    def init(key: Array, shape: Sequence[int], dtype: DType = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
