"""The optimiser that a spec declares, with what an arm's parameters need."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from apalu_jax import optim
from apalu_jax._trees import join_keys
from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.arms import Arm

__all__ = ("build",)

_KEYS = {
    *("name", "learning_rate", "schedule", "warmup", "drop_at", "weight_decay"),
    *("b1", "b2", "eps", "momentum", "nesterov", "clip_norm", "activation_floor"),
}


def build(
    options: Mapping[str, Any],
    arm: Arm,
    params: Any,
    total_steps: int,
    factor: Any = 1.0,
) -> optax.GradientTransformation:
    """Builds the optimiser of a spec for one arm.

    All arms have the same. Weight decay is for weights, which have two dimensions or
    more: an activation's own parameters, biases and scales are out of it. An arm's
    parameters are kept positive or frozen where the arm says so.

    Args:
      options: ``name`` ("adam", "adamw", "sgd"); ``learning_rate``; ``schedule``
        ("constant", "cosine" down to zero over the run, or "step", a tenth after the
        share ``drop_at`` of the steps); ``warmup``, the share of the steps in which
        the rate rises linearly from zero (0); ``weight_decay``, which "adamw" subtracts
        beside the gradient's step and the others add to the gradient (0); ``b1``,
        ``b2`` and ``eps`` of "adam" and "adamw" (optax's); ``momentum`` (0) and
        ``nesterov`` (false) of "sgd"; ``clip_norm``, the largest norm of a gradient
        (none); ``activation_floor``, the smallest value of a parameter that is kept
        positive.
      arm: The activation.
      params: Parameters of the network, of which only the structure is used.
      total_steps: Number of steps of the run.
      factor: Of the learning rate.

    Returns:
      The optimiser.

    Raises:
      ExperimentError: There is no such optimiser, schedule or option.

    References:
      I. Loshchilov, F. Hutter, `Decoupled Weight Decay Regularization
      <https://arxiv.org/abs/1711.05101>`_, 2019: the two ways of weight decay.
    """
    unknown = set(options) - _KEYS
    if unknown:
        raise ExperimentError(f"`optimizer` has no options {sorted(unknown)}.")
    rate = _schedule(options, total_steps, factor)
    decay = options.get("weight_decay", 0.0)
    mask = _decayed(params, arm)
    moments = {key: options[key] for key in ("b1", "b2", "eps") if key in options}
    decayed = [optax.add_decayed_weights(decay, mask)] if decay else []
    makers: Mapping[str, Callable[[], list[optax.GradientTransformation]]] = {
        "adamw": lambda: [optax.adamw(rate, weight_decay=decay, mask=mask, **moments)],
        "adam": lambda: [*decayed, optax.adam(rate, **moments)],
        "sgd": lambda: [
            *decayed,
            optax.sgd(rate, options.get("momentum"), options.get("nesterov", False)),
        ],
    }
    if options["name"] not in makers:
        raise ExperimentError(
            f"`optimizer` must be one of {', '.join(makers)}, got {options['name']!r}."
        )
    steps = makers[options["name"]]()
    if "clip_norm" in options:
        steps.insert(0, optax.clip_by_global_norm(options["clip_norm"]))
    if arm.frozen:
        steps.append(optim.freeze(arm.owns))
    elif arm.bounds:
        steps.append(_keep_within(arm.bounds, arm))
    elif arm.positive:
        steps.append(optim.keep_positive(options["activation_floor"], arm.owns))
    return optax.chain(*steps)


def _schedule(
    options: Mapping[str, Any], total_steps: int, factor: Any
) -> Callable[[Any], Any]:
    peak = options["learning_rate"]
    if options["schedule"] == "step" and "drop_at" not in options:
        raise ExperimentError("`drop_at` must be given for the schedule step.")
    warm = round(options.get("warmup", 0.0) * total_steps)
    schedules = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, max(total_steps - warm, 1)),
        "step": optax.piecewise_constant_schedule(
            peak, {round(options.get("drop_at", 1.0) * total_steps) - warm: 0.1}
        ),
    }
    if options["schedule"] not in schedules:
        raise ExperimentError(
            f"`schedule` of the optimizer must be one of {', '.join(schedules)}, got "
            f"{options['schedule']!r}."
        )
    rising = optax.linear_schedule(0.0, peak, warm) if warm else None
    after = schedules[options["schedule"]]
    joined = optax.join_schedules([rising, after], [warm]) if rising else after
    return lambda count: factor * joined(count)


def _decayed(params: Any, arm: Arm) -> Any:
    """Which parameters are decayed."""
    return jax.tree_util.tree_map_with_path(
        lambda keys, leaf: leaf.ndim > 1 and not arm.owns(join_keys(keys), leaf), params
    )


def _keep_within(bounds: tuple[float, float], arm: Arm) -> optax.GradientTransformation:
    """Limits the updates so that an activation's parameters end within bounds."""

    def limit(updates: Any, params: Any) -> Any:
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
