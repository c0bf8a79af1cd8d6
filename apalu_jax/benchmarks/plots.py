"""Figures of results: bandwidth under the roof of a copy, and ratios as bars."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, TypeAlias

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from apalu_jax.benchmarks import BenchmarkError, Result
from apalu_jax.plotting import COLORS

__all__ = ("draw",)

Rows: TypeAlias = Sequence[Mapping[str, Any]]

_FRAMEWORKS: dict[str, Any] = {"jax": "-", "torch compile": "--", "torch eager": ":"}
_MARKERS = "os^D"
_OURS, _PEERS = COLORS[0], "#B0B0B0"
_RATIOS = {
    "time_to_relu": "time / relu's",
    "bytes_to_floor": "bytes accessed / floor",
    "bytes_to_relu": "bytes accessed / relu's",
    "temporary_to_relu": "temporary memory / relu's",
    "transcendentals": "transcendentals per element",
}


def draw(result: Result) -> Figure:
    """Draws the figure of a result.

    Args:
      result: Of ``ops``, ``step``, ``memory`` or ``tpu``; see
        :mod:`apalu_jax.benchmarks`.

    Returns:
      Of ``ops`` rooflines: the bandwidth that every function achieves over size, under
      that of a copy, in a panel per dtype and mode. Of the others bars: what every
      function needs, as ratios to ReLU's or to the least that any needs.

    Raises:
      BenchmarkError: If results of that benchmark have no figure, or its rows cannot be
        drawn.

    Examples:
      >>> row = {"dtype": "float32", "mode": "both", "size": 8, "framework": "jax"}
      >>> row |= {"function": "apalu", "gigabytes_per_second": 5.0}
      >>> setting = {"platform": "cpu", "machine": "m", "date": "d"}
      >>> figure = draw({"benchmark": "ops", "rows": [row], "setting": setting})
      >>> figure.axes[0].get_title()
      'float32, both'
    """
    name, rows, setting = (result[k] for k in ("benchmark", "rows", "setting"))
    if name not in _FIGURES:
        raise BenchmarkError(
            f"`result` must be of one of {', '.join(_FIGURES)}, got {name!r}."
        )
    if not rows:
        raise BenchmarkError("`result` must have rows, got none.")
    try:
        figure = _FIGURES[name](rows)
    except KeyError as error:
        raise BenchmarkError(f"`result` must tell {error} in every row.") from error
    where = f"{setting['platform']} ({setting['machine']})"
    figure.suptitle(
        f"apalu bench {name}, {setting['date']}\n{where}",
        x=0.01,
        horizontalalignment="left",
        fontsize="small",
    )
    return figure


def _rooflines(rows: Rows) -> Figure:
    dtypes, modes = (list(dict.fromkeys(r[k] for r in rows)) for k in ("dtype", "mode"))
    functions = list(dict.fromkeys(r["function"] for r in rows))
    figure = Figure(
        figsize=(4 * len(modes) + 3, 3.6 * len(dtypes) + 0.4), layout="constrained"
    )
    grid = figure.subplots(
        len(dtypes), len(modes), sharex=True, sharey=True, squeeze=False
    )
    for dtype, line in zip(dtypes, grid, strict=True):
        for mode, axes in zip(modes, line, strict=True):
            part = [r for r in rows if (r["dtype"], r["mode"]) == (dtype, mode)]
            axes.set_title(f"{dtype}, {mode}")
            _draw_roofline(axes, part, functions)
    figure.supxlabel("elements", fontsize="medium")
    figure.supylabel("GB/s of what must be read and written", fontsize="medium")
    keys = [Line2D([], [], label=f, **_style(i, f)) for i, f in enumerate(functions)]
    keys += [
        Line2D([], [], label=name, color="#000000", linestyle=style, linewidth=1)
        for name, style in _FRAMEWORKS.items()
        if name in {r["framework"] for r in rows}
    ]
    figure.legend(handles=keys, loc="outside right upper", fontsize="small")
    return figure


def _draw_roofline(axes: Axes, rows: Rows, functions: Sequence[str]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.grid(color="#E8E8E8", linewidth=0.6)
    for index, function in enumerate(functions):
        for framework, line_style in _FRAMEWORKS.items():
            bandwidth = {
                r["size"]: r["gigabytes_per_second"]
                for r in rows
                if (r["function"], r["framework"]) == (function, framework)
            }
            if bandwidth:
                style = _style(index, function) | {"linestyle": line_style}
                x, y = zip(*sorted(bandwidth.items()), strict=True)
                axes.plot(x, y, label=f"{function}, {framework}", **style)


def _style(index: int, function: str) -> dict[str, Any]:
    """Colour and marker of a function; those of this package are drawn thicker."""
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
    """A figure with a line of panels for all rows that agree in these values."""

    def figure(rows: Rows) -> Figure:
        groups: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            title = ", ".join(str(row[k]) for k in names if k in row)
            groups.setdefault(title, []).append(row)
        return _bars(groups, _RATIOS)

    return figure


def _memory_bars(rows: Rows) -> Figure:
    regimes = {"unrolled": "unrolled", "scan": "scan", "remat": "scan with remat"}
    groups = {
        block: [
            {"function": r["function"]}
            | {regime: r[f"{regime}_{order}_to_relu"] for regime in regimes}
            for r in rows
        ]
        for order, block in {"before": "act(h) @ w", "after": "act(h @ w)"}.items()
    }
    titles = {k: f"{name}, temporary memory / relu's" for k, name in regimes.items()}
    return _bars(groups, titles)


def _bars(groups: Mapping[str, Rows], titles: Mapping[str, str]) -> Figure:
    """A line of panels for each group, one panel for each title its rows have."""
    shown = {
        group: [name for name in titles if any(name in row for row in rows)]
        for group, rows in groups.items()
    }
    columns = max(map(len, shown.values()))
    height = sum(0.9 + 0.2 * len(rows) for rows in groups.values())
    figure = Figure(figsize=(2 + 3.2 * columns, height + 0.4), layout="constrained")
    grid = figure.subplots(
        len(groups),
        columns,
        sharey="row",
        squeeze=False,
        height_ratios=[1 + len(rows) for rows in groups.values()],
    )
    for (group, rows), line in zip(groups.items(), grid, strict=True):
        for name, axes in zip_longest(shown[group], line):
            if name is None:
                axes.set_axis_off()
                continue
            _draw_bars(axes, rows, name)
            axes.set_title(f"{group}\n{titles[name]}", fontsize="small")
            axes.tick_params(labelsize="small")
        line[0].invert_yaxis()
    return figure


def _draw_bars(axes: Axes, rows: Rows, name: str) -> None:
    functions = [row["function"] for row in rows]
    colours = [_OURS if _is_ours(f) else _PEERS for f in functions]
    lengths = [row.get(name, math.nan) for row in rows]
    bars = axes.barh(functions, lengths, color=colours)
    label = {"facecolor": "#FFFFFF", "edgecolor": "none", "pad": 0.5}
    axes.bar_label(bars, fmt="%.3f", padding=2, fontsize="x-small", bbox=label)
    axes.axvline(1, color="#000000", linewidth=0.8)
    axes.margins(x=0.15)


_FIGURES: Mapping[str, Callable[[Rows], Figure]] = {
    "ops": _rooflines,
    "step": _bars_by("network", "dtype"),
    "memory": _memory_bars,
    "tpu": _bars_by("topology", "what", "dtype", "mode"),
}
