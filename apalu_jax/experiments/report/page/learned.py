"""Learned functions, and a and b over training."""

import base64
import io
from collections.abc import Mapping

import numpy as np
from markupsafe import Markup
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from apalu_jax.experiments.records import InputCounts
from apalu_jax.experiments.report.page.charts import shortened
from apalu_jax.experiments.report.page.parts import Cell, Chart, Grid
from apalu_jax.experiments.report.page.svg import Axis, Frame, drawing, limits, text
from apalu_jax.functional import APALUParams, apalu

Parameters = Mapping[str, NDArray[np.float64]]
"""a and b by site, [2, runs, epochs] or [2, runs, epochs, quartiles]."""

_X = np.linspace(-4.0, 4.0, 33)
_NEGATIVE = np.linspace(-6.0, 0.0, 21)

# More layers than lines can show become the rows of a map.
_LINES = 8


def shapes(
    parameters: Parameters, inputs: Mapping[str, InputCounts], caption: str
) -> Chart:
    """Each layer's function at the start and at the end; the negative side enlarged."""
    known = {}
    for site, ab in parameters.items():
        known[site] = [
            [_curves(ab[:, :, epoch], x) for epoch in (0, -1)] for x in (_X, _NEGATIVE)
        ]
    ends = [limits(*(c for k in known.values() for c in k[side])) for side in (0, 1)]
    drawings = []
    for site, sides in known.items():
        frames = [
            Frame(Axis(-4, 4, 32, 180), Axis(*ends[0], 156, 36)),
            Frame(Axis(-6, 0, 240, 330), Axis(*ends[1], 156, 36)),
        ]
        (a0, b0), (a, b) = (
            parameters[site][:, :, epoch].reshape(2, -1).mean(1) for epoch in (0, -1)
        )
        parts = [
            text(32, 13, shortened(site, 44), style="name"),
            text(32, 28, f"a {a0:.3g} → {a:.3g}, b {b0:.3g} → {b:.3g}", style="soft"),
        ]
        if site in inputs:
            parts.append(_density(frames[0], inputs[site]))
        for frame, x, (start, end), label in zip(
            frames, (_X, _NEGATIVE), sides, ("input x", "x below 0"), strict=True
        ):
            parts.append(frame.axes(label, (4 if x is _X else 3, 4)))
            parts.append(frame.line(x, start.mean(1), "line start"))
            parts.append(frame.band(x, end.min(1), end.max(1), "r"))
            parts.append(frame.line(x, end.mean(1), "line r"))
        alt = (
            f"{site}: f(x) at the start (a = {a0:.3g}, b = {b0:.3g}) and learned "
            f"(a = {a:.3g}, b = {b:.3g})"
        )
        drawings.append(drawing(340, 188, alt, parts))
    legend = [("line start", "at the start"), ("line r", "learned: mean and range")]
    if inputs:
        legend.append(("density", "density of inputs"))
    return Chart("", caption, drawings, legend)


def evolution(
    parameters: Parameters, epochs: NDArray[np.float64], caption: str
) -> Chart:
    """Draw a and b of every layer over training: lines, or a map of many layers."""
    draw = _lines if len(parameters) <= _LINES else _map
    drawings = [draw(parameters, epochs, index) for index in (0, 1)]
    legend = []
    if len(parameters) <= _LINES:
        legend = [(f"line l{i}", site) for i, site in enumerate(parameters)]
    return Chart("", caption, drawings, legend)


def final_values(parameters: Parameters) -> Grid:
    """Tabulate a and b of every layer at both ends of training."""
    rows = []
    for site, ab in parameters.items():
        row = [Cell(site)]
        for values in ab:
            start, end = values[:, 0], values[:, -1]
            row.append(Cell(f"{start.mean():.4g}"))
            row.append(Cell(f"{end.mean():.4g}", f"{end.min():.3g} to {end.max():.3g}"))
        rows.append(row)
    header = [
        "layer",
        "a at the start",
        "a at the end",
        "b at the start",
        "b at the end",
    ]
    return Grid(
        "Values by layer: mean and range of the runs", header, rows, folded=True
    )


