import base64
import json
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from apalu_jax.experiments import ExperimentError, records, report, tuning
from apalu_jax.experiments.report import baselines
from apalu_jax.experiments.specs import Claim, Grid, Published
from apalu_jax.experiments.tuning import Tuning

from .conftest import tiny
from .test_statistics import RMSE, UNITS, make_runs, make_units

FIGURES = ["intervals", "learning_curves", "training_loss"]
LEARNED = ["shapes_apalu", "evolution_apalu"]


@pytest.fixture(scope="module")
def built(finished_run):
    spec, _, found = finished_run
    return report.build(spec, found)


def rows(built, section=0, table=0):
    return built.sections[section].tables[table].rows


def all_notes(built):
    return " ".join([*built.notes, *built.sections[0].notes])


def test_table_holds_the_statistics(finished_run, built):
    _, _, found = finished_run
    assert [row[0] for row in rows(built)] == ["relu", "apalu", "apalu-frozen"]
    relu, apalu, frozen = rows(built)
    mean = sum(r.value for r in found if r.arm == "apalu") / 3
    assert apalu[1] == "3"
    assert apalu[2].startswith(f"{100 * mean:.2f} ± ")
    assert re.fullmatch(r"\d+\.\d to \d+\.\d", apalu[3])
    assert apalu[4:] == ("",) * 8
    assert re.fullmatch(r"[+-]\d+\.\d\d", relu[4])
    assert re.fullmatch(r"[+-]\d+\.\d\d to [+-]\d+\.\d\d", relu[5])
    # One arm in the family: Holm changes nothing. The control is not in it.
    assert relu[6] == relu[7]
    assert relu[10] == "none"
    assert (frozen[7], frozen[11]) == ("-", "control")


def test_text_has_every_cell(built, capsys):
    Console(width=200).print(report.to_table(built.sections[0].tables[0]))
    text = capsys.readouterr().out
    for row in rows(built):
        assert all(cell in text for cell in row)


def test_notes_say_what_few_pairs_can_show(built):
    notes = all_notes(built)
    assert "with 3 pairs it cannot be below 0.25, so no arm can differ at 0.05" in notes
    assert (
        "apalu is better than none, worse than none, not told apart from relu" in notes
    )
    assert "margin ±1.00 percentage points" in notes
    assert "Incomplete" not in notes
    assert built.verdict == []


def test_notes_follow_the_direction_of_the_metric():
    seeds = range(10)
    runs = make_runs(
        {
            "relu": [0.2 + s / 1000 for s in seeds],
            "gelu": [0.9 - s / 1000 for s in seeds],
            "apalu": [0.5 + s / 500 for s in seeds],
        }
    )
    spec = tiny(arms=("relu", "gelu", "apalu"), controls=(), seeds=10)
    notes = all_notes(report.build(spec, runs))
    assert "better than relu, worse than gelu, not told apart from none" in notes
    assert "above zero" in notes
    spec = replace(spec, metric=replace(spec.metric, higher_is_better=False))
    notes = all_notes(report.build(spec, runs))
    assert "better than gelu, worse than relu" in notes
    assert "below zero" in notes


def test_what_is_incomplete_failed_diverged_or_mixed_is_said(finished_run):
    spec, _, found = finished_run
    runs = [r for r in found if (r.arm, r.seed) != ("relu", 2)]
    runs[0] = replace(
        runs[0], status="failed", value=None, history={"error": "out of memory"}
    )
    runs[1] = replace(runs[1], status="diverged", value=0.1, platform="other")
    labelled = {**runs[2].versions, "data": "a copy"}
    runs[2] = replace(runs[2], versions=labelled)
    built = report.build(spec, runs)
    notes = all_notes(built)
    assert "Incomplete: 8 of 9 declared runs." in notes
    assert "Failed: out of memory" in notes
    # Which data it was is no set-up, but is said.
    assert "2 different set-ups" in notes
    assert "data a copy" in dict(built.declaration)["made with"]
    assert rows(built)[0][-1] == (
        "1 diverged; 1 failed; one pair: no interval; 1 of 3 pairs"
    )
    assert rows(built)[0][2] == "10.00 ± -"


def test_metric_without_percent(finished_run):
    spec, _, found = finished_run
    spec = replace(spec, metric=replace(spec.metric, percent=False))
    assert rows(report.build(spec, found))[1][2].startswith("0.")


CLAIM = Claim(text="APALU is better.", source="table 1", arms=("relu",))
VARIANTS = {"same": {}, "gain": {"model": {"init": "gain"}}}


