"""Figures of a report."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from apalu_jax import plotting
from apalu_jax.experiments.analysis import Table
from apalu_jax.experiments.formatting import joined
from apalu_jax.experiments.records import InputCounts, Record, select
from apalu_jax.experiments.report import curves, differences
from apalu_jax.experiments.results import Inputs, Results
from apalu_jax.experiments.specs import Spec
from apalu_jax.functional import APALUParams
from apalu_jax.introspection import Histogram, Snapshot

_LAYERS = 12
"""Number of activations shown of a larger network."""

_GROUPS = ("arm of the family", "ablation")

# Reports are committed: a page of figures stays below some hundred kB.
_DPI = 75


@dataclass(frozen=True)
class Picture:
    """A figure and its caption; a compact one is in the Markdown report too.

    It is drawn when it is first asked for: a table on the terminal needs no figure.
    """

    draw: Callable[[], Figure]
    caption: str
    compact: bool

    @cached_property
    def figure(self) -> Figure:
        """The figure."""
        return self.draw()

    @cached_property
    def png(self) -> bytes:
        """The figure as a file, drawn once for all forms of the report."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=_DPI)
        # A palette of 128 colors takes a third of the bytes, with no visible change.
        image = Image.open(buffer).convert("RGB").quantize(128)
        buffer = io.BytesIO()
        image.save(buffer, format="png", optimize=True)
        return buffer.getvalue()

    def vector(self, ending: str) -> bytes:
        """The figure as "pdf" or "svg"; equal figures give equal files."""
        buffer = io.BytesIO()
        date = {"pdf": "CreationDate", "svg": "Date"}[ending]
        with matplotlib.rc_context({"svg.hashsalt": "apalu"}):
            self.figure.savefig(buffer, format=ending, metadata={date: None})
        return buffer.getvalue()


def draw(results: Results, tables: Sequence[Table]) -> dict[str, Picture]:
    """The figures that the records allow, by the names of their files.

    Curves are those of the first unit, as an average over units would mix scales.
    """
    spec, records = results.spec, results.records
    pictures: dict[str, Picture] = {}
    for table in tables:
        if table.metric.name == spec.metric.name:
            pictures |= _intervals(spec, records, table)
    for variant in spec.variant_names:
        pictures |= _maps(spec, records, variant)
    unit = spec.unit_names[0]
    for variant in spec.variant_names:
        runs = curves.drawn_runs(spec, records, variant)
        where = f" ({joined(variant, unit)})" if variant or unit else ""
        compact = variant == spec.variant_names[0]
        pictures |= _curves(spec, runs, variant, where, compact)
        if compact:
            for arm in spec.all_arms:
                inputs = results.inputs(arm, variant, unit)
                pictures |= _learned(spec, runs, arm, inputs, where)
    return pictures


def _intervals(
    spec: Spec, records: Sequence[Record], table: Table
) -> dict[str, Picture]:
    metric, dots = table.metric, differences.dots(spec, records, table)
    lines = [
        plotting.Interval(
            summary.arm,
            *differences.ends(metric, summary),
            _GROUPS[summary.arm in spec.ablations],
            list(dots[summary.arm].values()),
        )
        for summary in differences.best_first(table)
        if summary.comparison
    ]
    if not lines:
        return {}

    def draw() -> Figure:
        sides = ["worse", "better"] if metric.higher_is_better else ["better", "worse"]
        about = f"test {metric.name}: {spec.reference} - arm{metric.unit(', ')}"
        figure = plotting.plot_intervals(
            lines,
            margin=(metric.shown(-metric.margin), metric.shown(metric.margin)),
            groups=_GROUPS,
            xlabel=f"{spec.reference} {sides[0]}  <  {about}  >  {sides[1]}",
        )
        figure.axes[0].set_xlim(differences.span(table, dots))
        return figure

    variant = f", variant {table.variant}" if table.variant else ""
    side = "right" if metric.higher_is_better else "left"
    caption = (
        f"{spec.reference} - arm, test {metric.name}{variant}: mean and 95 % interval; "
        f"{spec.reference} is the better one on the {side}. Dots: single "
        f"{spec.pair_by}s, as far as they are near. Gray: the margin."
    )
    compact = table.variant == spec.variant_names[0]
    name = joined("intervals", table.variant, by="_")
    return {name: Picture(draw, caption, compact)}


