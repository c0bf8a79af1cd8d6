r"""Recurrent cells whose candidate state goes through a given activation.

A cell takes a state and the inputs of one step, projected to its blocks of columns by a
matrix that :mod:`apalu_jax.experiments.models.recurrent` applies to all steps at once.
Below, :math:`x_i` is block :math:`i` of that projection, :math:`h` the state, :math:`f`
the activation and :math:`\sigma` the logistic function; biases :math:`b` start at zero.

The matrices that act on the state are orthogonal: those of gates as they are, the
candidate's times half the gain of its activation. Half, because the slope of an
activation exceeds 1 where its gain does, or nearly: for every arm the product of
:math:`gain / 2` and the largest slope lies between 0.6 and 0.93, and so a small change
of the state dies out. With :math:`gain = \sqrt 2` for all it is at most 0.82.
"""

from typing import Any, ClassVar, TypeAlias

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.nn import sigmoid, tanh
from jax.nn.initializers import Initializer

from apalu_jax.experiments.arms import ActivationFactory

__all__ = ("CELLS", "GRU", "LSTM", "MOPGRU", "Cell", "Elman", "candidate_last")

State: TypeAlias = tuple[Array, ...]


def candidate_last(
    gates: Initializer, candidate: Initializer, blocks: int
) -> Initializer:
    """Initializer of a kernel whose last block of columns is the candidate's.

    Args:
      gates: Draws each of the other blocks.
      candidate: Draws the last one.
      blocks: How many there are, of equal width.

    Returns:
      An initializer.
    """

    def init(
        key: Array, shape: Any, dtype: Any = None, out_sharding: Any = None
    ) -> Array:
        rows, columns = shape
        keys = jax.random.split(key, blocks)
        draws = [gates] * (blocks - 1) + [candidate]
        parts = [
            draw(key, (rows, columns // blocks), dtype)
            for key, draw in zip(keys, draws, strict=True)
        ]
        return jnp.concatenate(parts, axis=1)

    return init


class Cell(nn.Module):
    """Base class of the cells.

    Attributes:
      features: Size of the state.
      activation: Factory of the candidate's activation, called once.
      gain: Half of it scales the candidate's orthogonal matrix.
      blocks: Number of blocks of columns that the inputs are projected to.
      states: Number of arrays in the state; the last one is the output.
    """

    features: int
    activation: ActivationFactory
    gain: float

    blocks: ClassVar[int] = 1
    states: ClassVar[int] = 1

    def __call__(self, state: State, projected: Array) -> tuple[State, Array]:
        """Makes one step.

        Args:
          state: Arrays [n, features].
          projected: The inputs of the step, [n, blocks * features].

        Returns:
          The next state, and the output [n, features].
        """
        raise NotImplementedError

    def kernel(self) -> Array:
        """The matrices that act on the state, [features, blocks * features]."""
        orthogonal = nn.initializers.orthogonal
        init = candidate_last(orthogonal(), orthogonal(self.gain / 2), self.blocks)
        return self.param("kernel", init, (self.features, self._columns))

    def bias(self) -> Array:
        """One number for each column of the projection, [1, blocks * features]."""
        zeros = nn.initializers.zeros
        return self.param("bias", zeros, (self._columns,))[None]

    @property
    def _columns(self) -> int:
        return self.blocks * self.features


class Elman(Cell):
    r"""The plain recurrent cell, :math:`h' = f(x_1 + h U + b)`."""

    @nn.compact
    def __call__(self, state: State, projected: Array) -> tuple[State, Array]:
        """Makes one step; see :class:`Cell`."""
        (h,) = state
        h = self.activation()(projected + h @ self.kernel() + self.bias())
        return (h,), h


class GRU(Cell):
    r"""Gated recurrent unit, with the reset gate applied after the matrix.

    .. math::
        z &= \sigma(x_1 + h U_z + b_1), \quad r = \sigma(x_2 + h U_r + b_2) \\
        h' &= z h + (1 - z) f(x_3 + b_3 + r (h U_c + b_4))

    With f = tanh this is the GRU of cuDNN and Keras (``reset_after=True``).

    References:
      K. Cho et al., `Learning Phrase Representations using RNN Encoder-Decoder
      <https://arxiv.org/abs/1406.1078>`_, 2014.
    """

    blocks: ClassVar[int] = 3

    @nn.compact
    def __call__(self, state: State, projected: Array) -> tuple[State, Array]:
        """Makes one step; see :class:`Cell`."""
        (h,) = state
        x_z, x_r, x = jnp.split(projected + self.bias(), self.blocks, axis=-1)
        h_z, h_r, kept = jnp.split(h @ self.kernel(), self.blocks, axis=-1)
        z, r = sigmoid(x_z + h_z), sigmoid(x_r + h_r)
        zeros = nn.initializers.zeros
        kept = kept + self.param("kept_bias", zeros, (self.features,))[None]
        candidate = self.activation()(x + r * kept)
        h = candidate + z * (h - candidate)
        return (h,), h


class LSTM(Cell):
    r"""Long short-term memory, with the activation on the candidate alone.

    .. math::
        i &= \sigma(x_1 + h U_i + b_1), \quad g = \sigma(x_2 + h U_g + b_2 + 1), \quad
        o = \sigma(x_3 + h U_o + b_3) \\
        c' &= g c + i f(x_4 + h U_c + b_4), \quad h' = o \tanh(c')

    The output keeps its tanh, where Keras's option ``activation`` would replace both:
    so it stays in (-1, 1), and the cell has one site. The forget gate g has 1 added, as
    if its bias started there.

    References:
      F. A. Gers, J. Schmidhuber, F. Cummins, `Learning to Forget: Continual Prediction
      with LSTM <https://doi.org/10.1162/089976600300015015>`_, 2000.
    """

    blocks: ClassVar[int] = 4
    states: ClassVar[int] = 2

    @nn.compact
    def __call__(self, state: State, projected: Array) -> tuple[State, Array]:
        """Makes one step; see :class:`Cell`."""
        c, h = state
        x = projected + h @ self.kernel() + self.bias()
        i, g, o, x = jnp.split(x, self.blocks, axis=-1)
        c = sigmoid(g + 1) * c + sigmoid(i) * self.activation()(x)
        h = sigmoid(o) * tanh(c)
        return (c, h), h


class MOPGRU(Cell):
    r"""The GRU of MediaPipe-optimised sign recognition: r gates the update gate, too.

    .. math::
        r &= \sigma(x_1 + h U_r + b_1), \quad z = \sigma(r (x_2 + h U_z) + b_2) \\
        h' &= (1 - z) h + z f(x_3 + (r h) U_c + b_3)

    The authors' released cell has ``(x * r) W_z`` in place of ``r (x W_z)``: there x
    has the size of the inputs and r that of the state, so that it runs only where these
    are equal. With the matrix first it always does, and the state's part is gated along
    with it. Their f is ELU, here the arm "elu". The softsign that they describe in the
    output is in none of their code, and not here: their outputs, too, go through a
    softmax, and the log-loss needs probabilities.

    References:
      B. Subramanian et al., `An integrated mediapipe-optimized GRU model for Indian
      sign language recognition <https://doi.org/10.1038/s41598-022-15998-7>`_, 2022;
      code: https://github.com/barathi-1993/Indian-Sign-Language-Recognition.
    """

    blocks: ClassVar[int] = 3

    @nn.compact
    def __call__(self, state: State, projected: Array) -> tuple[State, Array]:
        """Makes one step; see :class:`Cell`."""
        (h,) = state
        gates, candidate = jnp.split(self.kernel(), [2 * self.features], axis=1)
        x_r, x_z, x = jnp.split(projected, self.blocks, axis=-1)
        b_r, b_z, b = jnp.split(self.bias(), self.blocks, axis=-1)
        h_r, h_z = jnp.split(h @ gates, 2, axis=-1)
        r = sigmoid(x_r + h_r + b_r)
        z = sigmoid(r * (x_z + h_z) + b_z)
        h = h + z * (self.activation()(x + (r * h) @ candidate + b) - h)
        return (h,), h


CELLS = {"elman": Elman, "gru": GRU, "lstm": LSTM, "mopgru": MOPGRU}
"""Every cell that a spec may name."""
