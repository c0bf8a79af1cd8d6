"""Workflows, issue forms and the template of pull requests."""

import os
import re
import shlex
import shutil
from itertools import product
from pathlib import Path

import pytest
import yaml

import apalu_jax
from apalu_jax._readme import fill
from tests import versions

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(
    path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"
)
# Commands that an extra of pyproject.toml installs.
INSTALLED = {"mkdocs": "docs", "pip": "", "python": ""}


def extras():
    text = (ROOT / "pyproject.toml").read_text()
    return set(re.findall(r"^([\w-]+) = \[", text, re.MULTILINE))


def commands(workflow):
    """Each command of a workflow, as words."""
    for job in workflow["jobs"].values():
        assert job["runs-on"] == "ubuntu-latest"
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            if "uses" in step:
                assert re.fullmatch(r"[\w-]+/[\w-]+@[\w/.]+", step["uses"])
            for line in step.get("run", "").splitlines():
                yield shlex.split(line)


def test_workflows_are_there():
    assert [path.stem for path in WORKFLOWS] == ["docs", "release", "tests"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_commands_of_a_workflow_exist(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    jobs = workflow["jobs"]
    for job in jobs.values():
        needs = job.get("needs", [])
        assert {needs} if isinstance(needs, str) else set(needs) <= set(jobs)
    for command, *words in commands(workflow):
        if command.startswith(".venv/bin/"):
            extra = INSTALLED[Path(command).name]
            assert not extra or any(
                f",{extra}]" in word for *_, word in commands(workflow)
            )
        elif "/" in command:
            assert os.access(ROOT / command, os.X_OK), command
        else:
            assert command == "gh" or shutil.which(command), command
        for word in words:
            for extra in re.findall(r"\[(.*)\]", word):
                assert set(extra.split(",")) <= extras()
            if word.endswith((".py", ".md", "mkdocs.yml")):
                assert (ROOT / word).exists(), word


def test_python_versions_are_those_supported():
    workflow = yaml.safe_load((GITHUB / "workflows" / "tests.yml").read_text())
    pythons = workflow["jobs"]["newest"]["strategy"]["matrix"]["python"]
    assert pythons == list(versions.PYTHONS)
    text = (ROOT / "pyproject.toml").read_text()
    assert f'requires-python = ">={pythons[0]}"' in text


def test_versions_of_jax_are_those_of_the_table():
    workflow = yaml.safe_load((GITHUB / "workflows" / "tests.yml").read_text())
    matrix = workflow["jobs"]["versions"]["strategy"]["matrix"]
    excluded = [(one["python"], one["jax"]) for one in matrix["exclude"]]
    places = [*product(matrix["python"], matrix["jax"])]
    assert [place for place in places if place not in excluded] == versions.MATRIX
    assert f"jax=={versions.JAXES[0]}\n" in (ROOT / ".ci" / "lowest.txt").read_text()


def test_table_of_versions_is_that_of_the_records():
    def render(name, _):
        return versions.table() if name == "versions" else None

    assert fill(versions.PAGE, render, check=True) is False
    records = versions.read()
    assert all(not record["failed"] and record["passed"] for record in records)
    assert {versions.place(record) for record in records} <= set(versions.MATRIX)


def test_a_tag_is_the_version():
    text = (GITHUB / "workflows" / "release.yml").read_text()
    line = f'__version__ = "{apalu_jax.__version__}"'
    assert line in (ROOT / "apalu_jax" / "__init__.py").read_text().splitlines()
    assert 'grep -qx "__version__ = \\"${GITHUB_REF_NAME#v}\\"" apalu_jax' in text
    assert "id-token: write" in text and "password" not in text.replace(
        "without a password", ""
    )


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_have_what_github_needs(path):
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "labels", "body"} == set(form)
    ids = [field["id"] for field in form["body"]]
    assert len(set(ids)) == len(ids)
    for field in form["body"]:
        assert field["type"] in {"textarea", "input", "dropdown", "checkboxes"}
        assert field["attributes"]["label"]
    assert any(f.get("validations", {}).get("required") for f in form["body"])


def test_forms_and_template():
    assert [path.stem for path in FORMS] == ["bug", "feature", "question"]
    config = yaml.safe_load((GITHUB / "ISSUE_TEMPLATE" / "config.yml").read_text())
    assert config == {"blank_issues_enabled": False}
    assert ".ci/run" in (GITHUB / "PULL_REQUEST_TEMPLATE.md").read_text()
