"""The optimiser that a spec declares, with what an arm's parameters need."""

from collections.abc import Mapping
from typing import Any

import optax

from apalu_jax import optim
from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.arms import Arm

__all__ = ("build",)


def build(
    options: Mapping[str, Any], arm: Arm, params: Any, total_steps: int
) -> optax.GradientTransformation:
    """Builds the optimiser of a spec for one arm.

    All arms have the same; an activation's own parameters are out of weight decay, and
    positive or frozen where the arm says so.

    Args:
      options: ``name`` ("adamw"), ``learning_rate``, ``schedule`` ("constant", or
        "cosine" down to zero over the run), ``weight_decay``, and ``activation_floor``,
        the smallest value of a parameter that is kept positive.
      arm: The activation.
      params: Parameters of the network, of which only the structure is used.
      total_steps: Number of steps of the run.

    Returns:
      The optimiser.

    Raises:
      ExperimentError: There is no such optimiser or schedule.
    """
    rate = options["learning_rate"]
    schedules = {
        "constant": optax.constant_schedule(rate),
        "cosine": optax.cosine_decay_schedule(rate, total_steps),
    }
    if options["name"] != "adamw" or options["schedule"] not in schedules:
        raise ExperimentError(
            "`optimizer` must be adamw with a constant or cosine schedule, got "
            f"{options['name']!r} with {options['schedule']!r}."
        )
    mask = optim.weight_decay_mask(params, arm.owns) if arm.parameters else None
    steps = [
        optax.adamw(
            schedules[options["schedule"]],
            weight_decay=options["weight_decay"],
            mask=mask,
        )
    ]
    if arm.frozen:
        steps.append(optim.freeze(params, arm.owns))
    elif arm.positive:
        steps.append(optim.keep_positive(options["activation_floor"], arm.owns))
    return optax.chain(*steps)
