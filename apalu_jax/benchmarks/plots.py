"""Figures of results: bandwidth under the roof of a copy, and ratios as bars."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product, zip_longest
from typing import Any, TypeAlias

from matplotlib.figure import Figure

from apalu_jax.benchmarks import BenchmarkError, Result, Row
from apalu_jax.benchmarks.memory import ORDERS, REGIMES
from apalu_jax.plotting import COLORS

Rows: TypeAlias = Sequence[Row]
Style: TypeAlias = dict[str, Any]
"""Keyword arguments of matplotlib."""

_LINE = ("dtype", "mode", "function", "framework")
_FRAMEWORKS = {"jax": "-", "torch compile": "--", "torch eager": ":"}
_MARKERS = "os^D"
_OURS, _PEERS = COLORS[0], "#B0B0B0"
_BOX = {"facecolor": "#FFFFFF", "edgecolor": "none", "pad": 0.5}
_RATIOS = {
    "time_to_relu": "time / relu's",
    "bytes_to_floor": "bytes accessed / floor",
    "bytes_to_relu": "bytes accessed / relu's",
    "temporary_to_relu": "temporary memory / relu's",
    "transcendentals": "transcendentals per element",
} | {regime: f"{name}, temporary memory / relu's" for regime, name in REGIMES.items()}


def draw(result: Result) -> Figure:
    """Draw rooflines of ``ops``, and bars of ``step``, ``memory`` or ``tpu``."""
    name, rows, setting = result["benchmark"], result["rows"], result["setting"]
    if name not in _FIGURES:
        raise BenchmarkError(
            f"`result` must be of one of {', '.join(_FIGURES)}, got {name!r}."
        )
    if not rows:
        raise BenchmarkError("`result` must have rows, got none.")
    try:
        figure = _FIGURES[name](rows)
    except KeyError as error:
        raise BenchmarkError(f"`result` must have {error} in every row.") from error
    where = f"{setting['platform']} ({setting['machine']})"
    title = f"apalu bench {name}, {setting['date']}\n{where}"
    figure.suptitle(title, x=0.01, horizontalalignment="left", fontsize="small")
    return figure


def _rooflines(rows: Rows) -> Figure:
    dtypes, modes, functions = (
        list(dict.fromkeys(str(row[name]) for row in rows))
        for name in ("dtype", "mode", "function")
    )
    size = 4 * len(modes) + 3, 3.6 * len(dtypes) + 0.4
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(
        len(dtypes), len(modes), sharex=True, sharey=True, squeeze=False
    )
    for (dtype, mode), axes in zip(product(dtypes, modes), grid.flat, strict=True):
        axes.set(yscale="log", title=f"{dtype}, {mode}")
        axes.set_xscale("log", base=2)
        axes.grid(color="#E8E8E8", linewidth=0.6)
        for (i, function), framework in product(enumerate(functions), _FRAMEWORKS):
            points = [
                (row["size"], row["gigabytes_per_second"])
                for row in rows
                if [row[name] for name in _LINE] == [dtype, mode, function, framework]
            ]
            if points:
                style = _style(i, function) | {"linestyle": _FRAMEWORKS[framework]}
                x, y = zip(*sorted(points), strict=True)
                axes.plot(x, y, label=f"{function}, {framework}", **style)
    figure.supxlabel("elements", fontsize="medium")
    figure.supylabel("GB/s of what must be read and written", fontsize="medium")
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize="small")
    return figure


def _style(index: int, function: str) -> Style:
    """Color and marker of a function; those of this package are drawn thicker."""
    if function == "copy":
        return {"color": "#000000", "linewidth": 3, "alpha": 0.5}
    return {
        "color": COLORS[index % len(COLORS)],
        "marker": _MARKERS[index // len(COLORS) % len(_MARKERS)],
        "markersize": 3.5,
        "linewidth": 2 if _is_ours(function) else 1,
    }


def _is_ours(function: str) -> bool:
    return function.startswith("apalu") and function != "apalu_reference"


def _bars_by(*names: str) -> Callable[[Rows], Figure]:
    """Figures with a line of panels for all rows that agree in these values."""

    def figure(rows: Rows) -> Figure:
        groups: dict[str, list[Row]] = {}
        for row in rows:
            title = ", ".join(str(row[k]) for k in names if k in row)
            groups.setdefault(title, []).append(row)
        return _bars(groups)

    return figure


def _memory_bars(rows: Rows) -> Figure:
    def ratios(row: Row, order: str) -> Row:
        return {regime: row[f"{regime}_{order}_to_relu"] for regime in REGIMES}

    return _bars(
        {
            block: [{"function": row["function"], **ratios(row, order)} for row in rows]
            for order, block in ORDERS.items()
        }
    )


def _bars(groups: Mapping[str, Rows]) -> Figure:
    """A line of panels for each group, one panel for each ratio that its rows have."""
    shown = {
        group: [name for name in _RATIOS if any(name in row for row in rows)]
        for group, rows in groups.items()
    }
    columns = max(map(len, shown.values()))
    heights = [1 + len(rows) for rows in groups.values()]
    size = 2 + 3.2 * columns, 0.4 + 0.7 * len(heights) + 0.2 * sum(heights)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(
        len(groups), columns, sharey="row", squeeze=False, height_ratios=heights
    )
    for (group, rows), line in zip(groups.items(), grid, strict=True):
        for name, axes in zip_longest(shown[group], line):
            if name is None:
                axes.set_axis_off()
                continue
            functions = [str(row["function"]) for row in rows]
            lengths = [float(row.get(name, math.nan)) for row in rows]
            colors = [_OURS if _is_ours(function) else _PEERS for function in functions]
            bars = axes.barh(functions, lengths, color=colors)
            axes.bar_label(bars, fmt="%.3f", padding=2, fontsize="x-small", bbox=_BOX)
            axes.axvline(1, color="#000000", linewidth=0.8)
            axes.set_title(f"{group}\n{_RATIOS[name]}", fontsize="small")
            axes.tick_params(labelsize="small")
            axes.margins(x=0.15)
        line[0].invert_yaxis()
    return figure


_FIGURES: Mapping[str, Callable[[Rows], Figure]] = {
    "ops": _rooflines,
    "step": _bars_by("network", "dtype"),
    "memory": _memory_bars,
    "tpu": _bars_by("topology", "what", "dtype", "mode"),
}
