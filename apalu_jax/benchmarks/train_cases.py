"""Cases of `apalu bench train`: settings of experiments, on synthetic data."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ("CASES", "Case")


class Case(NamedTuple):
    """A training, on synthetic data.

    Attributes:
      model: Options of :func:`apalu_jax.experiments.models.build`.
      task: "regression" or "classification".
      optimizer: Options of :func:`apalu_jax.experiments.training.optimizers.build`.
      shape: Of one example's inputs.
      outputs: Of the network.
      examples: Size of the training part.
      batch_size: Examples a step.
      steps: Of a whole run.
      together: How many seeds are vmapped; 1 for one after another.
    """

    model: Mapping[str, Any]
    task: str
    optimizer: Mapping[str, Any]
    shape: tuple[int, ...]
    outputs: int
    examples: int
    batch_size: int
    steps: int
    together: int

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in the training part."""
        return self.examples // self.batch_size

    def data(self) -> dict[str, NDArray[Any]]:
        """The training part: random normal inputs, and targets that they explain."""
        rng = np.random.default_rng(0)
        inputs = rng.standard_normal((self.examples, *self.shape), np.float32)
        flat = inputs.reshape(self.examples, -1)
        scores = flat @ rng.standard_normal((flat.shape[1], self.outputs), np.float32)
        noise = rng.standard_normal(scores.shape, np.float32)
        scores = np.sin(scores / math.sqrt(flat.shape[1])) + noise
        if self.task == "regression":
            return {"inputs": inputs, "targets": scores}
        return {"inputs": inputs, "targets": scores.argmax(axis=1)}


_ADAM = {
    "name": "adam",
    "learning_rate": 5e-3,
    "schedule": "constant",
    "activation_floor": 1e-3,
}

CASES: Mapping[str, Case] = {
    "mlp": Case(
        model={"name": "mlp", "init": "he", "features": [50]},
        task="regression",
        optimizer=_ADAM,
        shape=(13,),
        outputs=1,
        examples=1280,
        batch_size=128,
        steps=1500,
        together=10,
    ),
    "rnn": Case(
        model={"name": "recurrent", "init": "he", "cell": "elman", "features": [32]},
        task="regression",
        optimizer=_ADAM | {"clip_norm": 1.0},
        shape=(30, 1),
        outputs=1,
        examples=1600,
        batch_size=64,
        steps=490,
        together=10,
    ),
    "cnn": Case(
        model={
            "name": "cnn",
            "init": "he",
            "features": [16, 32, 64, 64, 128],
            "strides": [1, 2, 2, 1, 2],
            "conv_impl": "patches",
        },
        task="classification",
        optimizer=_ADAM
        | {
            "name": "sgd",
            "learning_rate": 0.05,
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": 5e-4,
        },
        shape=(16, 16, 3),
        outputs=10,
        examples=1280,
        batch_size=128,
        steps=3120,
        together=1,
    ),
}
"""The cases: as in regression-dnn, in regression-rnn, and on small images."""
