"""Trains a frozen network on CIFAR-10, once."""

import hashlib
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from flax import linen as nn
from jax.flatten_util import ravel_pytree
from numpy.typing import NDArray

from apalu_jax.experiments import arms, data
from apalu_jax.experiments.backbones.config import BackboneConfig
from apalu_jax.experiments.data.splits import Dataset
from apalu_jax.experiments.models.vgg import Classifier
from apalu_jax.experiments.storage import cached_array
from apalu_jax.experiments.tasks.base import Variables
from apalu_jax.experiments.tasks.classification import Classification
from apalu_jax.experiments.training import optimizers
from apalu_jax.experiments.training.compiled import compile_training

_OPTIMIZER = {
    "name": "adam",
    "learning_rate": 2e-3,
    "schedule": "cosine",
    "warmup": 0.1,
    "activation_floor": 1e-3,
}
_BATCH_SIZE = 64


def train(
    module: nn.Module, options: BackboneConfig, data_dir: Path | None
) -> tuple[Variables, str]:
    """Trains a network to classify by its last map, or takes it from the cache.

    The result is its variables, without the classifier's last layer, and a label with
    the share of 2,000 test images, the first of every class, that it classifies right.
    """
    sizes = {"train": options.images, "validation": 10, "test": 2000}
    dataset = data.load({"name": "cifar10", **sizes}, data_dir)
    classifier = Classifier(module, dataset.outputs)
    settings = [msgspec.to_builtins(options), _OPTIMIZER, _BATCH_SIZE, dataset.label]
    name = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:32]

    image = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(classifier.init, jax.random.key(0), image)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    _, unravel = ravel_pytree(zeros)
    stored = cached_array(
        f"{name}.npy", lambda: _train(classifier, options, dataset), "backbones"
    )
    variables = unravel(jnp.asarray(stored[:-1]))
    features = {key: value["features"] for key, value in variables.items()}
    return features, f"trained on {dataset.label}: {100 * float(stored[-1]):.1f} %"


def _train(
    classifier: Classifier, options: BackboneConfig, dataset: Dataset
) -> NDArray[np.float32]:
    """Returns all variables in a row, and then the accuracy."""
    compiled = compile_training(
        Classification(network=classifier, mean=options.mean, std=options.std),
        partial(optimizers.build, _OPTIMIZER, arms.get(options.activation)),
        batch_size=_BATCH_SIZE,
        epochs=options.epochs,
        vmapped=False,
    )
    train, _, test = jax.tree.map(
        lambda array: jnp.asarray(array)[None], dataset.splits(options.seed)
    )
    seeds = jnp.array([options.seed])
    state, _ = compiled.epochs(
        compiled.init(seeds, train), seeds, jnp.ones(1), 1, options.epochs, train
    )
    correct = np.asarray(compiled.predict(state.variables, test)["accuracy"])
    flat, _ = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], state.variables))
    return np.append(np.asarray(flat), np.float32(correct.mean()))
