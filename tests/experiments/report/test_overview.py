"""Verdicts over several results together."""

import pytest
from msgspec.structs import replace

from apalu_jax.experiments import ExperimentError, report, results
from apalu_jax.experiments.results import Results
from apalu_jax.experiments.specs import Published

from ..helpers import SETUP, hashes, make_runs, tiny
from .helpers import CLAIM, GATE

UNRESOLVED = "not resolved under tiny training"
SUPPORTED = "claimed size supported"


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
        arms=("relu", "gelu", "apalu"),
        ablations=(),
        seeds=10,
        claim=CLAIM,
        gates=(GATE,),
        name="b",
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
    judged = report.overview(found)
    (cells,) = judged.section.tables
    first, second = cells.rows
    assert [reason.split(":")[0] for reason in judged.reasons] == ["digits", "b"]
    assert first[:3] == ("digits (tiny, same)", CLAIM.text, UNRESOLVED)
    assert second[:8] == (
        *("b (tiny)", CLAIM.text, f"{SUPPORTED} under tiny training"),
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
    (cells,) = report.overview([Results(published, found[1].records)]).section.tables
    assert cells.rows[0][5:7] == ("gelu, 39.55", "40.00 to 50.00")
    # A claim that some level is reached is shown in the metric that it is about.
    level = replace(CLAIM, arms=(), effect=None, level=1.0, metric="rmse")
    spec = replace(found[0].spec, claim=level)
    (cells,) = report.overview([Results(spec, found[0].records)]).section.tables
    assert cells.rows[0][3].startswith("rmse")
    with pytest.raises(ExperimentError, match="no folder in it has one"):
        results.find(collection / "elsewhere")


def test_readme_holds_the_verdicts(collection):
    found = report.overview(map(results.read, results.find(collection)))
    readme = collection / "README.md"
    other = "<!-- table: ops -->\nkept\n<!-- end -->\n"
    readme.write_text(f"{other}<!-- table: verdicts -->\nold\n<!-- end -->\nafter\n")
    assert report.update_readme(readme, found, check=True)
    assert "old" in readme.read_text()
    assert report.update_readme(readme, found)
    text = readme.read_text()
    assert text.startswith(other)
    assert text.endswith("<!-- end -->\nafter\n")
    assert f"| b (tiny) | APALU is better. | {SUPPORTED} under tiny training |" in text
    assert "old" not in text
    assert not report.update_readme(readme, found, check=True)
    readme.write_text("<!-- table: verdicts short -->\n<!-- end -->\n")
    assert report.update_readme(readme, found)
    short = f"| b | APALU is better. | {SUPPORTED} under tiny training | 10 | accuracy"
    assert f"{short} against gelu: +11.35" in readme.read_text()
    readme.write_text(other)
    with pytest.raises(ExperimentError, match="must mark the place"):
        report.update_readme(readme, found)
