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
    margin = [metric.shown(-metric.margin), metric.shown(metric.margin)]
    axis = Axis(*differences.span(table, dots), _NAMES, _END)
    bottom = _ROW * len(arms) + 8
    parts = [
        _rect(axis, margin, bottom),
        *(
            f'<line class="grid" x1="{x:.2f}%" x2="{x:.2f}%" y1="0" y2="{bottom}"/>'
            f'<text x="{x:.2f}%" y="{bottom + 14}" text-anchor="middle">{label}</text>'
            for x, label in axis.ticks(5)
        ),
        f'<line class="zero" x1="{axis.at(0):.2f}%" x2="{axis.at(0):.2f}%" y1="0" '
        f'y2="{bottom}"/>',
        *_sides(spec, metric, axis.at(0), bottom + 32),
    ]
    for row, summary in enumerate(arms):
        y = _ROW * row + _ROW / 2 + 4
        mean, left, right = differences.ends(metric, summary)
        style = "b" if summary.arm in spec.ablations else "a"
        parts.append(
            f'<text class="name" x="{_NAMES - 1.5}%" y="{y + 4}" text-anchor="end">'
            f"{escape(shortened(summary.arm, 15))}</text>"
        )
        pairs = dots[summary.arm].items()
        kind = "seed " if spec.pair_by == "seed" else ""
        marks = (
            _dot(axis, value, f"{kind}{key}: {value:+.3g}" if named else "")
            for key, value in pairs
        )
        parts.append(
            f'<g class="dots" transform="translate(0 {y:g})">{"".join(marks)}</g>'
        )
        if np.isfinite([left, right]).all():
            parts.append(
                f'<line class="ci {style}" x1="{axis.at(left):.2f}%" '
                f'x2="{axis.at(right):.2f}%" y1="{y}" y2="{y}"/>'
            )
        parts.append(
            f'<circle class="mean {style}" cx="{axis.at(mean):.2f}%" cy="{y}" r="5"/>'
        )
    alt = f"{_subject(spec, metric)}: " + "; ".join(
        f"{s.arm} {metric.difference_text(s.comparison.mean)} "
        f"({metric.interval_text(s.comparison.interval)})"
        for s in arms
        if s.comparison
    )
    figure = Markup(
        f'<svg role="img" width="100%" height="{bottom + 40}" '
        f'aria-label="{escape(alt)}">{"".join(parts)}</svg>'
    )
    of = "seed" if spec.pair_by == "seed" else "unit"
    legend = [("mean a", "mean and 95 % interval"), ("dot", f"one {of}")]
    if {s.arm for s in arms} & {*spec.ablations}:
        legend.append(("mean b", "ablation (exploratory)"))
    legend.append(("margin", f"margin, ±{metric.margin_text}"))
    return Chart(
        "",
        f"{_subject(spec, metric)}; the best arm on top.",
        [figure],
        legend,
        wide=True,
    )


def _subject(spec: Spec, metric: Metric) -> str:
    return f"{spec.reference} − arm, test {metric.name}{metric.unit(', in ')}"


def _rect(axis: Axis, ends: Sequence[float], height: float) -> str:
    left, right = map(axis.at, ends)
    return (
        f'<rect class="margin" x="{left:.2f}%" width="{right - left:.2f}%" y="0" '
        f'height="{height}"/>'
    )


def _sides(spec: Spec, metric: Metric, zero: float, y: float) -> list[str]:
    """The words at both sides of zero."""
    words = ["worse", "better"] if metric.higher_is_better else ["better", "worse"]
    left, right = (f"{spec.reference} {word}" for word in words)
    return [
        f'<text class="{words[0]}" x="{zero - 1:.2f}%" y="{y}" text-anchor="end">'
        f"← {escape(left)}</text>",
        f'<text class="{words[1]}" x="{zero + 1:.2f}%" y="{y}">'
        f"{escape(right)} →</text>",
    ]


def _dot(axis: Axis, shown: float, name: str) -> str:
    clipped = min(max(shown, axis.low), axis.high)
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
            both = [each[:, narrow] for each in (base, own) if each is not None]
            end = Frame(
                Axis(*_span(epochs[narrow]), 246, 330, whole=True),
                Axis(*limits(*both, log=log), 150, 26, log),
            )
            parts.append(end.axes("the end", (2, 4)))
            for style, quartiles in zip("ra"[-len(both) :], both, strict=True):
                parts.append(_run(end, epochs[narrow], quartiles, style))
        lost = int((~np.isfinite(curves[arm][:, -1])).sum())
        said = ", ".join(
            f"{a} {found[a][1][-1]:.4g}"
            for a in dict.fromkeys((spec.reference, arm))
            if a in found
        )
        alt = f"{label} over training; medians after epoch {epochs[-1]:g}: {said}"
        if lost:
            diverged = f"{lost} of {len(curves[arm])} diverged"
            parts.append(text(330, 14, diverged, "end", "worse"))
            alt += f"; {diverged}"
        drawings.append(drawing(340, 182, alt, parts))
    legend = [("line r", spec.reference)] if base is not None else []
    legend.append(("line a", "the arm named above"))
    return Chart(label, caption, drawings, legend)


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
