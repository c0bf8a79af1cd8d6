"""Recurrent layers over a sequence, and dense layers on their last output."""

from math import sqrt
from typing import Literal

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.arms import ActivationFactory
from apalu_jax.experiments.models.cells import CELLS, candidate_last
from apalu_jax.experiments.models.layers import Network, batch_norm, scaled_normal

# Of tanh in the cells and of ReLU behind dense layers, without the arm:
# 1 / sqrt(E f(z)^2), z ~ N(0, 1). For tanh a numerical integral; E relu(z)^2 = 1/2.
_TANH_GAIN = 1.5925374
_RELU_GAIN = sqrt(2.0)


class RecurrentLayer(nn.Module):
    """A cell over the steps of a sequence, from a state of zero.

    The candidate's input kernel has standard deviation ``gain / sqrt(fan_in)``, those
    of gates ``1 / sqrt(fan_in)``; for the kernels on the state see
    :mod:`apalu_jax.experiments.models.cells`.
    """

    cell: str
    features: int
    activation: ActivationFactory
    gain: float

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Maps inputs [time, n, inputs] to outputs [time, n, features]."""
        cell = CELLS[self.cell]
        kernel = self.param(
            "kernel",
            candidate_last(scaled_normal(1.0), scaled_normal(self.gain), cell.blocks),
            (inputs.shape[-1], cell.blocks * self.features),
        )
        projected = inputs @ kernel
        state = (
            jnp.zeros((inputs.shape[1], self.features), inputs.dtype),
        ) * cell.states
        options = self.features, self.activation, self.gain
        if self.is_initializing():
            # One step initializes all variables; a scan would compile each time.
            _, output = cell(*options, name="cell")(state, projected[0])
            return jnp.broadcast_to(output, (len(inputs), *output.shape))
        steps = nn.scan(
            cell,
            variable_broadcast="params",
            variable_axes={"input_histograms": 0},
            split_rngs={"params": False},
        )
        _, outputs = steps(*options, name="cell")(state, projected)
        return outputs


class Recurrent(Network):
    """Recurrent layers, of which the last one's last output feeds dense layers.

    Attributes:
      cell: "elman", "gru", "lstm" or "mopgru".
      features: Sizes of the recurrent layers.
      dense: Sizes of the dense layers in front of the last one.
      placement: Position of the compared activation: "candidate", in the cells;
        "dense", behind the dense layers; or "both". Without it, there is tanh in the
        cells and ReLU behind the dense layers, with the gains of these.
      batch_norm: Whether the outputs of every recurrent layer but the last one are
        normalized, over examples and steps; the statistics are the collection
        ``batch_stats``, which a call with ``train=True`` updates.
      dropout: Share of these outputs that is dropped in training.
    """

    cell: Literal["elman", "gru", "lstm", "mopgru"] = "gru"
    features: tuple[int, ...] = (32, 64, 32)
    dense: tuple[int, ...] = ()
    placement: Literal["candidate", "dense", "both"] = "candidate"
    batch_norm: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Checks that there are dense layers for the activation to follow."""
        if self.placement != "candidate" and not self.dense:
            raise ExperimentError(
                "`placement` must be candidate if `dense` is empty, got "
                f"{self.placement!r}."
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, inputs: Array, *, train: bool = False) -> Array:
        """Maps sequences [n, time, inputs] to outputs [n, outputs]."""
        placed = self.activation, self.gain
        in_cells = (lambda: jnp.tanh), _TANH_GAIN
        in_dense = (lambda: nn.relu), _RELU_GAIN

        x = inputs.swapaxes(0, 1)
        for i, features in enumerate(self.features):
            if i > 0 and self.batch_norm:
                x = batch_norm(x, train)
            if i > 0:
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
            activation, gain = in_cells if self.placement == "dense" else placed
            x = RecurrentLayer(self.cell, features, activation, gain)(x)
        x = x[-1]
        for features in self.dense:
            activation, gain = in_dense if self.placement == "candidate" else placed
            x = activation()(nn.Dense(features, kernel_init=scaled_normal(gain))(x))
        return nn.Dense(self.outputs)(x)
