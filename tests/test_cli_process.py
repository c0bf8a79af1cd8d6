"""The command as a process of its own, in environments that lack something."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import apalu_jax
from tests.helpers import QUICK_ENVIRONMENT

REPORTS = str(Path(__file__).parents[1] / "notebooks" / "results" / "experiments")
RUN = ("run", "digits", "--preset", "smoke")

pytestmark = pytest.mark.process


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_package_is_a_command():
    module = [sys.executable, "-m", "apalu_jax", "--version"]
    said = subprocess.run(module, capture_output=True, text=True, check=True).stdout
    assert said == f"apalu_jax {apalu_jax.__version__}\n"
    completed = subprocess.run(
        module[:-1],
        env={
            **os.environ,
            "_APALU_COMPLETE": "complete_bash",
            "COMP_WORDS": "apalu run dig",
            "COMP_CWORD": "2",
        },
        capture_output=True,
        text=True,
    )
    assert completed.stdout.split() == ["digits"]


@pytest.mark.parametrize("name", ["scipy", "jinja2", "typer"])
def test_a_missing_extra_is_one_line(name):
    program = (
        f"import sys; sys.modules[{name!r}] = None; from apalu_jax.cli import main; "
        f"sys.argv = ['apalu', 'report', {REPORTS!r}]; main()"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert name in done.stderr and ".[experiments]" in done.stderr


def test_run(tmp_path):
    said = subprocess.run(
        [sys.executable, "-m", "apalu_jax", *RUN, "--arms", "relu", "--out", "digits"],
        capture_output=True,
        text=True,
        env={**os.environ, **QUICK_ENVIRONMENT},
    )
    assert said.returncode == 0, said.stderr
    assert "Incomplete: 3 of 24 declared runs." in said.stdout
    assert (tmp_path / "digits" / "report.html").exists()


def test_a_wrong_platform_is_one_line():
    wrong = {**os.environ, "JAX_PLATFORMS": "abacus"}
    command = [sys.executable, "-m", "apalu_jax", *RUN]
    done = subprocess.run(command, env=wrong, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "abacus" in done.stderr
