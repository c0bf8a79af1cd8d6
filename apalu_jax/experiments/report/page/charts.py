"""Differences with their intervals, and learning curves."""

import math
import warnings
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from apalu_jax.experiments.analysis import Table
from apalu_jax.experiments.formatting import joined
from apalu_jax.experiments.records import Record
from apalu_jax.experiments.report import differences
from apalu_jax.experiments.report.page.parts import Chart
from apalu_jax.experiments.report.page.svg import Axis, Frame, drawing, limits, text
from apalu_jax.experiments.specs import Metric, Spec

# Shares of the width, in percent: the names of arms end where the differences begin.
_NAMES, _END = 30.0, 98.0
_ROW = 26


def intervals(
    spec: Spec, records: Sequence[Record], table: Table, *, named: bool
) -> Chart | None:
    """Mean differences with 95 % intervals and a dot for every pair, best arm first.

    If ``named``, a dot tells its seed or unit, and takes twice the bytes.
    """
    metric = table.metric
    arms = [s for s in differences.best_first(table) if s.comparison]
    if not arms:
        return None
    dots = differences.dots(spec, records, table)
    axis = Axis(*differences.span(table, dots), _NAMES, _END)
    bottom = _ROW * len(arms) + 8
    parts = [*_background(metric, axis, bottom), *_sides(spec, metric, axis, bottom)]
    for row, summary in enumerate(arms):
        kind = "seed " if spec.pair_by == "seed" else ""
        marks = (
            _dot(axis, value, f"{kind}{key}: {value:+.3g}" if named else "")
            for key, value in dots[summary.arm].items()
        )
        style = "b" if summary.arm in spec.ablations else "a"
        parts.append(
            f'<g transform="translate(0 {_ROW * row + _ROW // 2 + 4})">'
            f'<g class="dots">{"".join(marks)}</g>'
            f"{_mean(axis, summary.arm, differences.ends(metric, summary), style)}</g>"
        )
    said = (
        f"{s.arm} {metric.difference_text(s.comparison.mean)} "
        f"({metric.interval_text(s.comparison.interval)})"
        for s in arms
        if s.comparison
    )
    subject = f"{spec.reference} − arm, test {metric.name}{metric.unit(', in ')}"
    alt = escape(f"{subject}: {'; '.join(said)}")
    figure = Markup(
        f'<svg role="img" width="100%" height="{bottom + 40}" aria-label="{alt}">'
        f"{''.join(parts)}</svg>"
    )
    legend = [("mean a", "mean and 95 % interval"), ("dot", f"one {spec.pair_by}")]
    if any(summary.arm in spec.ablations for summary in arms):
        legend.append(("mean b", "ablation (exploratory)"))
    legend.append(("margin", f"margin, ±{metric.margin_text}"))
    return Chart("", f"{subject}; the best arm on top.", [figure], legend, wide=True)


def _background(metric: Metric, axis: Axis, bottom: int) -> list[str]:
    """The margin, a grid with its labels, and a line at zero."""
    left, right = (axis.at(metric.shown(m)) for m in (-metric.margin, metric.margin))
    zero = axis.at(0)
    return [
        f'<rect class="margin" x="{left:.2f}%" width="{right - left:.2f}%" y="0" '
        f'height="{bottom}"/>',
        *(
            f'<line class="grid" x1="{x:.2f}%" x2="{x:.2f}%" y1="0" y2="{bottom}"/>'
            f'<text x="{x:.2f}%" y="{bottom + 14}" text-anchor="middle">{label}</text>'
            for x, label in axis.ticks(5)
        ),
        f'<line class="zero" x1="{zero:.2f}%" x2="{zero:.2f}%" y1="0" y2="{bottom}"/>',
    ]


def _mean(axis: Axis, arm: str, ends: tuple[float, float, float], style: str) -> str:
    """The name of an arm, its interval and its mean."""
    middle, left, right = (f"{axis.at(axis.clip(end)):.2f}%" for end in ends)
    line = f'<line class="ci {style}" x1="{left}" x2="{right}"/>'
    return (
        f'<text class="name" x="{_NAMES - 1.5}%" y="4" text-anchor="end">'
        f"{escape(shortened(arm, 15))}</text>{line if ends[1] < ends[2] else ''}"
        f'<circle class="mean {style}" cx="{middle}" r="5"/>'
    )


def _sides(spec: Spec, metric: Metric, axis: Axis, bottom: int) -> list[str]:
    """The words at both sides of zero."""
    zero, y = axis.at(0), bottom + 32
    words = ["worse", "better"] if metric.higher_is_better else ["better", "worse"]
    left, right = (f"{spec.reference} {word}" for word in words)
    return [
        f'<text class="{words[0]}" x="{zero - 1:.2f}%" y="{y}" text-anchor="end">'
        f"← {escape(left)}</text>",
        f'<text class="{words[1]}" x="{zero + 1:.2f}%" y="{y}">'
        f"{escape(right)} →</text>",
    ]


