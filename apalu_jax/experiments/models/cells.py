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

from collections.abc import Sequence
from typing import ClassVar, TypeAlias

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.nn import sigmoid, tanh

from apalu_jax.experiments.arms import ActivationFactory
from apalu_jax.experiments.models.layers import DType

State: TypeAlias = tuple[Array, ...]
Initializer: TypeAlias = nn.initializers.Initializer


def candidate_last(
    gates: Initializer, candidate: Initializer, blocks: int
) -> Initializer:
    """Initializes equal blocks of columns, the last one for the candidate."""

    def init(key: Array, shape: Sequence[int], dtype: DType = jnp.float32) -> Array:
        rows, columns = shape
        keys = jax.random.split(key, blocks)
        inits = [gates] * (blocks - 1) + [candidate]
        sampled = [
            init(key, (rows, columns // blocks), dtype)
            for key, init in zip(keys, inits, strict=True)
        ]
        return jnp.concatenate(sampled, axis=1)

    return init


class Cell(nn.Module):
    """Base class of the cells.

    The state is ``states`` arrays [n, features], the last one the output; the inputs of
    a step are projected to ``blocks`` blocks of as many columns. The activation of the
    candidate is made once.
    """

    features: int
    activation: ActivationFactory
    gain: float

    blocks: ClassVar[int] = 1
    states: ClassVar[int] = 1

    @nn.compact
    def __call__(self, state: State, projected: Array) -> tuple[State, Array]:
        """Makes one step; returns the next state and the output."""
        state = self._step(state, projected)
        return state, state[-1]

    def _step(self, state: State, projected: Array) -> State:
        raise NotImplementedError

    def _kernel(self) -> Array:
        """The matrices that act on the state, [features, blocks * features]."""
        orthogonal = nn.initializers.orthogonal
        init = candidate_last(orthogonal(), orthogonal(self.gain / 2), self.blocks)
        shape = (self.features, self.blocks * self.features)
        return self.param("kernel", init, shape)

    def _bias(self) -> Array:
        """One number for each column of the projection, [1, blocks * features]."""
        zeros = nn.initializers.zeros
        return self.param("bias", zeros, (self.blocks * self.features,))[None]


class Elman(Cell):
    r"""The plain recurrent cell, :math:`h' = f(x_1 + h U + b)`.

    References:
      J. L. Elman, `Finding Structure in Time
      <https://doi.org/10.1207/s15516709cog1402_1>`_, 1990.
    """

    def _step(self, state: State, projected: Array) -> State:
        (h,) = state
        return (self.activation()(projected + h @ self._kernel() + self._bias()),)


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

    def _step(self, state: State, projected: Array) -> State:
        (h,) = state
        x_z, x_r, x = jnp.split(projected + self._bias(), self.blocks, axis=-1)
        h_z, h_r, h_c = jnp.split(h @ self._kernel(), self.blocks, axis=-1)
        z, r = sigmoid(x_z + h_z), sigmoid(x_r + h_r)
        zeros = nn.initializers.zeros
        h_c = h_c + self.param("kept_bias", zeros, (self.features,))[None]
        candidate = self.activation()(x + r * h_c)
        return (candidate + z * (h - candidate),)


class LSTM(Cell):
    r"""Long short-term memory, with the activation on the candidate alone.

    .. math::
        i &= \sigma(x_1 + h U_i + b_1), \quad g = \sigma(x_2 + h U_g + b_2 + 1), \quad
        o = \sigma(x_3 + h U_o + b_3) \\
        c' &= g c + i f(x_4 + h U_c + b_4), \quad h' = o \tanh(c')

    The output keeps its tanh, unlike with Keras's option ``activation``, which replaces
    both: so it stays in (-1, 1), and the cell has one activation. The forget gate g has
    1 added, as if its bias started there.

    References:
      F. A. Gers, J. Schmidhuber, F. Cummins, `Learning to Forget: Continual Prediction
      with LSTM <https://doi.org/10.1162/089976600300015015>`_, 2000.
    """

    blocks: ClassVar[int] = 4
    states: ClassVar[int] = 2

    def _step(self, state: State, projected: Array) -> State:
        c, h = state
        x = projected + h @ self._kernel() + self._bias()
        i, g, o, x = jnp.split(x, self.blocks, axis=-1)
        c = sigmoid(g + 1) * c + sigmoid(i) * self.activation()(x)
        h = sigmoid(o) * tanh(c)
        return c, h


class MOPGRU(Cell):
    r"""The GRU of MediaPipe-optimized sign recognition: r gates the update gate, too.

    .. math::
        r &= \sigma(x_1 + h U_r + b_1), \quad z = \sigma(r (x_2 + h U_z) + b_2) \\
        h' &= (1 - z) h + z f(x_3 + (r h) U_c + b_3)

    The authors' released cell has ``(x * r) W_z`` instead of ``r (x W_z)``: there x
    has the size of the inputs and r that of the state, so that it runs only if these
    are equal. With the matrix first it always does, and the state's term is gated along
    with it. Their f is ELU, here the arm "elu". The softsign that they describe in the
    output is in none of their code, and not here: their outputs, too, go through a
    softmax, and the log-loss needs probabilities.

    References:
      B. Subramanian et al., `An integrated mediapipe-optimized GRU model for Indian
      sign language recognition <https://doi.org/10.1038/s41598-022-15998-7>`_, 2022;
      code: https://github.com/barathi-1993/Indian-Sign-Language-Recognition.
    """

    blocks: ClassVar[int] = 3

    def _step(self, state: State, projected: Array) -> State:
        (h,) = state
        gates, candidate = jnp.split(self._kernel(), [2 * self.features], axis=1)
        x_r, x_z, x = jnp.split(projected, self.blocks, axis=-1)
        b_r, b_z, b = jnp.split(self._bias(), self.blocks, axis=-1)
        h_r, h_z = jnp.split(h @ gates, 2, axis=-1)
        r = sigmoid(x_r + h_r + b_r)
        z = sigmoid(r * (x_z + h_z) + b_z)
        return (h + z * (self.activation()(x + (r * h) @ candidate + b) - h),)


CELLS = {"elman": Elman, "gru": GRU, "lstm": LSTM, "mopgru": MOPGRU}
"""Every cell that a spec may name."""
