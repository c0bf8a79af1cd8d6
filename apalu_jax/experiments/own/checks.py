"""Checks of a user's model before the first run, and a digest of what it computes."""

import hashlib
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from apalu_jax._trees import PyTree, join_keys
from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.arms import ARMS, Activation, Arm
from apalu_jax.experiments.data.splits import Batch, Dataset
from apalu_jax.experiments.formatting import first_line
from apalu_jax.experiments.own.datasets import Kind
from apalu_jax.experiments.own.network import NNXNetwork
from apalu_jax.experiments.own.task import OwnTask, constant_prediction
from apalu_jax.experiments.specs import Metric

# Addresses in the text of a jaxpr differ from process to process.
_ADDRESS = re.compile(r"0x[0-9a-f]+")


class _Place(nnx.Module):
    """Stands for an activation that passes its input on, and counts its calls."""

    def __init__(self, calls: "Calls") -> None:
        self.calls, self.number = calls, calls.new()

    def __call__(self, x: Array) -> Array:
        self.calls.count(self.number)
        return x


class Calls:
    """Counts of the places of a model, by the number of each."""

    def __init__(self) -> None:
        """Starts with no place."""
        self._counts: list[int] = []

    def make(self) -> Activation:
        """A new place, for Linen and NNX alike."""
        return _Place(self)

    def new(self) -> int:
        """Number of a new place."""
        self._counts.append(0)
        return len(self._counts) - 1

    def count(self, number: int) -> None:
        """Counts a call."""
        self._counts[number] += 1

    def reset(self) -> int:
        """Starts to count anew; gives the number of places so far."""
        self._counts = [0] * len(self._counts)
        return len(self._counts)

    @property
    def places(self) -> int:
        """Number of places made so far."""
        return len(self._counts)

    @property
    def most(self) -> int:
        """Calls of the place that is called most often."""
        return max(self._counts, default=0)


def check_use(task: OwnTask, calls: Calls, batch: Batch) -> str:
    """Checks that a model of :class:`Calls` uses its activations; a digest of it.

    The digest is of the program of loss and outputs, with what stands in it as a
    constant.

    Raises:
      ExperimentError: No activation is called, or an NNX model makes one in each call.

    Warns:
      UserWarning: An activation is called in several places, which share its
        parameters.
    """
    key = jax.random.key(0)
    with _one_line(batch):
        variables = jax.eval_shape(task.init, key, batch)
        if not jax.tree.leaves(variables.get("params")):
            raise ExperimentError(
                "The model of `make_model` has no parameters to train."
            )
        made = calls.reset()
        traced = jax.make_jaxpr(task.loss)(variables, _shapes(batch), key)
        most, after = calls.most, calls.places
        predicted = jax.make_jaxpr(task.predict)(variables, _shapes(batch))
    if isinstance(task.network, NNXNetwork) and after > made:
        raise ExperimentError(
            "The model of `make_model` makes an activation in each call, which is "
            "never trained: call activation() in `__init__`."
        )
    if not most:
        raise ExperimentError(
            "The model of `make_model` does not use its argument `activation`, so all "
            "activations would be the same network: call activation() once for each "
            "place, and apply what it returns."
        )
    if most > 1:
        warnings.warn(
            f"The model of `make_model` calls one activation {most} times in a forward "
            "pass, in places that share its parameters: call activation() for each "
            "place, unless that is meant.",
            stacklevel=3,
        )
    return digest(traced, predicted)