@pytest.fixture(scope="module")
def large():
    """Two variants, units and metrics, a claim and a search; splits overlap."""
    spec = tiny(
        units=UNITS,
        variants=VARIANTS,
        also=(RMSE,),
        claim=CLAIM,
        tuning=Grid(factors=(0.5, 1.0), seeds=2),
    )
    runs = [
        replace(run, variant=variant, activations=learned(run), history=noted(run))
        for variant in VARIANTS
        for run in make_units(also=lambda value: 2 - value)
    ]
    searches = [
        Tuning(
            arm=arm,
            variant="same",
            unit=unit,
            factor=0.5,
            scores={"0.5": [0.5, 0.6], "1.0": [0.4, None]},
            runs=4,
            wall_s=2.5,
            config_hash=spec.config_hash,
        )
        for arm in ("relu", "apalu")
        for unit in UNITS
    ]
    return spec, runs, searches


TABLE = ("a table", "")
SITES = [f"block_{i}/APALU_0" for i in range(20)]


def learned(run):
    """Of every APALU of a deep network the quartiles over its channels."""
    if run.arm != "apalu":
        return {}
    ends = {"a": [[0.55] * 3, [0.5, 0.6, 0.7]], "b": [[0.065] * 3, [0.1, 0.2, 0.3]]}
    counts = {"low": -4.0, "high": 4.0, "counts": [1, 5, 5, 1]}
    inputs = {**counts, "below": 0, "above": 0, "nan": 0}
    return {site: {**ends, "inputs": inputs} for site in SITES}


def noted(run):
    """Notes at the start and after two of ten epochs."""
    return {
        **run.history,
        "epochs": [0, 5, 10],
        "train": {"loss": [2.0, 1.0]},
        "validation": {"accuracy": [0.4, run.value]},
        "activations": {
            site: {name: [*ends[name], ends[name][1]] for name in "ab"}
            for site, ends in learned(run).items()
        },
    }


@pytest.fixture(scope="module")
def large_report(large):
    return report.build(*large)


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
    spec, runs, _ = large
    built = report.build(replace(spec, pair_by="unit"), runs)
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
    assert "It cost 16 runs and 10 seconds; 4 of 4 searches ended at an end" in text
    assert "4 factors diverged" in text


def test_baselines_stand_beside_published_figures(large):
    spec, runs, _ = large
    where = {"arm": "relu", "source": "a table", "unit": "large"}
    published = (
        Published(metric="accuracy", low=0.21, high=0.25, **where),
        Published(metric="accuracy", low=0.2, high=0.2, comment="longer", **where),
        Published(metric="rmse", low=1.5, high=1.7, variant="gain", **where),
        Published(metric="rmse", low=1.0, high=1.5, arm="relu", source="all"),
    )
    spec = replace(spec, published=published)
    (section,) = report.build(spec, runs).others
    here = "20.00 (n = 3)"
    assert section.tables[0].rows == [
        ("relu, same, large", "accuracy, %", "21.00 to 25.00", here, "-1.00", *TABLE),
        ("relu, same, large", "accuracy, %", "20.00", here, "0", "a table", "longer"),
        ("relu, gain, large", "rmse", "1.5 to 1.7", "1.8 (n = 3)", "0.1", *TABLE),
        ("relu, same", "rmse", "1 to 1.5", "1.6 (n = 6)", "0.1", "all", ""),
    ]
    assert report.build(spec, []).others == []
    accuracy, rmse = spec.metrics
    assert baselines.published_range(spec, "same", accuracy, "relu") == "-"
    assert baselines.published_range(spec, "same", rmse, "relu") == "1 to 1.5"
    overall = Published(metric="accuracy", low=0.2, high=0.3, arm="relu", source="all")
    spec = replace(spec, published=(overall,))
    assert baselines.published_range(spec, "same", accuracy, "relu") == "20.00 to 30.00"
    assert baselines.published_range(spec, "gain", accuracy, "relu") == "-"


def test_pages_of_a_large_report(large_report, tmp_path):
    text = report.write_markdown(large_report, tmp_path).read_text()
    first = text.index("**Claim: APALU is better. (table 1)**")
    verdict = text.index("**Verdict (variant same): not resolved. At 0.05")
    assert first < verdict < text.index("## Test accuracy, variant same")
    assert "## Search for a learning rate" in text
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


def write_result(folder, spec, runs, searches=()):
    folder.mkdir()
    (folder / "spec.json").write_text(spec.to_json())
    stamped = [replace(run, config_hash=spec.config_hash) for run in runs]
    records.append(folder / records.FILE_NAME, stamped)
    lines = [json.dumps(asdict(search)) + "\n" for search in searches]
    (folder / tuning.FILE_NAME).write_text("".join(lines))


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
        arms=("relu", "gelu", "apalu"), controls=(), seeds=10, claim=CLAIM, name="b"
    )
    write_result(tmp_path / "b", spec, runs)
    (tmp_path / "elsewhere").mkdir()
    return tmp_path


