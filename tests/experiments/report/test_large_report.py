"""A report over variants, units and metrics, and several results together."""

import re

import numpy as np
import pytest
from msgspec.structs import replace

from apalu_jax.experiments import ExperimentError, report, results
from apalu_jax.experiments.records import History, InputCounts
from apalu_jax.experiments.report import checks
from apalu_jax.experiments.results import Results
from apalu_jax.experiments.specs import Claim, LRSearch, Published

from ..helpers import (
    FIGURES,
    LEARNED,
    RMSE,
    SETUP,
    UNITS,
    build_report,
    hashes,
    make_record,
    make_runs,
    make_units,
    tiny,
)

CLAIM = Claim(text="APALU is better.", source="table 1", arms=("relu",))
VARIANTS = {"same": {}, "gain": {"model": {"init": "gain"}}}


@pytest.fixture(scope="module")
def large():
    """Two variants, units and metrics, a claim and a search; splits overlap."""
    spec = tiny(
        units=UNITS,
        variants=VARIANTS,
        secondary_metrics=(RMSE,),
        claim=CLAIM,
        lr_search=LRSearch(multipliers=(0.5, 1.0), seeds=2),
    )
    runs = [
        replace(
            run,
            variant=variant,
            inputs=inputs(run),
            history=logged(run),
            **hashes(spec),
        )
        for variant in VARIANTS
        for run in make_units(also=lambda value: 2 - value)
    ]
    scores = {(0.5, 1000): 0.5, (0.5, 1001): 0.6, (1.0, 1000): 0.4, (1.0, 1001): None}
    searches = [
        make_record(
            spec,
            kind="search",
            arm=arm,
            variant="same",
            unit=unit,
            seed=seed,
            lr_multiplier=multiplier,
            value=value,
            status="diverged" if value is None else "ok",
            history=History(),
            wall_s=0.625,
        )
        for arm in ("relu", "apalu")
        for unit in UNITS
        for (multiplier, seed), value in scores.items()
    ]
    return spec, runs + searches


TABLE = ("a table", "")
SITES = [f"block_{i}/APALU_0" for i in range(20)]


def inputs(run):
    """Input histograms of every APALU of a deep network."""
    if run.arm != "apalu":
        return {}
    counts = InputCounts(
        low=-4.0, high=4.0, counts=[1, 5, 5, 1], below=0, above=0, nan=0
    )
    return dict.fromkeys(SITES, counts)


def logged(run):
    """Values at the start and after two of ten epochs: quartiles over the channels."""
    paths = {
        "a": [[0.55] * 3, [0.5, 0.6, 0.7], [0.5, 0.6, 0.7]],
        "b": [[0.065] * 3, [0.1, 0.2, 0.3], [0.1, 0.2, 0.3]],
    }
    return replace(
        run.history,
        epochs=[0, 5, 10],
        train={"loss": [2.0, 1.0]},
        validation={"accuracy": [0.4, run.value]},
        activations=dict.fromkeys(SITES, paths) if run.arm == "apalu" else {},
    )


@pytest.fixture(scope="module")
def large_report(large):
    return build_report(*large)


def test_a_section_per_metric_and_variant(large_report):
    assert [section.title for section in large_report.sections] == [
        "Test accuracy, variant same",
        "Test accuracy, variant gain",
        "Test rmse, variant same",
        "Test rmse, variant gain",
    ]
    arms, units = large_report.sections[0].tables
    relu = dict(zip(arms.header, arms.rows[0], strict=True))
    assert relu["apalu - arm, percentage points"] == "+2.50"
    assert relu["mean rank"] == "2.00"
    assert relu["p, sign flip"] == "0.2500"
    assert relu["p"] != relu["p, sign flip"]
    assert units.header == ("unit", "seeds", "relu", "apalu-frozen")
    assert units.rows[0][:2] == ("small", "3")
    assert units.rows[0][2].startswith("+2.00 (")
    assert units.rows[1][2:][1] == "-"
    notes = " ".join(large_report.sections[0].notes)
    assert "corrected resampled t test" in notes
    assert "variance factor 1/n + 0.25." in notes
    assert "averaged over units" in notes


