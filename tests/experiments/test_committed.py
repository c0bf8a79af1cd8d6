"""The committed results belong to the experiments of this version."""

import gzip
import re
from pathlib import Path

import pytest

from apalu_jax.experiments import report, results, specs
from apalu_jax.experiments.runner.plan import plan, wanted_keys

from .helpers import RESULTS, ROOT

PAGES = (
    ROOT / "README.md",
    RESULTS / "experiments" / "README.md",
    ROOT / "docs" / "pages" / "does-it-help.md",
)
REPORTS = sorted((RESULTS / "experiments").glob("*/report.md"))


def read(part):
    found = [results.read(folder) for folder in sorted((RESULTS / part).glob("*/"))]
    assert found
    return found


@pytest.fixture(scope="module")
def committed():
    return read("experiments")


@pytest.fixture(scope="module")
def overview(committed):
    return report.overview(committed)


def check(found, declared):
    """The records are of what is declared now, or their report says what is later."""
    assert found.spec == declared
    assert {r.run_hash for r in found.records} == {declared.run_hash}
    later = {r.declaration_hash for r in found.records} != {declared.declaration_hash}
    page = (found.folder / "report.md").read_text()
    assert ("The declaration was changed after the run" in page) == later


def test_records_are_of_what_is_declared_now(committed):
    for found in committed:
        assert found.folder.name == found.spec.name
        check(found, specs.load(found.spec.name, found.spec.preset))


def test_every_declared_run_is_recorded_once(committed):
    for found in committed:
        lines = gzip.open(found.folder / "records.jsonl.gz").read().splitlines()
        assert len(lines) == len(found.records)
        assert plan(found, wanted_keys(found.spec, None, None)) == []


def test_spec_files_tell_the_time_and_the_numbers_of_the_records(committed, overview):
    rows = overview.section.tables[0].rows
    for found, row in zip(committed, rows, strict=True):
        spec = found.spec
        head = (Path(specs.__file__).with_name(f"{spec.name}.toml")).read_text()
        assert f"# Command: apalu run {spec.name} --preset {spec.preset}\n" in head
        minutes = sum(record.wall_s for record in found.records) / 60
        time, unit = re.search(r"# Time: (\S+) (hours|minutes) on", head).groups()
        assert minutes == pytest.approx(
            float(time) * (60 if unit == "hours" else 1), rel=0.05
        )
        (expected,) = re.findall(rf"# Expected: .*: {spec.reference} (\S+)", head)
        assert expected.strip(",") == row[4]


def test_records_of_checks_are_of_what_is_declared_now():
    """Full presets of single units."""
    for found in read("checks"):
        spec = found.spec
        assert found.folder.name == f"{spec.name}-{spec.preset}"
        check(found, specs.load(spec.name, spec.preset, spec.unit_names))


def test_committed_results_are_slim():
    files = [path for path in RESULTS.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in (".html", ".jsonl")]
    assert sum(path.stat().st_size for path in files) < 5_000_000


@pytest.mark.parametrize("page", PAGES, ids=["main", "experiments", "site"])
def test_verdicts_on_a_page_agree_with_the_records(overview, page):
    assert not report.update_readme(page, overview, check=True)


def test_links_of_the_page_lead_somewhere():
    page = PAGES[1]
    links = re.findall(r"\]\(([^)]+)\)", page.read_text())
    assert {f"{folder.parent.name}/report.md" for folder in REPORTS} <= {*links}
    assert all((page.parent / link).exists() for link in links)


# Differences between apalu and an arm that the pages tell in words.
TOLD = {
    "cnn-mnist": {"elu": "+0.26"},
    "deep-svdd-mnist": {"elu": "-2.06", "apalu-frozen": "-0.11"},
    "googlenet-cifar10": {
        "relu": "+1.40",
        "leaky_relu": "+1.41",
        "elu": "-4.84",
        "prelu": "-1.56",
        "apalu-frozen": "+1.81",
        "apalu-smooth": "-3.96",
        "apalu-channel": "+2.18",
    },
    "mobilenet-cifar10": {
        "elu": "-3.82",
        "apalu-frozen": "+7.22",
        "apalu-smooth": "-4.15",
        "apalu-channel": "+9.19",
    },
}
# The same with their intervals, as they stand in a report.
INTERVALS = {
    "regression-dnn": [
        "| -3.67 | -8.55 to +0.08 |",
        "| +0.93 | -5.62 to +10.27 |",
        "| weighted mean |  | -0.80 (-2.00 to +0.41) |",
    ],
    "regression-rnn": [
        "| -1.39 | -5.20 to +0.62 |",
        "| -1.10 | -3.38 to +0.57 |",
        "| -0.34 | -3.48 to +2.33 |",
    ],
}
TWO_DECIMALS = re.compile(r"(?<![\d.])\d+\.\d\d(?![\d.])")


@pytest.mark.parametrize("page", ["does-it-help.md", "choosing.md"])
def test_numbers_in_words_are_those_of_the_reports(page):
    for experiment, told in TOLD.items():
        report_text = (RESULTS / "experiments" / experiment / "report.md").read_text()
        for arm, number in told.items():
            assert re.search(
                rf"^\| {arm} \| \d+ \| .*{re.escape(number)} [|±]", report_text, re.M
            )
    for experiment, told in INTERVALS.items():
        report_text = (RESULTS / "experiments" / experiment / "report.md").read_text()
        assert all(passage in report_text for passage in told)
    text = (ROOT / "docs" / "pages" / page).read_text()
    text = re.sub(r"<!-- table.*?<!-- end|```.*?```|`.*?`", "", text, flags=re.DOTALL)
    numbers = set(TWO_DECIMALS.findall(text))
    known = {number.strip("+-") for told in TOLD.values() for number in told.values()}
    known |= {n for told in INTERVALS.values() for n in TWO_DECIMALS.findall(str(told))}
    assert numbers and numbers <= known
