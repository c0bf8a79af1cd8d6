"""A report over variants, units and metrics, and several results together.

Its text stands in golden.md. A change that is meant to alter it replaces the file:
``python -m tests.experiments.report.test_large_report``.
"""

import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from apalu_jax.experiments import report
from apalu_jax.experiments.report import checks
from apalu_jax.experiments.specs import Published

from ..helpers import FIGURES, LEARNED, build_report
from .helpers import REVISION, SITES, make_large

GOLDEN = Path(__file__).with_name("golden.md")
TABLE = ("a table", "")
CHANCE = "chance is 10 %"


@pytest.fixture(scope="module")
def large_report(large):
    return build_report(*large)


def cells_of(table, arm):
    (row,) = (row for row in table.rows if row[0] == arm)
    return dict(zip(table.header, row, strict=True))


def test_a_section_per_metric_and_variant(large_report):
    assert [section.title for section in large_report.sections] == [
        "Test accuracy, variant same",
        "Test accuracy, variant gain",
        "Test rmse, variant same",
        "Test rmse, variant gain",
    ]
    arms, units = large_report.sections[0].tables
    relu = cells_of(arms, "relu")
    assert relu["apalu - it"] == "+2.50"
    assert relu["mean rank"] == "2.00"
    # Three pairs are no test.
    assert relu["p, sign flip"] == relu["p"] == "-"
    assert units.header == ("unit", "seeds", "relu", "apalu-frozen")
    assert units.rows[0][:2] == ("small", "3")
    assert units.rows[0][2] == "+2.00"
    assert units.rows[1][2].startswith("+3.00 (")
    assert units.rows[1][2:][1] == "-"
    notes = " ".join(large_report.sections[0].notes)
    assert "corrected resampled t test" in notes
    assert "1/n + 0.25" in notes


def test_relative_differences_are_shown_in_percent(large_report):
    arms, _ = large_report.sections[2].tables
    relu = cells_of(arms, "relu")
    values = {"relu": [0.5, 0.6, 0.7, 0.1, 0.2, 0.3], "apalu": [0.51, 0.62, 0.73]}
    values["apalu"] += [0.13, 0.22, 0.34]
    means = {arm: np.mean(np.log(2 - np.array(v))) for arm, v in values.items()}
    shown = 100 * np.expm1(means["apalu"] - means["relu"])
    assert relu["apalu - it"] == f"{shown:.2f}"
    assert relu["rmse"].startswith(f"{np.exp(means['relu']):.4g} ± ")
    assert "±2.02 %" in " ".join(large_report.sections[2].notes)


def test_spread_over_units_is_not_one_of_the_arm(large):
    spec, runs = large
    built = build_report(replace(spec, pair_by="unit"), runs)
    arms = built.sections[2].tables[0]
    relu = cells_of(arms, "relu")
    assert float(relu["rmse"]) > 0


def test_search_and_its_cost(large_report):
    search = large_report.others[1]
    (cells,) = search.tables
    assert cells.header == ("", "relu", "apalu", "apalu-frozen", "runs", "seconds")
    assert cells.rows == [
        ("same / small", "0.5", "0.5", "-", "8", "5"),
        ("same / large", "0.5", "0.5", "-", "8", "5"),
    ]
    text = " ".join(search.notes)
    assert all(each in text for each in ("16 runs", "10 seconds", "4 of 4 searches"))
    assert "4 multipliers diverged" in text


def test_gates_stand_with_what_was_found(large_report):
    gates, arms = large_report.others[0].tables
    assert gates.header == ("gate", "required", "found", "passed", "source")
    # A narrow terminal shows which are passed.
    assert gates.columns[:2] == ("gate", "passed")
    assert arms.columns[:2] == ("arm of the claim", "outcome")
    assert gates.rows == [
        ("runs", "all 12", "12 of 12", "yes", ""),
        ("divergence and failure", "none", "none", "yes", ""),
        ("pairs", "8 or more", "3", "no", ""),
        (
            *(
                "learning-rate search",
                "at most 10 % of each arm's at an end of the grid",
            ),
            *("relu / same 2 of 2, apalu / same 2 of 2", "no", ""),
        ),
        ("relu / same", "accuracy 15.00 % or more", "40.00 %", "yes", CHANCE),
        ("relu / same / small", "accuracy 30.00 % or more", "60.00 %", "yes", CHANCE),
        ("relu / same / large", "accuracy 30.00 % or more", "20.00 %", "no", CHANCE),
    ]
    assert arms.rows == [("relu", "+2.50", "-0.35 to +5.35", "not resolved")]
    assert "Each arm of the claim" in arms.title