def test_relative_differences_are_shown_in_percent(large_report):
    arms, _ = large_report.sections[2].tables
    relu = dict(zip(arms.header, arms.rows[0], strict=True))
    values = {"relu": [0.5, 0.6, 0.7, 0.1, 0.2, 0.3], "apalu": [0.51, 0.62, 0.73]}
    values["apalu"] += [0.13, 0.22, 0.34]
    means = {arm: np.mean(np.log(2 - np.array(v))) for arm, v in values.items()}
    shown = 100 * np.expm1(means["apalu"] - means["relu"])
    assert relu["apalu - arm, % of the arm's value"] == f"{shown:.2f}"
    assert relu["test rmse, mean ± sd"].startswith(f"{np.exp(means['relu']):.4g} ± ")
    assert "margin ±2.02 %" in " ".join(large_report.sections[2].notes)


def test_spread_over_units_is_not_one_of_the_arm(large):
    spec, runs = large
    built = build_report(replace(spec, pair_by="unit"), runs)
    arms = built.sections[2].tables[0]
    relu = dict(zip(arms.header, arms.rows[0], strict=True))
    assert float(relu["test rmse, mean"]) > 0


def test_search_and_its_cost(large_report):
    (search,) = large_report.others
    (cells,) = search.tables
    assert cells.header == ("", "relu", "apalu", "apalu-frozen", "runs", "seconds")
    assert cells.rows == [
        ("same / small", "0.5", "0.5", "-", "8", "5"),
        ("same / large", "0.5", "0.5", "-", "8", "5"),
    ]
    text = " ".join(search.notes)
    assert "It cost 16 runs and 10 seconds; 4 of 4 searches chose an end" in text
    assert "4 multipliers diverged" in text


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
    (section,) = build_report(spec, runs).others
    here = "20.00 (n = 3)"
    assert section.tables[0].rows == [
        ("relu, same, large", "accuracy, %", "21.00 to 25.00", here, "-1.00", *TABLE),
        ("relu, same, large", "accuracy, %", "20.00", here, "0", "a table", "longer"),
        ("relu, gain, large", "rmse", "1.5 to 1.7", "1.8 (n = 3)", "0.1", *TABLE),
        ("relu, same", "rmse", "1 to 1.5", "1.6 (n = 6)", "0.1", "all", ""),
    ]
    assert build_report(spec, []).others == []
    accuracy, rmse = spec.metrics
    assert checks.published_range(spec, "same", accuracy, "relu") == "-"
    assert checks.published_range(spec, "same", rmse, "relu") == "1 to 1.5"
    overall = Published(metric="accuracy", low=0.2, high=0.3, arm="relu", source="all")
    spec = replace(spec, published=(overall,))
    assert checks.published_range(spec, "same", accuracy, "relu") == "20.00 to 30.00"
    assert checks.published_range(spec, "gain", accuracy, "relu") == "-"


def test_pages_of_a_large_report(large_report, tmp_path):
    text = report.write_markdown(large_report, tmp_path).read_text()
    first = text.index("**Claim: APALU is better. (table 1)**")
    verdict = text.index("**Verdict (variant same): not resolved. Of the")
    assert first < verdict < text.index("## Test accuracy, variant same")
    assert "## Learning-rate search" in text
    pictures = re.findall(r"!\[\w+\]\((.*?)\)", text)
    names = [f"{name}_same" for name in FIGURES] + LEARNED
    assert pictures == [f"figures/{name}.png" for name in names]
    sizes = [(tmp_path / picture).stat().st_size for picture in pictures]
    assert sum(sizes) < 600_000
    page = report.write_html(large_report, tmp_path)
    assert page.stat().st_size < 3_000_000
    text = page.read_text()
    assert re.findall(r"<details( open)?>", text) == [" open", *[""] * 4]
    # The other variant too, but the learned shapes of the first one alone.
    assert text.count("data:image/png") == 3 * 2 + 2
    assert text.index("Verdict (variant same)") < text.index("<details")


