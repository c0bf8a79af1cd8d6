"""Figures of confidence intervals."""

import numpy as np
import pytest

from apalu_jax.plotting import Interval, plot_intervals
from tests.plotting.helpers import draw, legend

LINES = [Interval("relu", 0.3, 0.1, 0.6, "arm")]


def test_intervals():
    lines = [
        Interval("relu", 0.3, 0.1, 0.6, "arm"),
        Interval("gelu", -0.2, np.nan, np.nan, "arm"),
        Interval("frozen", 0.0, -0.1, 0.1, "control"),
    ]
    figure = plot_intervals(lines, margin=(-0.25, 0.2), xlabel="points")
    draw(figure)
    (axes,) = figure.axes
    assert axes.get_xlabel() == "points"
    places = {t.get_text(): t.get_position()[1] for t in axes.get_yticklabels()}
    assert places["relu"] > places["gelu"] > places["frozen"]
    assert legend(figure) == ["margin", "arm", "control"]
    (band,) = axes.patches
    assert (band.get_x(), band.get_width()) == (-0.25, pytest.approx(0.45))
    arms, control = axes.containers
    x, y = arms.lines[0].get_data()
    np.testing.assert_array_equal(x, [0.3, -0.2])
    np.testing.assert_array_equal(y, [places["relu"], places["gelu"]])
    segment = arms.lines[2][0].get_segments()[0]
    np.testing.assert_allclose(segment[:, 0], [0.1, 0.6])
    assert control.lines[0].get_color() != arms.lines[0].get_color()


ERRORS = {
    "`intervals` must hold one": (ValueError, ([],), {}),
    "`intervals` must hold objects Interval": (TypeError, ([("relu", 0.3)],), {}),
    "`margin` must be None or two": (ValueError, (LINES,), {"margin": 0.2}),
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors(message):
    error, args, options = ERRORS[message]
    with pytest.raises(error, match=message):
        plot_intervals(*args, **options)


def test_values_that_are_not_finite_are_said():
    lines = [Interval("a", np.nan, np.nan, np.nan, "g"),
             Interval("b", np.inf, -np.inf, np.inf, "g"), LINES[0]]  # fmt: skip
    figure = plot_intervals(lines)
    draw(figure)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["a (nan)", "b (inf)", "relu"]


def test_every_group_is_drawn():
    lines = [Interval(str(i), 1.0, 0.0, 2.0, f"group {i}") for i in range(12)]
    figure = plot_intervals(lines)
    drawn = [container.get_label() for container in figure.axes[0].containers]
    assert drawn == [line.group for line in lines]
