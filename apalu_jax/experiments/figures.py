"""From records to figures."""

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from apalu_jax import plotting
from apalu_jax.experiments.records import Record
from apalu_jax.experiments.specs import Spec
from apalu_jax.experiments.statistics import Table
from apalu_jax.experiments.statistics.numbers import in_shown_unit, shown_unit
from apalu_jax.functional import APALUParams
from apalu_jax.introspection import Histogram, Snapshot

__all__ = ("Picture", "draw")

_LAYERS = 12
"""Of networks with more activations, this many are shown."""

# Reports are committed: a page of figures stays below some hundred kB.
_DPI = 75


@dataclass(frozen=True)
class Picture:
    """A figure of a report.

    Attributes:
      figure: The figure.
      caption: What it shows.
      compact: Whether it is in the short forms of the report too.
    """

    figure: Figure
    caption: str
    compact: bool

    @cached_property
    def png(self) -> bytes:
        """The figure as a file, drawn once for all forms of the report."""
        buffer = io.BytesIO()
        options = {"optimize": True}
        self.figure.savefig(buffer, format="png", dpi=_DPI, pil_kwargs=options)
        return buffer.getvalue()


def draw(
    spec: Spec, records: Sequence[Record], tables: Sequence[Table]
) -> dict[str, Picture]:
    """Draws what the records can show.

    Args:
      spec: The experiment.
      records: Its runs so far.
      tables: What :func:`~apalu_jax.experiments.statistics.summarize` made of them.

    Returns:
      From a name for a file to the picture. Curves are those of the first unit, as an
      average over units would mix scales.
    """
    pictures: dict[str, Picture] = {}
    for table in tables:
        if table.metric.name == spec.metric.name:
            pictures |= _intervals(spec, table)
    for variant in spec.variant_names:
        pictures |= _maps(spec, records, variant)
    unit = spec.unit_names[0]
    for variant in spec.variant_names:
        runs = [
            r
            for r in records
            if (r.variant, r.unit) == (variant, unit) and r.status != "failed"
        ]
        where = f" of {', '.join(filter(None, (variant, unit)))}"
        where = where if variant or unit else ""
        name = f"_{variant}" if variant else ""
        compact = variant == spec.variant_names[0]
        pictures |= _curves(spec, runs, name, where, compact)
        if compact:
            for arm in spec.all_arms:
                pictures |= _learned(spec, runs, arm, where)
    return pictures


def _intervals(spec: Spec, table: Table) -> dict[str, Picture]:
    metric = table.metric
    lines = []
    for summary in table.arms:
        comparison = summary.comparison
        if comparison is None:
            continue
        ends = comparison.interval or (math.nan, math.nan)
        mean, low, high = (in_shown_unit(metric, x) for x in (comparison.mean, *ends))
        group = "control" if summary.arm in spec.controls else "arm of the family"
        lines.append(plotting.Interval(summary.arm, mean, low, high, group))
    if not lines:
        return {}
    unit = f", {shown_unit(metric)}" if shown_unit(metric) else ""
    margin = in_shown_unit(metric, -metric.margin), in_shown_unit(metric, metric.margin)
    figure = plotting.plot_intervals(
        lines,
        margin=margin,
        xlabel=f"test {metric.name}: {spec.reference} - arm{unit}",
    )
    variant = f", variant {table.variant}" if table.variant else ""
    side = "right" if metric.higher_is_better else "left"
    caption = (
        f"{spec.reference} - arm, test {metric.name}{variant}: mean and 95 % interval; "
        f"{spec.reference} is the better one on the {side}. Grey: the margin."
    )
    name = f"intervals_{table.variant}" if table.variant else "intervals"
    return {name: Picture(figure, caption, table.variant == spec.variant_names[0])}


def _maps(spec: Spec, records: Sequence[Record], variant: str) -> dict[str, Picture]:
    """Maps of pixels that runs of the first seed exhibit, one figure a unit."""
    found = {}
    for unit in spec.unit_names:
        shown = {
            run.arm: run.history["exhibit"]
            for run in records
            if (run.variant, run.unit) == (variant, unit)
            and "maps" in run.history.get("exhibit", {})
        }
        rows = {arm: shown[arm]["maps"] for arm in spec.all_arms if arm in shown}
        if not rows:
            continue
        masks = next(iter(shown.values()))["masks"]
        place = ", ".join(filter(None, (variant, unit)))
        found["_".join(filter(None, ("maps", variant, unit)))] = Picture(
            plotting.plot_maps(rows, masks),
            f"Where the score comes from in anomalous test images ({place or 'all'}): "
            "bright is what it depends on, the outline what is anomalous. Seed 0.",
            variant == spec.variant_names[0],
        )
    return found