def test_figures_of_a_deep_network(large_report):
    shapes = large_report.figures["shapes_apalu"]
    titles = [axes.get_title() for axes in shapes.figure.axes if axes.get_title()]
    found = [title.split("\n")[0] for title in titles]
    assert len(found) == 12
    assert (found[0], found[-1]) == (SITES[0], SITES[-1])
    assert "12 of 20 layers, evenly spaced" in shapes.caption
    assert "quartiles over its channels" in shapes.caption
    assert "of same, small" in shapes.caption
    evolution = large_report.figures["evolution_apalu"].figure.axes[0]
    np.testing.assert_allclose(evolution.lines[1].get_ydata(), [0.55, 0.6, 0.6])
    np.testing.assert_array_equal(evolution.lines[1].get_xdata(), [0, 5, 10])
    curves = large_report.figures["learning_curves_same"].figure.axes[0]
    assert curves.get_title() == "relu"
    np.testing.assert_array_equal(curves.lines[1].get_xdata(), [5, 10])


def write_result(folder, spec, runs):
    with results.open_folder(folder, spec, resume=False) as written:
        written.setup_index(SETUP)
        written.append(replace(run, **hashes(spec)) for run in runs)


@pytest.fixture
def collection(large, tmp_path):
    write_result(tmp_path / "a", *large)
    seeds = range(10)
    runs = make_runs(
        {
            "relu": [0.2 + s / 1000 for s in seeds],
            "gelu": [0.4 - s / 1000 for s in seeds],
            "apalu": [0.5 + s / 500 for s in seeds],
        }
    )
    spec = tiny(
        arms=("relu", "gelu", "apalu"), ablations=(), seeds=10, claim=CLAIM, name="b"
    )
    write_result(tmp_path / "b", spec, runs)
    (tmp_path / "elsewhere").mkdir()
    return tmp_path


def test_verdicts_over_a_collection(large, collection):
    folders = results.find(collection)
    assert folders == [collection / "a", collection / "b"]
    assert results.find(folders[0]) == folders[:1]
    found = [results.read(folder) for folder in folders]
    assert len(found[0].records) == len(large[1])
    (cells,) = report.overview(found).tables
    first, second = cells.rows
    assert [reason.split(":")[0] for reason in report.reasons(found)] == [
        *("digits", "b")
    ]
    assert first[:3] == ("digits (smoke, same)", CLAIM.text, "not resolved")
    assert second[:8] == (
        *("b (smoke)", CLAIM.text, "supported"),
        "accuracy, % (differences in percentage points)",
        *("50.90", "relu, 20.45", "-", "gelu, 39.55"),
    )
    assert second[8] == "10"
    assert second[9].startswith("+11.35 (+")
    # The baseline is the arm of which something is published.
    figure = Published(
        arm="gelu", metric="accuracy", low=0.4, high=0.5, source="somewhere"
    )
    published = replace(found[1].spec, published=(figure,))
    (cells,) = report.overview([Results(published, found[1].records)]).tables
    assert cells.rows[0][5:7] == ("gelu, 39.55", "40.00 to 50.00")
    # A claim that some level is reached is shown in the metric that it is about.
    level = replace(CLAIM, level=1.0, metric="rmse")
    spec = replace(found[0].spec, claim=level)
    (cells,) = report.overview([Results(spec, found[0].records)]).tables
    assert cells.rows[0][3].startswith("rmse")
    with pytest.raises(ExperimentError, match="no folder in it has one"):
        results.find(collection / "elsewhere")


def test_readme_holds_the_verdicts(collection):
    found = [results.read(folder) for folder in results.find(collection)]
    readme = collection / "README.md"
    other = "<!-- table: ops -->\nkept\n<!-- end -->\n"
    readme.write_text(f"{other}<!-- table: verdicts -->\nold\n<!-- end -->\nafter\n")
    assert report.update_readme(readme, found, check=True)
    assert "old" in readme.read_text()
    assert report.update_readme(readme, found)
    text = readme.read_text()
    assert text.startswith(other)
    assert text.endswith("<!-- end -->\nafter\n")
    assert "| b (smoke) | APALU is better. | supported |" in text
    assert "old" not in text
    assert not report.update_readme(readme, found, check=True)
    readme.write_text(other)
    with pytest.raises(ExperimentError, match="must mark the place"):
        report.update_readme(readme, found)
