import base64
import re
from dataclasses import replace

import pytest
from rich.console import Console

from apalu_jax.experiments import report

from .conftest import tiny
from .test_statistics import make_runs

FIGURES = ["learning_curves", "training_loss", "shapes_apalu", "evolution_apalu"]


@pytest.fixture(scope="module")
def built(finished_run):
    spec, _, found = finished_run
    return report.build(spec, found)


def test_table_holds_the_statistics(finished_run, built):
    _, _, found = finished_run
    assert [row[0] for row in built.rows] == ["relu", "apalu", "apalu-frozen"]
    relu, apalu, frozen = built.rows
    mean = sum(r.value for r in found if r.arm == "apalu") / 3
    assert apalu[1] == "3"
    assert apalu[2].startswith(f"{100 * mean:.2f} ± ")
    assert apalu[3:] == ("", "", "", "", "")
    assert re.fullmatch(r"[+-]\d+\.\d\d", relu[3])
    assert re.fullmatch(r"[+-]\d+\.\d\d to [+-]\d+\.\d\d", relu[4])
    # One arm in the family: Holm changes nothing. The control is not in it.
    assert relu[5] == relu[6]
    assert frozen[6:] == ("-", "control")


def test_text_has_every_cell(built, capsys):
    Console(width=140).print(report.to_table(built))
    text = capsys.readouterr().out
    for row in built.rows:
        assert all(cell in text for cell in row)


def test_notes_say_what_few_pairs_can_show(built):
    notes = " ".join(built.notes)
    assert "with 3 pairs it cannot be below 0.25, so no arm can differ at 0.05" in notes
    assert (
        "apalu is better than none, worse than none, not told apart from relu" in notes
    )
    assert "Incomplete" not in notes


def test_verdict_follows_the_direction_of_the_metric():
    seeds = range(10)
    runs = make_runs(
        {
            "relu": [0.2 + s / 1000 for s in seeds],
            "gelu": [0.9 - s / 1000 for s in seeds],
            "apalu": [0.5 + s / 500 for s in seeds],
        }
    )
    history = {"train": {"loss": [1.0]}, "validation": {"accuracy": [0.5]}}
    runs = [replace(r, history=history, activations={}) for r in runs]
    spec = tiny(arms=("relu", "gelu", "apalu"), controls=(), seeds=10)
    notes = " ".join(report.build(spec, runs).notes)
    assert "better than relu, worse than gelu, not told apart from none" in notes
    assert "above zero" in notes
    spec = replace(spec, metric=replace(spec.metric, higher_is_better=False))
    notes = " ".join(report.build(spec, runs).notes)
    assert "better than gelu, worse than relu" in notes
    assert "below zero" in notes


def test_what_is_incomplete_failed_diverged_or_mixed_is_said(finished_run):
    spec, _, found = finished_run
    runs = [r for r in found if (r.arm, r.seed) != ("relu", 2)]
    runs[0] = replace(
        runs[0], status="failed", value=None, history={"error": "out of memory"}
    )
    runs[1] = replace(runs[1], status="diverged", value=0.1, platform="other")
    built = report.build(spec, runs)
    notes = " ".join(built.notes)
    assert "Incomplete: 8 of 9 declared runs." in notes
    assert "Failed: out of memory" in notes
    assert "2 different set-ups" in notes
    assert built.rows[0][-1] == "1 diverged; 1 failed; one pair: no interval"
    assert built.rows[0][2] == "10.00 ± -"


def test_metric_without_percent(finished_run):
    spec, _, found = finished_run
    spec = replace(spec, metric=replace(spec.metric, percent=False))
    assert report.build(spec, found).rows[1][2].startswith("0.")


def test_markdown_shows_its_figures(built, tmp_path):
    text = report.write_markdown(built, tmp_path).read_text()
    assert "| relu | 3 |" in text
    assert built.question in text
    pictures = re.findall(r"!\[\w+\]\((.*?)\)", text)
    assert pictures == [f"figures/{name}.png" for name in FIGURES]
    for picture in pictures:
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


def test_html_stands_alone(built, tmp_path):
    text = report.write_html(built, tmp_path).read_text()
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]
    assert "<td>apalu-frozen</td>" in text
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    pictures = re.findall(r'src="data:image/png;base64,(.*?)"', text)
    assert len(pictures) == len(FIGURES)
    for picture in pictures:
        assert base64.b64decode(picture).startswith(b"\x89PNG")


def test_declaration_is_printed(finished_run, built, tmp_path):
    spec, _, _ = finished_run
    text = report.write_html(built, tmp_path).read_text()
    for declared in (
        "margin",
        "±1.00",
        spec.config_hash,
        "learning_rate = 0.003",
        "init = he",
        "one trained pair (a, b) per layer",
    ):
        assert declared in text


def test_figures_show_the_runs(built):
    assert list(built.figures) == FIGURES
    curves = built.figures["learning_curves"][0].axes[0]
    assert [line.get_label() for line in curves.lines] == [
        *("relu", "apalu", "apalu-frozen")
    ]
    assert curves.get_ylabel() == "validation accuracy, %"
    assert max(curves.lines[1].get_ydata()) > 60
    shapes = built.figures["shapes_apalu"][0]
    titles = [axes.get_title() for axes in shapes.axes if axes.get_title()]
    assert [title.split("\n")[0] for title in titles] == ["APALU_0", "APALU_1"]


def test_no_record_gives_an_empty_report():
    built = report.build(tiny(), [])
    assert built.rows == []
    assert built.figures == {}
    assert any("Incomplete: 0 of 9" in note for note in built.notes)
