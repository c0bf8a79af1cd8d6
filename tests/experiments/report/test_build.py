"""A report on one experiment, in all forms."""

import re

import pytest
from matplotlib.figure import Figure
from msgspec.structs import replace

from apalu_jax._tables import fit_table
from apalu_jax.experiments import report
from apalu_jax.experiments.records import InputCounts

from ..helpers import (
    FIGURES,
    LEARNED,
    RMSE,
    SETUP,
    build_report,
    make_runs,
    results_of,
    tiny,
)
from .helpers import CLAIM


@pytest.fixture(scope="module")
def built(finished_run):
    spec, _, found = finished_run
    return build_report(spec, found)


def rows(built, section=0, table=0):
    return built.sections[section].tables[table].rows


def all_notes(built):
    return " ".join([*built.notes, *built.sections[0].notes])


def test_table_holds_the_statistics(finished_run, built):
    _, _, found = finished_run
    by_arm = {row[0]: row for row in rows(built)}
    relu, apalu, frozen = (by_arm[arm] for arm in ("relu", "apalu", "apalu-frozen"))
    mean = sum(r.value for r in found if r.arm == "apalu") / 3
    assert apalu[1] == "3"
    assert apalu[2].startswith(f"{100 * mean:.2f} ± ")
    assert re.fullmatch(r"\d+\.\d to \d+\.\d", apalu[3])
    assert apalu[4:11] == ("",) * 7
    assert re.fullmatch(r"[+-]\d+\.\d\d", relu[4])
    # Three pairs are no test, and have no interval.
    assert relu[5] == "-"
    assert relu[6:10] == ("-",) * 4
    assert relu[10] == "none"
    assert [row[11] for row in (relu, apalu, frozen)] == [
        *("too few pairs", "reference", "ablation"),
    ]


def test_the_best_arm_stands_first(built):
    means = [float(row[2].split()[0]) for row in rows(built)]
    assert means == sorted(means, reverse=True)
    runs = make_runs({"relu": [0.3] * 3, "apalu": [0.2] * 3})
    spec = tiny(metric=RMSE, ablations=())
    assert [row[0] for row in rows(build_report(spec, runs))] == ["apalu", "relu"]


def test_text_has_every_cell(built):
    table = built.sections[0].tables[0]
    text = fit_table(table.header, table.rows)
    for row in rows(built):
        assert all(cell in text for cell in row)


def test_notes_say_what_few_pairs_can_show(built):
    notes = all_notes(built)
    assert "3 pairs" in notes and "0.25" in notes
    assert "margin ±1.00" in notes
    assert "Incomplete" not in notes
    assert built.verdict == [
        "No test: it takes 6 pairs or more, with differences that vary."
    ]


def test_a_smoke_run_says_no_verdict(finished_run):
    spec, _, found = finished_run
    claim = replace(CLAIM, arms=("relu",))
    built = build_report(replace(spec, preset="smoke", claim=claim), found)
    (sentence,) = built.verdict
    assert "decides nothing" in sentence
    assert "verdict" not in built.sections[0].tables[0].header


def test_six_pairs_that_vary_are_a_test():
    spec = tiny(seeds=6, ablations=())
    steps = [i / 100 for i in range(6)]
    ahead = {"relu": steps, "apalu": [0.5 + 2 * i for i in steps]}
    cells = rows(build_report(spec, make_runs(ahead)))[1]
    assert cells[5] == "+50.00 to +55.00"
    assert cells[6:8] == ("0.0312", "0.0312")
    assert cells[11] == "apalu better"
    constant = {"relu": [0.25] * 6, "apalu": [0.5] * 6}
    built = build_report(spec, make_runs(constant))
    cells = rows(built)[1]
    assert cells[6:10] == ("-",) * 4
    assert cells[11:] == ("no spread", "all differences are equal: no interval")
    assert "p" not in re.findall(r"\w+", built.verdict[0])


def test_mishaps_are_said_in_the_headline():
    spec = tiny(ablations=())
    runs = make_runs({"relu": [0.5] * 3, "apalu": [0.6] * 3})
    paths = {"a": [0.5, 0.4], "b": [0.065, 0.001]}
    many = {"a": [[0.5] * 3, [0.2, 0.3, 0.4]], "b": [[0.1] * 3, [0.001, 0.2, 0.3]]}
    sites = {"APALU_0": paths, "APALU_1": many}
    history = replace(runs[3].history, activations=sites, epochs=[0, 1])
    dead = InputCounts(low=-1, high=1, counts=[0, 0], below=9, above=0, nan=0)
    alive = replace(dead, above=9)
    runs[0] = replace(runs[0], status="diverged", value=0.1)
    inputs = {"APALU_0": alive, "APALU_1": dead}
    runs[3] = replace(runs[3], history=history, inputs=inputs)
    _, *said = build_report(spec, runs).verdict
    assert said == [
        "1 of 3 runs of relu diverged and count with the chance level.",
        "b of apalu ended at the floor, 0.001, in 1 of 3 runs and 2 of 2 layers.",
        "Dead layers of apalu: APALU_1.",
    ]


def test_notes_follow_the_direction_of_the_metric():
    seeds = range(10)
    runs = make_runs(
        {
            "relu": [0.2 + s / 1000 for s in seeds],
            "gelu": [0.9 - s / 1000 for s in seeds],
            "apalu": [0.5 + s / 500 for s in seeds],
        }
    )
    spec = tiny(arms=("relu", "gelu", "apalu"), ablations=(), seeds=10)
    notes = all_notes(build_report(spec, runs))
    assert "better than relu" in notes and "worse than gelu" in notes
    assert "above zero" in notes
    spec = replace(spec, metric=replace(spec.metric, higher_is_better=False))
    notes = all_notes(build_report(spec, runs))
    assert "better than gelu" in notes and "worse than relu" in notes
    assert "below zero" in notes