def _curves(ab: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The function of every pair, [points, pairs]."""
    a, b = ab.reshape(2, -1).astype(np.float32)
    points = np.repeat(x.astype(np.float32)[:, None], a.size, 1)
    return np.asarray(apalu(points, APALUParams(a, b)), np.float64)


def _density(frame: Frame, inputs: InputCounts) -> str:
    """The histogram of the inputs behind the curves, with no scale of its own."""
    edges = np.linspace(inputs.low, inputs.high, len(inputs.counts) + 1)
    counts = np.asarray(inputs.counts, float)
    inside = (edges[:-1] >= frame.x.low - 1e-9) & (edges[1:] <= frame.x.high + 1e-9)
    if not counts[inside].any():
        return ""
    bottom, top = frame.y.start, frame.y.end
    heights = bottom - (bottom - top) * 0.7 * counts[inside] / counts[inside].max()
    step = (frame.x.end - frame.x.start) / inside.sum()
    tops = "".join(f"V{y:.0f}h{step:.2f}" for y in heights)
    start = frame.x.at(edges[:-1][inside][0])
    return f'<path class="density" d="M{start:.1f} {bottom:g}{tops}V{bottom:g}z"/>'


def _lines(parameters: Parameters, epochs: NDArray[np.float64], index: int) -> Markup:
    name, by_site = "ab"[index], {s: _runs(ab[index]) for s, ab in parameters.items()}
    frame = Frame(
        Axis(float(epochs[0]), max(float(epochs[-1]), 1e-9), 44, 330, whole=True),
        Axis(*limits(*by_site.values()), 160, 26),
    )
    parts = [text(44, 14, name, style="name"), frame.axes("epoch", (5, 4))]
    for number, values in enumerate(by_site.values()):
        parts.append(frame.band(epochs, values.min(0), values.max(0), f"l{number}"))
        parts.append(frame.line(epochs, values.mean(0), f"line l{number}"))
    said = "; ".join(
        f"{site} {v[:, 0].mean():.3g} to {v[:, -1].mean():.3g}"
        for site, v in by_site.items()
    )
    return drawing(340, 192, f"{name} over training: {said}", parts)


def _map(parameters: Parameters, epochs: NDArray[np.float64], index: int) -> Markup:
    """A row a layer, a column a logged epoch; the color is the mean of the runs."""
    name = "ab"[index]
    rows = np.asarray([_runs(ab[index]).mean(0) for ab in parameters.values()])
    low, high = float(rows.min()), float(rows.max())
    height = max(120, 7 * len(rows))
    bottom = 26 + height
    bar = np.linspace(0.0, 1.0, 64)[None]
    parts = [
        text(72, 14, name, style="name"),
        _image((rows - low) / ((high - low) or 1.0), (72, 26, 258, height)),
        text(68, 34, shortened(next(iter(parameters)), 11), "end"),
        text(68, bottom, shortened(list(parameters)[-1], 11), "end"),
        text(68, 30 + height / 2, f"{len(rows)} layers", "end", "soft"),
        text(72, bottom + 13, f"epoch {epochs[0]:g}"),
        text(330, bottom + 13, f"{epochs[-1]:g}", "end"),
        _image(bar, (140, bottom + 22, 120, 9)),
        text(136, bottom + 31, f"{low:.3g}", "end"),
        text(264, bottom + 31, f"{high:.3g}"),
    ]
    alt = (
        f"{name} of {len(rows)} layers over training: {rows[:, 0].min():.3g} to "
        f"{rows[:, 0].max():.3g} at the start, {rows[:, -1].min():.3g} to "
        f"{rows[:, -1].max():.3g} at the end"
    )
    return drawing(340, bottom + 38, alt, parts)


def _image(shares: NDArray[np.float64], box: tuple[float, float, float, float]) -> str:
    colors = (colormaps["cividis"](shares)[..., :3] * 255).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colors).save(buffer, format="png", optimize=True)
    x, y, width, height = box
    return (
        f'<image x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" '
        'preserveAspectRatio="none" href="data:image/png;base64,'
        f'{base64.b64encode(buffer.getvalue()).decode()}"/>'
    )


def _runs(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """[runs, epochs] or [runs, epochs, quartiles] as [lines, epochs]."""
    return np.moveaxis(values, 1, -1).reshape(-1, values.shape[1])
