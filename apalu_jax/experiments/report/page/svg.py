"""Drawings in SVG; all colors are those of the page's style sheet."""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import Locator, LogLocator, MaxNLocator
from numpy.typing import NDArray

_Values = NDArray[np.float64]


class Axis(NamedTuple):
    """A scale from values to coordinates."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    whole: bool = False

    def at(self, value: float) -> float:
        """The coordinate of a value."""
        low, high, value = self.low, self.high, float(value)
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        share = (value - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def clip(self, value: float) -> float:
        """The value, or the end of the axis that is nearest to it."""
        return min(max(value, self.low), self.high)

    def ticks(self, count: int) -> list[tuple[float, str]]:
        """Coordinates and labels of round values."""
        steps = [1, 2, 5, 10] if self.whole else [1, 2, 2.5, 5, 10]
        locator: Locator = MaxNLocator(count, steps=steps, integer=self.whole)
        if self.log and self.high / self.low > 8:
            locator = LogLocator(subs=(1.0, 2.0, 5.0) if self._decades < 2 else (1.0,))
        found = [t for t in locator.tick_values(self.low, self.high) if self._has(t)]
        step = min(np.diff(found), default=1.0)
        digits = max(0, math.ceil(-math.log10(step) - 1e-9)) if not self.log else 10
        if not self.log and round(step, digits) != round(step, digits + 1):
            digits += 1  # steps of 2.5
        texts = (f"{t:.{digits}f}" if not self.log else f"{t:.4g}" for t in found)
        return list(zip(map(self.at, found), texts, strict=True))

    @property
    def _decades(self) -> float:
        return math.log10(self.high / self.low)

    def _has(self, value: float) -> bool:
        slack = 1e-9 * (self.high - self.low)
        return self.low - slack <= value <= self.high + slack


class Frame(NamedTuple):
    """A pair of axes to draw into."""

    x: Axis
    y: Axis

    def axes(self, xlabel: str, ticks: tuple[int, int] = (4, 4)) -> str:
        """Grid, labels of the ticks, and the name of the horizontal axis."""
        left, right, bottom, top = self.x.start, self.x.end, self.y.start, self.y.end
        lines = "".join(
            f"M{left:g} {y:.1f}H{right:g}" for y, _ in self.y.ticks(ticks[1])
        )
        parts = [f'<path class="grid" d="{lines}"/>']
        parts += [
            text(left - 4, y + 3.5, label, "end") for y, label in self.y.ticks(ticks[1])
        ]
        parts += [
            text(x, bottom + 13, label, "middle") for x, label in self.x.ticks(ticks[0])
        ]
        parts.append(text((left + right) / 2, bottom + 27, xlabel, "middle", "soft"))
        parts.append(f'<path class="axis" d="M{left:g} {top:g}V{bottom:g}H{right:g}"/>')
        return "".join(parts)

    def line(self, xs: _Values, ys: _Values, style: str) -> str:
        """A line, broken where a value is not finite."""
        known = np.isfinite(ys)
        ends = np.flatnonzero(np.diff(known)) + 1
        runs = zip(np.split(xs, ends), np.split(ys, ends), strict=True)
        paths = [self._path(x, y) for x, y in runs if np.isfinite(y).any()]
        # A single point becomes a dot: a line of no length with round ends.
        paths = [path if "l" in path else f"{path}h0" for path in paths]
        return f'<path class="{style}" d="{"".join(paths)}"/>' if paths else ""

    def band(self, xs: _Values, low: _Values, high: _Values, style: str) -> str:
        """The area between two lines, where both are finite."""
        known = np.isfinite(low) & np.isfinite(high)
        if not known.any() or np.array_equal(low[known], high[known]):
            return ""
        x, low, high = xs[known], low[known], high[known]
        points = self._path(np.append(x, x[::-1]), np.append(low, high[::-1]))
        return f'<path class="band {style}" d="{points}z"/>'

    def _path(self, xs: _Values, ys: _Values) -> str:
        """A path with steps relative to the point before, which is half as long."""
        points = [
            (round(self.x.at(x), 1), self._inside(y))
            for x, y in zip(xs, ys, strict=True)
        ]
        first, steps = points[0], np.diff(points, axis=0)
        path = f"M{first[0]:g} {first[1]:g}"
        if len(steps):
            path += "l" + " ".join(
                f"{dx:.3g} {round(dy, 1) + 0.0:g}" for dx, dy in steps
            )
        return path

    def _inside(self, y: float) -> float:
        """A coordinate within the frame."""
        return round(self.y.at(self.y.clip(y)), 1)


def text(x: float, y: float, content: str, anchor: str = "", style: str = "") -> str:
    """A line of text."""
    placed = f' text-anchor="{anchor}"' if anchor else ""
    styled = f' class="{style}"' if style else ""
    return f'<text x="{x:.4g}" y="{y:.4g}"{placed}{styled}>{escape(content)}</text>'


def drawing(width: int, height: int, alt: str, parts: Sequence[str]) -> Markup:
    """A drawing that is scaled to the room there is, with a text in its place."""
    return Markup(
        f'<svg role="img" viewBox="0 0 {width} {height}" aria-label="{escape(alt)}">'
        f"{''.join(parts)}</svg>"
    )


def limits(*values: _Values, log: bool = False) -> tuple[float, float]:
    """Ends of an axis that hold all finite values, with some room."""
    every = np.concatenate([np.ravel(v) for v in values])
    every = every[np.isfinite(every)]
    if log:
        every = np.log(every[every > 0])
    low, high = (every.min(), every.max()) if every.size else (0.0, 1.0)
    room = 0.06 * (high - low) or max(0.05 * abs(high), 1e-6)
    ends = float(low - room), float(high + room)
    return (math.exp(ends[0]), math.exp(ends[1])) if log else ends
