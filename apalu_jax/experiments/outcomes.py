"""From a trained block to its records."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike, NDArray

import apalu_jax
from apalu_jax.experiments.data.dataset import Batch
from apalu_jax.experiments.records import Record
from apalu_jax.experiments.specs import Spec
from apalu_jax.experiments.tasks.task import Task
from apalu_jax.experiments.trainer import Row, Trained
from apalu_jax.introspection import Histogram

__all__ = ("Block", "failed", "finished")


class Block(NamedTuple):
    """What is trained at once: one arm in one place, a few seeds together."""

    variant: str
    unit: str
    seeds: tuple[int, ...]
    arm: str

    @property
    def name(self) -> str:
        """Its name in file names."""
        parts = (self.arm, self.variant, self.unit, f"seed{self.seeds[0]}")
        return "-".join(filter(None, parts))


def finished(
    spec: Spec,
    block: Block,
    factor: float,
    task: Task,
    trained: Trained,
    scores: Mapping[str, NDArray[Any]],
    histograms: Mapping[str, Histogram],
    test_parts: Sequence[Batch],
    label: str,
    exhibit: Mapping[str, Any],
) -> list[Record]:
    """One record for each seed of a block after its last epoch.

    Args:
      spec: The experiment.
      block: The block.
      factor: Of the learning rate.
      task: What was trained.
      trained: What the trainer gave.
      scores: Metrics of the test part, name -> one number per seed.
      histograms: Inputs of each APALU on the test part, stacked over seeds.
      test_parts: The test part of each seed.
      label: Which data it was, where there is a choice.
      exhibit: What the record of the block's first seed shows; empty for nothing.

    Returns:
      The records, in the order of the seeds.
    """
    found = []
    for i, seed in enumerate(block.seeds):
        test = {name: float(values[i]) for name, values in scores.items()}
        losses = [row["train/loss"][i] for row in trained.rows[1:]]
        diverged = not np.isfinite([*losses, *test.values()]).all()
        if diverged:
            test = {name: task.chance(name, test_parts[i]) for name in test}
        examples = len(next(iter(test_parts[i].values())))
        history = {
            "epochs": trained.epochs,
            "learning_rate_factor": factor,
            **_history(trained.rows, i),
            "test": {k: _plain(v) for k, v in test.items()} | {"examples": examples},
            **({"exhibit": dict(exhibit)} if exhibit and i == 0 else {}),
        }
        activations = {
            site: {name: [path[0], path[-1]] for name, path in paths.items()}
            | {"inputs": _histogram(histograms[site], i)}
            for site, paths in history["activations"].items()
        }
        found.append(
            _record(
                spec,
                block,
                seed,
                label,
                value=test[spec.metric.name],
                status="diverged" if diverged else "ok",
                history=history,
                activations=activations,
                wall_s=round(trained.seconds / len(block.seeds), 3),
            )
        )
    return found


def failed(spec: Spec, block: Block, error: Exception) -> list[Record]:
    """One record for each seed of a block that an error of the machine stopped."""
    reason = str(error).splitlines()[0]
    return [
        _record(
            spec,
            block,
            seed,
            label="",
            value=None,
            status="failed",
            history={"error": reason},
            activations={},
            wall_s=0.0,
        )
        for seed in block.seeds
    ]


def _record(spec: Spec, block: Block, seed: int, label: str, **outcome: Any) -> Record:
    libraries = ("jax", "jaxlib", "flax", "optax", "numpy")
    return Record(
        experiment=spec.name,
        preset=spec.preset,
        arm=block.arm,
        seed=seed,
        variant=block.variant,
        unit=block.unit,
        metric=spec.metric.name,
        config_hash=spec.config_hash,
        versions={
            "apalu_jax": apalu_jax.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in libraries},
            **({"data": label} if label else {}),
        },
        platform=jax.devices()[0].device_kind,
        **outcome,
    )


def _history(rows: Sequence[Row], i: int) -> dict[str, Any]:
    """What was noted of seed ``i``: a list per metric by part, a path per parameter."""
    history: dict[str, Any] = {"train": {}, "validation": {}, "activations": {}}
    for key in rows[-1]:
        part, _, name = key.partition("/")
        path = [_plain(row[key][i]) for row in rows if key in row]
        if part == "activations":
            site, _, name = name.rpartition("/")
            history[part].setdefault(site, {})[name] = path
        else:
            history.setdefault(part, {})[name] = path
    return history


def _histogram(histogram: Histogram, i: int) -> dict[str, Any]:
    return {
        "low": histogram.low,
        "high": histogram.high,
        "counts": histogram.counts[i].tolist(),
        "below": int(histogram.underflow[i]),
        "above": int(histogram.overflow[i]),
        "nan": int(histogram.nan[i]),
    }


def _plain(values: ArrayLike) -> Any:
    """Numbers as JSON has them: 6 significant digits, None for what is not finite."""
    array = np.asarray(values)
    if array.ndim:
        return [_plain(value) for value in array]
    return float(f"{array:.6g}") if np.isfinite(array) else None
