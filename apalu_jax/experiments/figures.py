"""From records to figures."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from apalu_jax import plotting
from apalu_jax.experiments.records import Record
from apalu_jax.experiments.specs import Spec
from apalu_jax.functional import APALUParams
from apalu_jax.introspection import Histogram, Snapshot

__all__ = ("draw",)


def draw(spec: Spec, records: Sequence[Record]) -> dict[str, tuple[Figure, str]]:
    """Draws what the records can show.

    Args:
      spec: The experiment.
      records: Its runs so far.

    Returns:
      From a name for a file to the figure and its caption.
    """
    done = [record for record in records if record.status != "failed"]
    figures = {}
    if done:
        figures["learning_curves"] = (
            _learning_curves(spec, done, "validation", spec.metric.name),
            f"{spec.metric.name} on the validation part: median and middle half of "
            "the runs. No decision was taken on it.",
        )
        loss = _learning_curves(spec, done, "train", "loss")
        loss.axes[0].set_yscale("log")
        figures["training_loss"] = (
            loss,
            "Training loss, mean over each epoch: median and middle half of the runs.",
        )
    for arm in spec.arms:
        runs = [r for r in done if r.arm == arm and r.status == "ok" and r.activations]
        if not runs:
            continue
        figures[f"shapes_{arm}"] = (
            plotting.plot_layers(_ends(runs), histograms=_inputs(runs)),
            f"The functions that {arm} has learned, layer by layer: mean and band of "
            "the runs, over the density of their inputs on the test part.",
        )
        evolution = plotting.plot_evolution(_evolution(runs))
        for axes in evolution.axes:
            axes.set_xlabel("epoch")
        figures[f"evolution_{arm}"] = (
            evolution,
            f"a and b of {arm} over training: mean and band of the runs.",
        )
    return figures


def _learning_curves(
    spec: Spec, records: Sequence[Record], part: str, name: str
) -> Figure:
    percent = spec.metric.percent and name == spec.metric.name
    curves = {}
    for arm in spec.all_arms:
        runs = [record.history[part][name] for record in records if record.arm == arm]
        if runs:
            curves[arm] = np.asarray(runs, np.float64) * (100 if percent else 1)
    label = f"{part} {name}" + (", %" if percent else "")
    return plotting.plot_learning_curves(curves, ylabel=label)


def _ends(runs: Sequence[Record]) -> dict[str, APALUParams]:
    return {
        site: APALUParams(
            *(_stack(run.activations[site][name][1] for run in runs) for name in "ab")
        )
        for site in runs[0].activations
    }


def _inputs(runs: Sequence[Record]) -> dict[str, Histogram]:
    def histogram(site: str) -> Histogram:
        found = [run.activations[site]["inputs"] for run in runs]
        words = jnp.asarray(
            [[h["below"], *h["counts"], h["above"], h["nan"]] for h in found],
            jnp.uint32,
        )
        low, high = found[0]["low"], found[0]["high"]
        return Histogram(words, jnp.zeros_like(words), low, high)

    return {site: histogram(site) for site in runs[0].activations}


def _evolution(runs: Sequence[Record]) -> Snapshot:
    paths = [run.history["activations"] for run in runs]
    params = {
        site: APALUParams(
            # Epochs along axis 0, as the figure wants them; runs behind.
            *(np.moveaxis(_stack(p[site][name] for p in paths), 1, 0) for name in "ab")
        )
        for site in paths[0]
    }
    epochs = len(runs[0].history["train"]["loss"])
    return Snapshot(step=jnp.arange(epochs + 1), params=params)


def _stack(values: Iterable[Any]) -> NDArray[np.float64]:
    return np.asarray(list(values), np.float64)