def test_earlier_versions_are_told(large_report):
    section = large_report.others[-1]
    assert section.title == "Revisions"
    assert section.tables[0].rows == [
        ("2026-11-24", REVISION.changed, REVISION.reason, REVISION.found)
    ]


def test_baselines_stand_beside_published_results(large):
    spec, runs = large
    runs = [run for run in runs if run.kind == "evaluation"]
    where = {"arm": "relu", "source": "a table", "unit": "large"}
    published = (
        Published(metric="accuracy", low=0.21, high=0.25, **where),
        Published(metric="accuracy", low=0.2, high=0.2, comment="longer", **where),
        Published(metric="rmse", low=1.5, high=1.7, variant="gain", **where),
        Published(metric="rmse", low=1.0, high=1.5, arm="relu", source="all"),
    )
    spec = replace(spec, published=published)
    _, section, _ = build_report(spec, runs).others
    here = "20.00 (n = 3)"
    assert section.tables[0].rows == [
        ("relu, same, large", "accuracy, %", "21.00 to 25.00", here, "-1.00", *TABLE),
        ("relu, same, large", "accuracy, %", "20.00", here, "0", "a table", "longer"),
        ("relu, gain, large", "rmse", "1.5 to 1.7", "1.8 (n = 3)", "0.1", *TABLE),
        ("relu, same", "rmse", "1 to 1.5", "1.6 (n = 6)", "0.1", "all", ""),
    ]
    empty = build_report(spec, []).others
    assert [section.title for section in empty] == ["Gates", "Revisions"]
    accuracy, rmse = spec.metrics
    assert checks.published_range(spec, "same", accuracy, "relu") == "-"
    assert checks.published_range(spec, "same", rmse, "relu") == "1 to 1.5"
    overall = Published(metric="accuracy", low=0.2, high=0.3, arm="relu", source="all")
    spec = replace(spec, published=(overall,))
    assert checks.published_range(spec, "same", accuracy, "relu") == "20.00 to 30.00"
    assert checks.published_range(spec, "gain", accuracy, "relu") == "-"


def test_pages_of_a_large_report(large_report, tmp_path):
    text = report.write_markdown(large_report, tmp_path).read_text()
    assert text == GOLDEN.read_text()
    pictures = re.findall(r"!\[\w+\]\((.*?)\)", text)
    names = [f"{name}_same" for name in FIGURES] + LEARNED
    assert pictures == [f"figures/{name}.png" for name in names]
    sizes = [(tmp_path / picture).stat().st_size for picture in pictures]
    assert sum(sizes) < 600_000


def test_figures_of_a_deep_network(large_report):
    shapes = large_report.figures["shapes_apalu"]
    titles = [axes.get_title() for axes in shapes.figure.axes if axes.get_title()]
    found = [title.split("\n")[0] for title in titles]
    assert len(found) == 12
    assert (found[0], found[-1]) == (SITES[0], SITES[-1])
    assert "12 of 20" in shapes.caption
    assert "same, small" in shapes.caption
    evolution = large_report.figures["evolution_apalu"].figure.axes[0]
    np.testing.assert_allclose(evolution.lines[1].get_ydata(), [0.55, 0.6, 0.6])
    np.testing.assert_array_equal(evolution.lines[1].get_xdata(), [0, 5, 10])
    curves = large_report.figures["learning_curves_same"].figure.axes[0]
    assert curves.get_title() == "relu"
    np.testing.assert_array_equal(curves.lines[1].get_xdata(), [5, 10])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        page = report.write_markdown(build_report(*make_large()), Path(folder))
        GOLDEN.write_text(page.read_text())
