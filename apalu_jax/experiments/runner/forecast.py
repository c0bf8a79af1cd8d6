"""Forecast of a run: what is left to train, on which data, and for how long."""

from collections.abc import Sequence
from pathlib import Path

import jax

from apalu_jax.experiments.formatting import duration, joined
from apalu_jax.experiments.records import Trial
from apalu_jax.experiments.results import SPEC, Results, read
from apalu_jax.experiments.runner.parts import DECLARED, Parts
from apalu_jax.experiments.runner.plan import config_of, plan, wanted_keys
from apalu_jax.experiments.runner.timing import time_step
from apalu_jax.experiments.specs import Spec


def forecast(
    spec: Spec,
    out: Path,
    *,
    arm_names: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    data_dir: Path | None = None,
    parts: Parts = DECLARED,
) -> list[str]:
    """Says what :func:`~.run.run` would do with the same arguments, in sentences.

    Nothing is written. The time is that of a few training steps, made here, times their
    number, and of one compilation for each arm.
    """
    wanted = wanted_keys(spec, arm_names, seeds)
    results = Results(spec)
    if (out / SPEC).exists():
        results = read(out)
        results.spec = spec
    trials = plan(results, wanted)
    runs = sum(len(trial.seeds) for trial in trials)
    done = len(wanted & results.finished)
    arms = list(dict.fromkeys(trial.arm for trial in trials))
    lines = [
        f"{spec.name}: {runs} runs of {', '.join(arms) or 'no arm'}, into {out}"
        f"{f' ({done} are there already)' if done else ''}",
    ]
    if not trials:
        return lines
    first = trials[0]
    dataset = parts.dataset(spec.at(*first[1:3]).data, data_dir, first.unit)
    fold = dataset.splits(spec.split_seed(first.seeds[0]))
    sizes = [len(next(iter(split.values()))) for split in fold]
    shape = " x ".join(map(str, fold.train["inputs"].shape[1:])) or "1"
    where = joined(first.variant, first.unit)
    lines.append(
        f"data: {spec.at(*first[1:3]).data['name']}{f' ({where})' if where else ''}, "
        f"{sizes[0]} training, {sizes[1]} validation and {sizes[2]} test examples of "
        f"{shape}"
    )
    lines.append(_time(spec, trials, parts, data_dir))
    return lines


def _time(
    spec: Spec, trials: Sequence[Trial], parts: Parts, data_dir: Path | None
) -> str:
    first = trials[0]._replace(kind="evaluation", lr_multipliers=())
    timed = time_step(spec, first, parts, data_dir)
    epochs = sum(config_of(spec, trial).epochs for trial in trials)
    arms = len({trial.arm for trial in trials})
    total = epochs * timed.steps * timed.step_s + arms * timed.compile_s
    together = len(first.seeds)
    return (
        f"time: about {duration(total)} on {jax.devices()[0].device_kind}, by a step "
        f"of {1000 * timed.step_s:.3g} ms with {first.arm} and "
        f"{together} seed{'s' * (together > 1)} at once, {timed.steps} steps an epoch; "
        "evaluation is not counted"
    )