def _curves(
    spec: Spec, runs: Sequence[Record], name: str, where: str, compact: bool
) -> dict[str, Picture]:
    metric = spec.metric
    found = {}
    part = "watched" if spec.watch_test else "validation"
    figure = _learning_curves(spec, runs, part, metric.name)
    if figure:
        of = "test part, watched only" if spec.watch_test else "validation part"
        found[f"learning_curves{name}"] = Picture(
            figure,
            f"{metric.name} on the {of}{where}: median and middle half of the runs, "
            f"{spec.reference} in every panel.",
            compact,
        )
    figure = _learning_curves(spec, runs, "train", "loss")
    if figure:
        found[f"training_loss{name}"] = Picture(
            figure,
            f"Training loss{where}, mean over each epoch: median and middle half of "
            "the runs.",
            compact,
        )
    return found


def _learning_curves(
    spec: Spec, runs: Sequence[Record], part: str, name: str
) -> Figure | None:
    percent = spec.metric.percent and name == spec.metric.name
    curves = {}
    for arm in spec.all_arms:
        paths = [
            run.history[part][name]
            for run in runs
            if run.arm == arm and name in run.history[part]
        ]
        if paths:
            curves[arm] = np.asarray(paths, np.float64) * (100 if percent else 1)
    if not curves:
        return None
    figure = plotting.plot_learning_curves(
        curves,
        steps=runs[0].history["epochs"][1:],
        ylabel=f"{'test' if part == 'watched' else part} {name}"
        + (", %" if percent else ""),
        against=spec.reference if spec.reference in curves else None,
    )
    falls = name == "loss" or not spec.metric.higher_is_better
    if falls and not any((values <= 0).any() for values in curves.values()):
        for axes in figure.axes:
            axes.set_yscale("log")
    return figure


def _learned(
    spec: Spec, runs: Sequence[Record], arm: str, where: str
) -> dict[str, Picture]:
    """What an arm with parameters a and b has learned; nothing of any other."""
    own = [r for r in runs if r.arm == arm and r.status == "ok" and r.activations]
    if not own or not _moved(own):
        return {}
    sites = list(own[0].activations)
    chosen = _spaced(sites)
    some = (
        f" {len(chosen)} of {len(sites)} layers, evenly spaced."
        if len(chosen) < len(sites)
        else ""
    )
    quartiles = (
        " Of each layer the quartiles over its channels are drawn."
        if np.ndim(own[0].activations[sites[0]]["a"][1])
        else ""
    )
    compact = arm == spec.reference
    shapes = plotting.plot_layers(_ends(own, chosen), histograms=_inputs(own, chosen))
    evolution = plotting.plot_evolution(_evolution(own))
    for axes in evolution.axes[:2]:
        axes.set_xlabel("epoch")
    return {
        f"shapes_{arm}": Picture(
            shapes,
            f"The functions that {arm} has learned{where}, layer by layer: mean and "
            f"band of the runs, over the density of their inputs on the test part."
            f"{some}{quartiles}",
            compact,
        ),
        f"evolution_{arm}": Picture(
            evolution,
            f"a and b of {arm} over training{where}: mean and band of the "
            f"runs.{quartiles}",
            compact,
        ),
    }


def _moved(runs: Sequence[Record]) -> bool:
    return any(
        paths[name][0] != paths[name][1]
        for run in runs
        for paths in run.activations.values()
        for name in "ab"
    )


def _spaced(sites: Sequence[str]) -> list[str]:
    places = np.linspace(0, len(sites) - 1, min(len(sites), _LAYERS))
    return [sites[round(place)] for place in places]


def _ends(runs: Sequence[Record], sites: Sequence[str]) -> dict[str, APALUParams]:
    return {
        site: APALUParams(
            *(_stack(run.activations[site][name][1] for run in runs) for name in "ab")
        )
        for site in sites
    }


def _inputs(runs: Sequence[Record], sites: Sequence[str]) -> dict[str, Histogram]:
    def histogram(site: str) -> Histogram:
        found = [run.activations[site]["inputs"] for run in runs]
        words = jnp.asarray(
            [[h["below"], *h["counts"], h["above"], h["nan"]] for h in found],
            jnp.uint32,
        )
        low, high = found[0]["low"], found[0]["high"]
        return Histogram(words, jnp.zeros_like(words), low, high)

    return {site: histogram(site) for site in sites}


def _evolution(runs: Sequence[Record]) -> Snapshot:
    paths = [run.history["activations"] for run in runs]
    params = {
        site: APALUParams(
            # Epochs along axis 0, as the figure wants them; runs behind.
            *(np.moveaxis(_stack(p[site][name] for p in paths), 1, 0) for name in "ab")
        )
        for site in paths[0]
    }
    return Snapshot(step=jnp.asarray(runs[0].history["epochs"]), params=params)


def _stack(values: Iterable[Any]) -> NDArray[np.float64]:
    return np.asarray(list(values), np.float64)
