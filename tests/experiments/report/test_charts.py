"""Charts of the HTML page."""

import re

import numpy as np
import pytest
from msgspec.structs import replace

from apalu_jax.experiments.report.page.svg import Axis, Frame, limits

from ..helpers import build_report, make_runs, tiny
from .decided import decided


def test_the_best_arm_is_on_top():
    spec, runs = decided()
    built = build_report(spec, runs)
    block = built.page.chapters[0].blocks[0]
    names = [row[0].text for row in block.grids[0].rows]
    assert names == ["gelu", "silu", "apalu", "relu"]
    (drawing,) = block.charts[0].drawings
    shown = re.findall(r'class="name"[^>]*>([\w-]+)<', drawing)
    assert shown == ["gelu", "silu", "relu"]
    assert re.findall("apalu (?:worse|better)", drawing) == [
        "apalu worse",
        "apalu better",
    ]
    assert drawing.count("<title>seed") == 30
    spec = replace(spec, metric=replace(spec.metric, higher_is_better=False))
    block = build_report(spec, runs).page.chapters[0].blocks[0]
    (drawing,) = block.charts[0].drawings
    assert re.findall("apalu (?:worse|better)", drawing) == [
        "apalu better",
        "apalu worse",
    ]


def test_a_diverged_seed_is_marked_at_the_edge():
    spec = tiny(arms=("relu", "apalu"), ablations=(), seeds=30)
    relu = [0.9, *(0.5 + s / 1000 for s in range(29))]
    built = build_report(spec, make_runs({"relu": relu, "apalu": [0.5] * 30}))
    (drawing,) = built.page.chapters[0].blocks[0].charts[0].drawings
    assert "‹<title>seed 0: -40" in drawing


def test_layers_become_a_map_and_come_in_their_order(large):
    chapters = {c.anchor: c for c in build_report(*large).page.chapters}
    (block,) = chapters["parameters"].blocks
    sites = [row[0].text for row in block.grids[0].rows]
    assert sites == [f"block_{i}/APALU_0" for i in range(20)]
    assert [d.count("<image") for d in block.charts[0].drawings] == [2, 2]
    assert "20 layers" in block.charts[0].drawings[0]
    (block,) = chapters["shapes"].blocks
    assert len(block.charts[0].drawings) == 12
    assert "12 of 20" in block.charts[0].caption
    assert "0.55 → 0.6, b 0.065 → 0.2" in block.charts[0].drawings[0]


def test_units_are_colored_by_margin_where_zero_is_outside():
    spec = tiny(units={"small": {}, "large": {}}, ablations=(), seeds=6)
    # Two margins ahead, and three with an interval that holds zero.
    steps = np.arange(6)
    ahead = {"small": 0.02 + 0.001 * steps, "large": 0.02 * steps - 0.02}
    runs = []
    for unit, d in ahead.items():
        runs += make_runs({"relu": [0.5] * 6, "apalu": (0.5 + d).tolist()}, unit=unit)
    chapters = {c.anchor: c for c in build_report(spec, runs).page.chapters}
    small, big = chapters["units"].blocks[0].grids[0].rows
    assert (small[1].text, small[1].style) == ("+2.25", "w3")
    assert (big[1].text, big[1].style) == ("+3.00", "w1")


def test_axes_and_paths():
    axis = Axis(0.0, 10.0, 100.0, 200.0)
    assert axis.at(5) == 150
    assert [label for _, label in axis.ticks(4)] == ["0.0", "2.5", "5.0", "7.5", "10.0"]
    assert [label for _, label in axis._replace(whole=True).ticks(4)][1] == "5"
    log = Axis(1e-3, 10.0, 0.0, 4.0, log=True)
    assert log.at(0.1) == pytest.approx(2)
    assert [label for _, label in log.ticks(4)][:2] == ["0.001", "0.01"]
    frame = Frame(axis, Axis(0.0, 1.0, 50.0, 0.0))
    x = np.array([0.0, 5.0, 10.0])
    assert frame.line(x, np.array([0, 1, 0.5]), "s") == (
        '<path class="s" d="M100 50l50 -50 50 25"/>'
    )
    assert frame.line(x, np.array([0, np.nan, 0.5]), "s") == (
        '<path class="s" d="M100 50h0M200 25h0"/>'
    )
    assert frame.line(x, np.full(3, np.nan), "s") == ""
    assert frame.band(x, np.zeros(3), np.zeros(3), "s") == ""
    low, high = limits(np.array([1.0, np.inf, 100.0]), log=True)
    assert low < 1 < 100 < high < 200
