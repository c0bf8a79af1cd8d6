"""The results that are kept belong to the experiments of this version."""

from pathlib import Path

import pytest

from apalu_jax.experiments import report, specs

ROOT = Path(__file__).parents[2]
FOLDERS = sorted((ROOT / "notebooks" / "results" / "experiments").glob("*/"))


@pytest.fixture(scope="module")
def results():
    return [report.read(folder) for folder in FOLDERS]


def test_records_are_of_what_is_declared_now(results):
    assert results
    for folder, spec, found, _ in results:
        assert folder.name == spec.name
        assert specs.load(spec.name, spec.preset) == spec
        assert len(found) == len({record.key for record in found}) > 0


def test_verdicts_in_the_readme_agree_with_the_records(results):
    assert not report.update_readme(ROOT / "README.md", results, check=True)
