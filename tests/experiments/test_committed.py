"""The committed results belong to the experiments of this version."""

import pytest

from apalu_jax.experiments import report, results, specs

from .helpers import RESULTS, ROOT


def read(part):
    found = [results.read(folder) for folder in sorted((RESULTS / part).glob("*/"))]
    assert found
    return found


@pytest.fixture(scope="module")
def committed():
    return read("experiments")


def check(found, declared):
    """The records are of what is declared now, and nothing is left to be shown."""
    assert found.spec.run_hash == declared.run_hash
    assert found.spec.declaration_hash == declared.declaration_hash
    assert {r.run_hash for r in found.records} == {declared.run_hash}
    assert {r.declaration_hash for r in found.records} == {declared.declaration_hash}


def test_records_match_the_current_declarations(committed):
    for found in committed:
        assert found.folder.name == found.spec.name
        check(found, specs.load(found.spec.name, found.spec.preset))


def test_records_of_checks_match_the_current_declarations():
    """Full presets of single units."""
    for found in read("checks"):
        spec = found.spec
        assert found.folder.name == f"{spec.name}-{spec.preset}"
        check(found, specs.load(spec.name, spec.preset, spec.unit_names))


def test_committed_results_are_slim():
    files = [path for path in RESULTS.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in (".html", ".jsonl")]
    assert sum(path.stat().st_size for path in files) < 5_000_000


def test_verdicts_in_the_readme_agree_with_the_records(committed):
    assert not report.update_readme(ROOT / "README.md", committed, check=True)