def check_arm(
    name: str, arm: Arm, task: OwnTask, dataset: Dataset, kind: Kind
) -> tuple[PyTree, str]:
    """Checks that a model with one arm runs, has its parameters, and fits the targets.

    Gives the shapes of its parameters, and a digest of what it computes.

    Raises:
      ExperimentError: The model cannot be built or called with this activation, its
        parameters are not the model's, or the outputs do not fit the targets.
    """
    train = dataset.splits(0).train
    batch = {name: array[:2] for name, array in train.items()}
    key = jax.random.key(0)
    with _one_line(batch, f" with {name}"):
        variables = jax.eval_shape(task.init, key, batch)
        traced = jax.make_jaxpr(task.loss)(variables, _shapes(batch), key)
        outputs = jax.eval_shape(task.predict, variables, _shapes(batch))["outputs"]
    if kind == "classes" and (outputs.shape or (0,))[-1] < dataset.outputs:
        raise ExperimentError(
            "The model of `make_model` must have an output for each of "
            f"{dataset.outputs} classes, got outputs of shape {outputs.shape} for two "
            "examples."
        )
    if arm.parameters and name in ARMS and not own_parameters(arm, variables["params"]):
        raise ExperimentError(
            f"The parameters of {name} are not among those of the model of "
            "`make_model`, and would not be trained."
        )
    return variables["params"], digest(traced)


def check_metric(task: OwnTask, test: Batch, declared: Sequence[Metric]) -> str:
    """Checks the metrics of a constant prediction; the primary one must be finite.

    Gives its value and the one of a random prediction, by which a metric that has
    been changed is found.

    Raises:
      ExperimentError: One of the ``declared`` is missing, the primary one is not
        finite, or its function fails.
    """
    targets = test["targets"]
    constant = constant_prediction(targets)
    noise = np.random.default_rng(0).normal(size=constant.shape)
    try:
        values = [task.scores(each, targets) for each in (constant, constant + noise)]
    except ExperimentError:
        raise
    except Exception as error:
        raise ExperimentError(
            f"`metric`: {task.primary} fails with a constant prediction for the test "
            f"split: {first_line(error)}."
        ) from error
    for name in (metric.name for metric in declared):
        if name not in values[0]:
            raise ExperimentError(
                f"The metrics of the test split are {', '.join(values[0])}, without "
                f"the declared {name!r}; r2 needs targets that differ."
            )
    first, second = (found[task.primary] for found in values)
    if not np.isfinite(first):
        raise ExperimentError(
            f"`metric`: {task.primary} must be finite, got {first} with a constant "
            "prediction for the test split."
        )
    return f"{first:.6g} {second:.6g}"


def check_optimizer(
    name: str, arm: Arm, params: PyTree, tx: optax.GradientTransformation
) -> str:
    """Checks what an optimizer does to the activations' parameters; a digest of it.

    ``params`` are shapes. A gradient of zero must leave the parameters where they are.

    Warns:
      UserWarning: It does not: they are decayed.
    """
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), params)
    zeros = jax.tree.map(jnp.zeros_like, ones)
    state = tx.init(ones)
    updates, _ = tx.update(zeros, state, ones)
    if any(np.any(leaf) for leaf in own_parameters(arm, updates)):
        warnings.warn(
            f"`optimizer` decays the parameters of {name}: give its weight decay "
            "mask=apalu_jax.optim.weight_decay_mask.",
            stacklevel=3,
        )
    return digest(jax.make_jaxpr(tx.update)(zeros, state, ones))


def own_parameters(arm: Arm, params: PyTree) -> list[PyTree]:
    """Leaves of a tree that belong to an arm's activations."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return [leaf for keys, leaf in leaves if arm.owns(join_keys(keys), leaf)]


def digest(*programs: Any) -> str:
    """Digest of traced functions: their text, and the arrays that stand in them."""
    total = hashlib.sha256()
    for traced in programs:
        total.update(_ADDRESS.sub("", str(traced)).encode())
        for constant in traced.consts:
            total.update(np.asarray(constant).tobytes())
    return total.hexdigest()[:16]


@contextmanager
def _one_line(batch: Batch, where: str = "") -> Iterator[None]:
    """Names the inputs with which a model fails."""
    try:
        yield
    except ExperimentError:
        raise
    except Exception as error:
        inputs = batch["inputs"]
        raise ExperimentError(
            f"The model of `make_model`{where} fails with inputs of shape "
            f"{inputs.shape} and dtype {inputs.dtype}: "
            f"{first_line(error)}"
        ) from error


def _shapes(batch: Batch) -> dict[str, jax.ShapeDtypeStruct]:
    return {key: jax.ShapeDtypeStruct(x.shape, x.dtype) for key, x in batch.items()}
