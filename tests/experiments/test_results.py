"""The results that are kept belong to the experiments of this version."""

from pathlib import Path

import pytest

from apalu_jax.experiments import report, specs

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "notebooks" / "results"


def read(part):
    found = [report.read(folder) for folder in sorted((RESULTS / part).glob("*/"))]
    assert found
    return found


@pytest.fixture(scope="module")
def results():
    return read("experiments")


def check(spec, declared, found):
    assert declared == spec
    assert len(found) == len({record.key for record in found}) > 0


def test_records_are_of_what_is_declared_now(results):
    for folder, spec, found, _ in results:
        assert folder.name == spec.name
        check(spec, specs.load(spec.name, spec.preset), found)


def test_records_of_checks_are_of_what_is_declared_now():
    """Full presets of single units."""
    for folder, spec, found, _ in read("checks"):
        assert folder.name == f"{spec.name}-{spec.preset}"
        check(spec, specs.load(spec.name, spec.preset, list(spec.units)), found)


def test_verdicts_in_the_readme_agree_with_the_records(results):
    assert not report.update_readme(ROOT / "README.md", results, check=True)
