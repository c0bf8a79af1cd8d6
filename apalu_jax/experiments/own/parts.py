"""The objects behind the names of a user's experiment."""

import inspect
import json
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import optax

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.arms import ActivationFactory, Arm
from apalu_jax.experiments.data.splits import Dataset
from apalu_jax.experiments.own import activations, task
from apalu_jax.experiments.own.checks import Calls
from apalu_jax.experiments.own.datasets import Data, Kind, OwnData, Tables, prepare
from apalu_jax.experiments.own.network import MakeModel, NNXNetwork, build
from apalu_jax.experiments.own.task import LossFunction, OwnTask
from apalu_jax.experiments.runner.parts import MakeOptimizer, Parts
from apalu_jax.experiments.schema import Options
from apalu_jax.experiments.training import optimizers
from apalu_jax.experiments.training.optimizers import Multiplier

# Entries that a declaration adds to the user's own options.
SUMMARY, PROGRAM = "summary", "program"


class Objects(NamedTuple):
    """Objects of a user's experiment.

    Attributes:
      make_model: See :data:`~.network.MakeModel`.
      data: See :data:`~.datasets.Data`.
      loss: A key of :data:`~.task.LOSSES`, or a function.
      metric: A function of outputs and targets; None for a metric of the package.
      metric_name: The name of the primary metric.
      optimizer: None for one that the spec declares.
      arms: The activations, by name.
    """

    make_model: MakeModel
    data: Data
    loss: str | LossFunction
    metric: Callable[..., object] | None
    metric_name: str
    optimizer: optax.GradientTransformation | None
    arms: Mapping[str, Arm]

    @property
    def kind(self) -> Kind:
        """The targets that are needed."""
        loss = self.loss if isinstance(self.loss, str) else ""
        return task.targets_of(loss, self.metric_name)


class OwnParts(Parts):
    """A user's model, data, loss, metric and activations."""

    def __init__(
        self, objects: Objects, searched: bool, seeds: int, independent: bool
    ) -> None:
        """Takes the objects; nothing is called yet."""
        self.objects = objects
        self._prepare = partial(
            prepare,
            kind=objects.kind,
            searched=searched,
            seeds=seeds,
            independent=independent,
        )
        self._data: dict[str, OwnData] = {}
        self._arm = cache(self._make_arm)

    def data(self, options: Options, unit: str = "") -> OwnData:
        """The user's data, loaded once for each unit and its options."""
        chosen = {key: options[key] for key in options if key not in ("name", SUMMARY)}
        key = json.dumps([chosen, unit], sort_keys=True)
        if key not in self._data:
            given = self.objects.data
            if callable(given) and chosen:
                given = _with_options(given, chosen)
            self._data[key] = self._prepare(given)
        return self._data[key]

    def dataset(self, options: Options, data_dir: Path | None, unit: str) -> Dataset:
        """See :class:`~apalu_jax.experiments.runner.parts.Parts`."""
        return self.data(options, unit).dataset

    def arm(self, name: str, model: Options) -> Arm:
        """An arm in the form that the user's model needs."""
        return self._arm(name, json.dumps({**model, PROGRAM: None}))

    def task(self, stage: Options, arm_name: str, outputs: int) -> OwnTask:
        """See :class:`~apalu_jax.experiments.runner.parts.Parts`."""
        arm = self.arm(arm_name, stage["model"])
        return self.task_with(arm.activation, stage["model"])

    def task_with(self, activation: ActivationFactory, model: Options) -> OwnTask:
        """The task of the model with any activation."""
        objects = self.objects
        loss = objects.loss
        options = {key: value for key, value in model.items() if key != PROGRAM}
        return OwnTask(
            network=build(objects.make_model, activations.strict(activation), options),
            loss_function=task.LOSSES[loss] if isinstance(loss, str) else loss,
            scores=task.scores_of(objects.metric_name, objects.metric),
            primary=objects.metric_name,
        )

    def optimizer(self, options: Options, arm_name: str) -> MakeOptimizer:
        """See :class:`~apalu_jax.experiments.runner.parts.Parts`."""
        arm, given = self.objects.arms[arm_name], self.objects.optimizer
        if given is None:
            return partial(optimizers.build, options, arm)

        def make(
            params: optax.Params, total_steps: int, multiplier: Multiplier = 1.0
        ) -> optax.GradientTransformation:
            # Of every optimizer of optax the learning rate is the last factor.
            last = optimizers.treatment(arm, options["activation_floor"])
            return optax.chain(given, optax.scale(multiplier), *last)

        return make

    def _make_arm(self, name: str, model: str) -> Arm:
        arm = self.objects.arms[name]
        probe = self.task_with(Calls().make, json.loads(model))
        return (
            activations.for_nnx(name, arm)
            if isinstance(probe.network, NNXNetwork)
            else arm
        )


def _with_options(
    load: Callable[..., Tables], chosen: Options
) -> Callable[..., Tables]:
    """The user's function of data with options of the table ``data``."""
    made = partial(load, **chosen)
    try:
        inspect.signature(made)
    except ValueError as error:
        raise ExperimentError(
            f"`data`: the function must take {', '.join(chosen)}, got "
            f"{inspect.signature(load)}."
        ) from error
    return made
