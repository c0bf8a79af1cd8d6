"""Optimizer that a spec declares, with the treatment that an arm's parameters need."""

from collections.abc import Callable, Mapping
from typing import Annotated, Literal, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import Array
from msgspec import Meta, Struct

from apalu_jax import optim
from apalu_jax._trees import join_keys
from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.arms import Arm
from apalu_jax.experiments.schema import Options, convert

Multiplier: TypeAlias = Array | float
"""Factor of the learning rate."""


class Optimizer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of an optimizer.

    Attributes:
      learning_rate: Peak learning rate.
      schedule: "constant"; "cosine", down to zero over the run; or "step", a tenth
        after the share ``drop_at`` of the steps.
      drop_at: Needed for the schedule "step".
      warmup: Share of the steps in which the rate rises linearly from zero.
      weight_decay: Subtracted beside the gradient's step by "adamw", and added to the
        gradient by the others.
      b1, b2, eps: Of "adam" and "adamw"; None for optax's default.
      momentum, nesterov: Of "sgd".
      clip_norm: Largest norm of a gradient; None for no limit.
      activation_floor: Smallest value of an activation's parameter that must stay
        positive.

    References:
      I. Loshchilov, F. Hutter, `Decoupled Weight Decay Regularization
      <https://arxiv.org/abs/1711.05101>`_, 2019: the two kinds of weight decay.
    """

    name: Literal["adam", "adamw", "sgd"]
    learning_rate: Annotated[float, Meta(gt=0)]
    schedule: Literal["constant", "cosine", "step"]
    drop_at: float | None = None
    warmup: float = 0.0
    weight_decay: float = 0.0
    b1: float | None = None
    b2: float | None = None
    eps: float | None = None
    momentum: float | None = None
    nesterov: bool = False
    clip_norm: float | None = None
    activation_floor: float = 1e-3

    def __post_init__(self) -> None:
        """Checks options that depend on each other."""
        if self.schedule == "step" and self.drop_at is None:
            raise ExperimentError("`drop_at` must be given for the schedule step.")


def build(
    options: Options,
    arm: Arm,
    params: optax.Params,
    total_steps: int,
    multiplier: Multiplier = 1.0,
) -> optax.GradientTransformation:
    """Builds the optimizer of a spec for one arm.

    All arms have the same. Weights, which have two dimensions or more, are decayed; an
    activation's own parameters, biases and scales are not. An arm's parameters are kept
    positive or frozen if the arm says so. Of ``params`` only the structure is used.
    """
    chosen = convert(options, Optimizer, "optimizer")
    rate = _schedule(chosen, total_steps, multiplier)
    decay, mask = chosen.weight_decay, _decayed(params, arm)
    given = ((key, getattr(chosen, key)) for key in ("b1", "b2", "eps"))
    moments = {key: value for key, value in given if value is not None}
    decayed = [optax.add_decayed_weights(decay, mask)] if decay else []
    makers: Mapping[str, Callable[[], list[optax.GradientTransformation]]] = {
        "adamw": lambda: [optax.adamw(rate, weight_decay=decay, mask=mask, **moments)],
        "adam": lambda: [*decayed, optax.adam(rate, **moments)],
        "sgd": lambda: [*decayed, optax.sgd(rate, chosen.momentum, chosen.nesterov)],
    }
    steps = makers[chosen.name]()
    if chosen.clip_norm is not None:
        steps.insert(0, optax.clip_by_global_norm(chosen.clip_norm))
    return optax.chain(*steps, *treatment(arm, chosen.activation_floor))


def treatment(arm: Arm, floor: float) -> list[optax.GradientTransformation]:
    """The last steps of an optimizer, which an arm's own parameters need."""
    if arm.frozen:
        return [optim.freeze(arm.owns)]
    steps: list[optax.GradientTransformation] = []
    if arm.rate != 1:
        steps.append(optim.scale_activation_updates(arm.rate, arm.owns))
    if arm.bounds:
        steps.append(_keep_within(arm.bounds, arm))
    elif arm.positive:
        steps.append(optim.keep_positive(floor, arm.owns))
    return steps


def _schedule(
    options: Optimizer, total_steps: int, multiplier: Multiplier
) -> optax.Schedule:
    peak = options.learning_rate
    warm = round(options.warmup * total_steps)
    schedules = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, max(total_steps - warm, 1)),
        "step": optax.piecewise_constant_schedule(
            peak, {round((options.drop_at or 1.0) * total_steps) - warm: 0.1}
        ),
    }
    rising = optax.linear_schedule(0.0, peak, warm) if warm else None
    after = schedules[options.schedule]
    joined = optax.join_schedules([rising, after], [warm]) if rising else after
    return lambda count: multiplier * joined(count)


def _decayed(params: optax.Params, arm: Arm) -> optax.Params:
    """Masks the parameters that are decayed."""
    return jax.tree_util.tree_map_with_path(
        lambda keys, leaf: leaf.ndim > 1 and not arm.owns(join_keys(keys), leaf), params
    )


def _keep_within(bounds: tuple[float, float], arm: Arm) -> optax.GradientTransformation:
    """Limits the updates so that an activation's parameters end within bounds."""

    def limit(updates: optax.Updates, params: optax.Params) -> optax.Updates:
        return jax.tree_util.tree_map_with_path(
            lambda keys, update, param: (
                jnp.clip(param + update, *bounds) - param
                if arm.owns(join_keys(keys), param)
                else update
            ),
            updates,
            params,
        )

    return optax.stateless(limit)