def test_incomplete_failed_diverged_and_mixed_runs_are_noted(finished_run):
    spec, _, found = finished_run
    runs = [r for r in found if (r.arm, r.seed) != ("relu", 2)]
    runs[0] = replace(runs[0], status="failed", value=None, error="out of memory")
    runs[1] = replace(runs[1], status="diverged", value=0.1, setup=1)
    runs[2] = replace(runs[2], data="a copy")
    results = results_of(spec, runs)
    results.setups.append(replace(SETUP, platform="other"))
    built = report.build(results)
    notes = all_notes(built)
    assert "8 of 9" in notes
    assert "out of memory" in notes
    # Which data it was is no set-up, but is said.
    assert "2 different set-ups" in notes
    assert "data a copy" in dict(built.declaration)["made with"]
    cells = next(row for row in rows(built) if row[0] == "relu")
    remarks = cells[-1]
    assert all(each in remarks for each in ("1 diverged", "1 failed", "1 of 3 pairs"))
    assert cells[2] == "10.00 ± -"


def test_metric_without_percent(finished_run):
    spec, _, found = finished_run
    spec = replace(spec, metric=replace(spec.metric, percent=False))
    assert rows(build_report(spec, found))[1][2].startswith("0.")


def test_the_differences_without_each_unit_stand_with_their_decision():
    units = {f"u{i}": {} for i in range(7)}
    spec = tiny(units=units, pair_by="unit", seeds=2, vmapped_seeds=2)
    runs = []
    for i, unit in enumerate(units):
        # One unit is against: without it six of six agree, p = 2/64.
        ahead = 0.01 * (i + 1) if i < 6 else -0.2
        columns = {"relu": [0.5] * 2, "apalu": [0.5 + ahead] * 2}
        runs += make_runs(columns, unit=unit)
    cells = build_report(spec, runs).sections[0].tables[2]
    assert cells.header == ("left out", "relu", "apalu-frozen")
    *rest, last = cells.rows
    assert re.fullmatch(r"\+3\.50 \(\+\d\.\d\d to \+\d\.\d\d\) \*", last[1])
    assert [row[0] for row in rest] == list(units)[:6]
    assert not any("*" in row[1] for row in rest)
    assert {row[2] for row in cells.rows} == {"-"}


def test_markdown_shows_its_figures(built, tmp_path):
    text = report.write_markdown(built, tmp_path).read_text()
    assert "| relu | 3 |" in text
    assert built.question in text
    pictures = re.findall(r"!\[\w+\]\((.*?)\)", text)
    assert pictures == [f"figures/{name}.png" for name in FIGURES + LEARNED]
    for picture in pictures:
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


def test_no_figure_is_drawn_before_it_is_asked_for(finished_run, monkeypatch):
    spec, _, found = finished_run
    made = []
    first = Figure.__init__
    monkeypatch.setattr(
        Figure, "__init__", lambda *args, **kw: (made.append(1), first(*args, **kw))[1]
    )
    built = build_report(spec, found)
    assert built.figures and not made
    assert built.figures["intervals"].figure and made


def test_figures_are_drawn_once(finished_run, tmp_path, monkeypatch):
    spec, _, found = finished_run
    fresh, savefig, drawn = build_report(spec, found), Figure.savefig, []

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
        spec.run_hash,
        spec.declaration_hash,
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
    # The reference has one color in every panel, and no other line has it.
    colors = [[line.get_color() for line in axes.lines] for axes in panels]
    assert len({reference for reference, _ in colors}) == 1
    assert all(reference != other for reference, other in colors)
    assert figure.get_supylabel() == "validation accuracy, %"
    assert max(panels[0].lines[0].get_ydata()) > 60
    shapes = built.figures["shapes_apalu"].figure
    titles = [axes.get_title() for axes in shapes.axes if axes.get_title()]
    assert [title.split("\n")[0] for title in titles] == ["APALU_0", "APALU_1"]
    lines = built.figures["intervals"].figure.axes[0]
    names = [label.get_text() for label in lines.get_yticklabels()]
    assert {*names} == {"relu", "apalu-frozen"}
    # An ablation is drawn in another color than the arms of the family.
    family, ablation = lines.containers
    assert ablation.get_label() == "ablation"
    rows = [list(group.lines[0].get_ydata()) for group in (family, ablation)]
    ticks = dict(zip(names, lines.get_yticks(), strict=True))
    assert rows == [[ticks["relu"]], [ticks["apalu-frozen"]]]
    assert len({group.lines[0].get_color() for group in (family, ablation)}) == 2


def test_no_record_gives_an_empty_report():
    built = build_report(tiny(), [])
    assert rows(built) == []
    assert built.figures == {}
    assert any("0 of 9" in note for note in built.notes)
    assert built.others == []


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("CIFAR-10", False),
        ("CIFAR-10 (JPEG copy)", True),
        ("Tiles; VGG16, trained on CIFAR-10 (JPEG copy): 56.1 %", True),
    ],
)
def test_a_lossy_copy_is_said_in_the_headline(label, said):
    spec = tiny(ablations=())
    runs = make_runs({"relu": [0.5] * 3, "apalu": [0.6] * 3}, data=label)
    found = [text for text in build_report(spec, runs).verdict if "lossy" in text]
    assert len(found) == said
    assert all("CIFAR-10 (JPEG copy, quality 75)" in text for text in found)
