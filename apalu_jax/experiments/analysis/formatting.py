"""Values and differences as text, in the unit that a metric is shown in."""

import math
from collections.abc import Iterable

from apalu_jax.experiments.specs import Metric

__all__ = (
    "difference_text",
    "in_shown_unit",
    "interval_text",
    "joined",
    "margin_text",
    "metric_label",
    "range_text",
    "shown_unit",
    "value_text",
)


def value_text(metric: Metric, value: float) -> str:
    """A value; a dash for NaN.

    Examples:
      >>> value_text(Metric(name="rmse", higher_is_better=False, margin=0.1), 2.345678)
      '2.346'
    """
    if math.isnan(value):
        return "-"
    return f"{100 * value:.2f}" if metric.percent else f"{value:.4g}"


def range_text(texts: Iterable[str]) -> str:
    """Both ends of a range; one if they read alike."""
    return " to ".join(dict.fromkeys(texts))


def in_shown_unit(metric: Metric, difference: float) -> float:
    """A difference of values, or of logarithms, in :func:`shown_unit`.

    Examples:
      >>> rmse = Metric(name="rmse", higher_is_better=False, margin=0.1, relative=True)
      >>> round(in_shown_unit(rmse, 0.0953), 2)
      10.0
    """
    if metric.relative:
        return 100 * math.expm1(difference) if difference < 700 else math.inf
    return 100 * difference if metric.percent else difference


def shown_unit(metric: Metric, before: str = "") -> str:
    """Unit of shown differences, after ``before``; "" for the metric's own unit."""
    if metric.relative:
        return f"{before}% of the arm's value"
    return f"{before}percentage points" if metric.percent else ""


def metric_label(metric: Metric) -> str:
    """Name of a metric, and the unit of its values."""
    return f"{metric.name}, %" if metric.percent else metric.name


def difference_text(metric: Metric, difference: float, sign: str = "+") -> str:
    """A difference; a dash for NaN.

    Examples:
      >>> accuracy = Metric(name="a", higher_is_better=True, margin=0.1, percent=True)
      >>> difference_text(accuracy, 0.0123)
      '+1.23'
    """
    shown = in_shown_unit(metric, difference)
    if math.isnan(shown):
        return "-"
    if math.isinf(shown):
        return "none"
    if metric.relative or metric.percent:
        # + 0.0 turns a rounded -0.0 into 0.0.
        return f"{round(shown, 2) + 0.0:{sign}.2f}"
    return f"{shown + 0.0:{sign}.3g}"


def interval_text(metric: Metric, ends: tuple[float, float] | None) -> str:
    """An interval of differences; a dash for None."""
    if ends is None:
        return "-"
    return " to ".join(difference_text(metric, end) for end in ends)


def margin_text(metric: Metric) -> str:
    """The margin with its unit."""
    return difference_text(metric, metric.margin, "") + shown_unit(metric, " ")


def joined(*parts: str, by: str = ", ") -> str:
    """The parts that are not empty."""
    return by.join(filter(None, parts))