def test_verdicts_over_a_collection(large, collection):
    folders = report.find(collection)
    assert folders == [collection / "a", collection / "b"]
    assert report.find(folders[0]) == folders[:1]
    results = [report.read(folder) for folder in folders]
    assert results[0].tunings == large[2]
    (cells,) = report.overview(results).tables
    first, second = cells.rows
    assert [reason.split(":")[0] for reason in report.reasons(results)] == [
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
    published = replace(results[1].spec, published=(figure,))
    (cells,) = report.overview([results[1]._replace(spec=published)]).tables
    assert cells.rows[0][5:7] == ("gelu, 39.55", "40.00 to 50.00")
    # A claim that some level is reached is shown in the metric that it is about.
    level = replace(CLAIM, level=1.0, metric="rmse")
    spec = replace(results[0].spec, claim=level)
    (cells,) = report.overview([results[0]._replace(spec=spec)]).tables
    assert cells.rows[0][3].startswith("rmse")
    with pytest.raises(ExperimentError, match="no folder in it has one"):
        report.find(collection / "elsewhere")


def test_readme_holds_the_verdicts(collection):
    results = [report.read(folder) for folder in report.find(collection)]
    readme = collection / "README.md"
    other = "<!-- table: ops -->\nkept\n<!-- end -->\n"
    readme.write_text(f"{other}<!-- table: verdicts -->\nold\n<!-- end -->\nafter\n")
    assert report.update_readme(readme, results, check=True)
    assert "old" in readme.read_text()
    assert report.update_readme(readme, results)
    text = readme.read_text()
    assert text.startswith(other)
    assert text.endswith("<!-- end -->\nafter\n")
    assert "| b (smoke) | APALU is better. | supported |" in text
    assert "old" not in text
    assert not report.update_readme(readme, results, check=True)
    readme.write_text(other)
    with pytest.raises(ExperimentError, match="must mark the place"):
        report.update_readme(readme, results)


def test_markdown_shows_its_figures(built, tmp_path):
    text = report.write_markdown(built, tmp_path).read_text()
    assert "| relu | 3 |" in text
    assert built.question in text
    pictures = re.findall(r"!\[\w+\]\((.*?)\)", text)
    assert pictures == [f"figures/{name}.png" for name in FIGURES + LEARNED]
    for picture in pictures:
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


def test_html_stands_alone(built, tmp_path):
    text = report.write_html(built, tmp_path).read_text()
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]
    assert "<td>apalu-frozen</td>" in text
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    pictures = re.findall(r'src="data:image/png;base64,(.*?)"', text)
    assert len(pictures) == len(FIGURES + LEARNED)
    for picture in pictures:
        assert base64.b64decode(picture).startswith(b"\x89PNG")


def test_figures_are_drawn_once(finished_run, tmp_path, monkeypatch):
    spec, _, found = finished_run
    fresh, savefig, drawn = report.build(spec, found), Figure.savefig, []

    def noting(figure, *args, **options):
        drawn.append(figure)
        savefig(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", noting)
    report.write_markdown(fresh, tmp_path)
    report.write_html(fresh, tmp_path)
    assert len(drawn) == len(set(drawn)) == len(fresh.figures)


def test_declaration_is_printed(finished_run, built, tmp_path):
    spec, _, _ = finished_run
    text = report.write_html(built, tmp_path).read_text()
    for declared in (
        "margin of accuracy",
        "±1.00",
        spec.config_hash,
        "learning_rate = 0.003",
        "init = he",
        "one trained pair (a, b) per layer",
    ):
        assert declared in text


def test_figures_show_the_runs(built):
    # What the frozen control holds has not been learned.
    assert list(built.figures) == FIGURES + LEARNED
    figure = built.figures["learning_curves"].figure
    panels = figure.axes
    assert [axes.get_title() for axes in panels] == ["relu", "apalu-frozen"]
    for axes in panels:
        labels = [line.get_label() for line in axes.lines]
        assert labels == ["apalu", axes.get_title()]
    assert figure.get_supylabel() == "validation accuracy, %"
    assert max(panels[0].lines[0].get_ydata()) > 60
    shapes = built.figures["shapes_apalu"].figure
    titles = [axes.get_title() for axes in shapes.axes if axes.get_title()]
    assert [title.split("\n")[0] for title in titles] == ["APALU_0", "APALU_1"]
    lines = built.figures["intervals"].figure.axes[0]
    names = [label.get_text() for label in lines.get_yticklabels()]
    assert names == ["relu", "apalu-frozen"]


def test_no_record_gives_an_empty_report():
    built = report.build(tiny(), [])
    assert rows(built) == []
    assert built.figures == {}
    assert any("Incomplete: 0 of 9" in note for note in built.notes)
    assert built.others == []