def _maps(spec: Spec, records: Sequence[Record], variant: str) -> dict[str, Picture]:
    """Score maps of runs of the first seed, one figure a unit."""
    found = {}
    for unit in spec.unit_names:
        shown = {
            run.arm: run.figure_data
            for run in select(records, variant, unit=unit)
            if "maps" in run.figure_data
        }
        rows = {arm: shown[arm]["maps"] for arm in spec.all_arms if arm in shown}
        if not rows:
            continue
        masks = next(iter(shown.values()))["masks"]
        place = joined(variant, unit) or "all"
        found[joined("maps", variant, unit, by="_")] = Picture(
            partial(plotting.plot_maps, rows, masks),
            f"Contribution of each pixel to the score of anomalous test images "
            f"({place}), bright where it is high; the outline is the ground truth. "
            "Seed 0.",
            variant == spec.variant_names[0],
        )
    return found


def _curves(
    spec: Spec, runs: Sequence[Record], variant: str, where: str, compact: bool
) -> dict[str, Picture]:
    split, words = curves.watched_split(spec)
    of = f"{words}{where}"
    metric, band = spec.metric.name, "median and middle half of the runs"
    pictures = {}
    for file, of_split, name, caption in (
        (
            "learning_curves",
            split,
            metric,
            f"{metric} on the {of}: {band}, {spec.reference} in every panel.",
        ),
        (
            "training_loss",
            "train",
            "loss",
            f"Training loss{where}, mean over each epoch: {band}.",
        ),
    ):
        found = curves.by_arm(spec, runs, of_split, name)
        if found:
            epochs = np.asarray(runs[0].history.epochs[1:])
            draw = partial(_learning_curves, spec, found, epochs, of_split, name)
            pictures[joined(file, variant, by="_")] = Picture(draw, caption, compact)
    return pictures


def _learning_curves(
    spec: Spec,
    found: dict[str, NDArray[np.float64]],
    epochs: NDArray[np.int_],
    split: str,
    name: str,
) -> Figure:
    percent = spec.metric.percent and name == spec.metric.name
    figure = plotting.plot_learning_curves(
        found,
        steps=epochs,
        ylabel=f"{split.removesuffix('_curve')} {name}{', %' if percent else ''}",
        against=spec.reference if spec.reference in found else None,
    )
    if curves.is_logarithmic(spec, name, found):
        for axes in figure.axes:
            axes.set_yscale("log")
    return figure


def _learned(
    spec: Spec, runs: Sequence[Record], arm: str, inputs: Inputs, where: str
) -> dict[str, Picture]:
    """Learned functions and parameter curves of an arm with a and b; else empty."""
    found = curves.parameters(runs, arm)
    if not found:
        return {}
    sites = list(found)
    chosen = curves.some_sites(sites, _LAYERS)
    some = quartiles = ""
    if len(chosen) < len(sites):
        some = f" {len(chosen)} of {len(sites)} layers, evenly spaced."
    if found[sites[0]].ndim > 3:
        quartiles = " The curves of a layer are the quartiles over its channels."
    compact = arm == spec.reference

    def shapes() -> Figure:
        return plotting.plot_layers(
            {site: APALUParams(*found[site][:, :, -1]) for site in chosen},
            histograms={site: _histogram(inputs[site]) for site in chosen},
        )

    def evolution() -> Figure:
        epochs_first = {
            site: APALUParams(*np.moveaxis(ab, 2, 1)) for site, ab in found.items()
        }
        figure = plotting.plot_evolution(
            Snapshot(step=jnp.asarray(runs[0].history.epochs), params=epochs_first)
        )
        for axes in figure.axes[:2]:
            axes.set_xlabel("epoch")
        return figure

    return {
        f"shapes_{arm}": Picture(
            shapes,
            f"Functions learned by {arm}{where}, one panel a layer: mean and band of "
            f"the runs, over the density of their inputs on the test split.{some}"
            f"{quartiles}",
            compact,
        ),
        f"evolution_{arm}": Picture(
            evolution,
            f"a and b of {arm} over training{where}: mean and band of the "
            f"runs.{quartiles}",
            compact,
        ),
    }


def _histogram(inputs: InputCounts) -> Histogram:
    counts = [inputs.below, *inputs.counts, inputs.above, inputs.nan]
    words = np.asarray(counts, np.uint64)
    return Histogram(
        jnp.asarray(words & np.uint64(2**32 - 1), jnp.uint32),
        jnp.asarray(words >> np.uint64(32), jnp.uint32),
        inputs.low,
        inputs.high,
    )