def _dot(axis: Axis, shown: float, name: str) -> str:
    clipped = axis.clip(shown)
    x, title = f"{axis.at(clipped):.1f}%", f"<title>{escape(name)}</title>" * bool(name)
    if shown == clipped:
        return f'<circle cx="{x}">{title}</circle>' if title else f'<circle cx="{x}"/>'
    sign, anchor = ("‹", "start") if shown < clipped else ("›", "end")
    return f'<text x="{x}" y="4" text-anchor="{anchor}">{sign}{title}</text>'


def learning_curves(
    spec: Spec,
    curves: Mapping[str, NDArray[np.float64]],
    epochs: NDArray[np.float64],
    *,
    label: str,
    log: bool,
    caption: str,
    anchor: str,
) -> Chart:
    """Every arm beside the reference, from the first epoch, and the end enlarged.

    ``curves`` are [runs, epochs] by arm; a value that is not finite is left out.
    ``anchor`` is an id of its own on the page.
    """
    found = {arm: _quartiles(values) for arm, values in curves.items()}
    whole = limits(*(v for own in found.values() for v in own), log=log)
    last = -max(2, math.ceil(len(epochs) / 4))
    base, narrow = found.get(spec.reference), slice(last, None)
    frame = Frame(Axis(*_span(epochs), 40, 196, whole=True), Axis(*whole, 150, 26, log))
    # The same in every panel: drawn in the first one, repeated in the others.
    shared = (
        f'<g id="{anchor}">{frame.axes("epoch")}{_run(frame, epochs, base, "r")}</g>'
    )
    drawings = []
    for arm, own in found.items():
        if arm == spec.reference and len(found) > 1:
            continue
        parts = [text(40, 14, arm, style="name"), shared, _run(frame, epochs, own, "a")]
        shared = f'<use href="#{anchor}"/>'
        if len(epochs) > 2:
            parts.append(_end(epochs[narrow], own[:, narrow], base, log))
        both = {arm: own} if base is None else {spec.reference: base, arm: own}
        said = ", ".join(f"{a} {v[1][-1]:.4g}" for a, v in both.items())
        alt = f"{label} over training; medians after epoch {epochs[-1]:g}: {said}"
        lost = int((~np.isfinite(curves[arm][:, -1])).sum())
        if lost:
            diverged = f"{lost} of {len(curves[arm])} diverged"
            parts.append(text(330, 14, diverged, "end", "worse"))
            alt += f"; {diverged}"
        drawings.append(drawing(340, 182, alt, parts))
    legend = [("line r", spec.reference)] if base is not None else []
    legend.append(("line a", "the arm named above"))
    return Chart(label, caption, drawings, legend)


def _end(
    epochs: NDArray[np.float64],
    own: NDArray[np.float64],
    base: NDArray[np.float64] | None,
    log: bool,
) -> str:
    """The last epochs of an arm and of the reference, on a scale of their own."""
    behind = None if base is None else base[:, -len(epochs) :]
    shown = own if behind is None else np.concatenate([behind, own])
    frame = Frame(
        Axis(*_span(epochs), 246, 330, whole=True),
        Axis(*limits(shown, log=log), 150, 26, log),
    )
    lines = _run(frame, epochs, behind, "r") + _run(frame, epochs, own, "a")
    return frame.axes("the end", (2, 4)) + lines


def _run(
    frame: Frame,
    epochs: NDArray[np.float64],
    quartiles: NDArray[np.float64] | None,
    style: str,
) -> str:
    """The median in the band of the quartiles."""
    if quartiles is None:
        return ""
    low, middle, high = quartiles
    band = frame.band(epochs, low, high, style)
    return band + frame.line(epochs, middle, f"line {style}")


def _quartiles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    values = np.where(np.isfinite(values), values, np.nan)
    with warnings.catch_warnings():
        # Where every run has diverged, the line ends.
        warnings.filterwarnings("ignore", "All-NaN slice")
        return np.asarray(np.nanquantile(values, (0.25, 0.5, 0.75), axis=0))


def _span(epochs: NDArray[np.float64]) -> tuple[float, float]:
    low, high = float(epochs[0]), float(epochs[-1])
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def shortened(name: str, length: int) -> str:
    """The end of a name that is too long."""
    return name if len(name) <= length else f"…{name[1 - length :]}"


def place(variant: str, unit: str) -> str:
    """Variant and unit in brackets, after a blank; "" without any."""
    where = joined(variant, unit)
    return f" ({where})" if where else ""
