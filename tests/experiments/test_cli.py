"""The commands `apalu run` and `apalu report`: hostile strings, interruption."""

import signal
import subprocess
import sys

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from apalu_jax.cli import app
from apalu_jax.experiments import results
from apalu_jax.experiments.specs import Claim, LRSearch, Metric, Published

from .helpers import SETUP, hashes, make_record, make_runs, tiny

# Markup of rich, a title and a color for the terminal, a C1 control, a reversed text.
EVIL = "[bold]x[/bold]\x1b]0;owned\x07\x1b[31m\x9b31m\u202e\rend"
SHOWN = r"[bold]x[/bold]\x1b]0;owned\x07\x1b[31m\x9b31m\u202e\rend"
DIGITS = ("run", "digits", "--preset", "smoke")


def invoke(*args):
    # With colors, as typer would else drop the very characters that are looked for.
    return CliRunner().invoke(app, list(map(str, args)), color=True)


def write(folder, spec, runs, record=None):
    folder.mkdir()
    found = results.Results(spec, folder=folder)
    found.setup_index(SETUP)
    found.append([replace(run, **hashes(spec)) for run in runs])
    return folder


VALUES = {"relu": [0.5, 0.6, 0.7], "apalu": [0.6, 0.7, 0.9]}
CLAIM = Claim(text="It is better.", source="table 1", arms=("relu",))
PUBLISHED = Published(arm="relu", metric="accuracy", low=0.4, high=0.6, source=EVIL)
EVIL_METRIC = Metric(name=EVIL, higher_is_better=True, margin=0.1)
SEARCH = LRSearch(multipliers=(1.0,), seeds=1)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"title": EVIL}, {}),
        ({"name": EVIL}, {}),
        ({"preset": EVIL}, {}),
        ({"units": {EVIL: {}, "b": {}}, "lr_search": SEARCH}, {"unit": EVIL}),
        ({"variants": {EVIL: {}}}, {"variant": EVIL}),
        ({"metric": EVIL_METRIC}, {}),
        ({"claim": replace(CLAIM, text=EVIL)}, {}),
        ({"claim": replace(CLAIM, source=EVIL)}, {}),
        ({"published": (PUBLISHED,)}, {}),
        ({"published": (replace(PUBLISHED, source="x", comment=EVIL),)}, {}),
        ({"arms": ("relu", EVIL, "apalu")}, {}),
    ],
)
def test_strings_of_a_declaration_are_printed_as_they_are(tmp_path, changes, where):
    spec = tiny(**{"ablations": (), **changes})
    runs = make_runs(VALUES, **where)
    if spec.lr_search:
        runs.append(
            make_record(kind="search", seed=1000, arm="relu", status="ok", **where)
        )
    folder = write(tmp_path / "run", spec, runs)
    shown = [invoke("report", folder), invoke("report", tmp_path)]
    assert shown[1].exit_code == 0
    for result in shown:
        assert result.exit_code in (0, 2)
        assert all(c.isprintable() or c == "\n" for c in result.output)
    # A terminal does not show the title.
    shown = shown if "title" not in changes else []
    texts = ["".join(result.output.split()) for result in shown]
    assert not shown or any(SHOWN in text or repr(EVIL)[1:-1] in text for text in texts)


def test_reason_of_a_failed_run_is_printed_as_it_is(tmp_path):
    failed = make_record(arm="relu", seed=0, value=None, status="failed", error=EVIL)
    runs = [failed, *make_runs(VALUES)[1:]]
    result = invoke("report", write(tmp_path / "run", tiny(ablations=()), runs))
    assert f"- Failed: {SHOWN}\n" in result.output


@pytest.mark.parametrize("name", [EVIL, "[bold]"])
def test_name_in_an_error_is_printed_as_it_is(name):
    result = invoke("run", name)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "\x1b" not in result.stderr


def interrupting(function, times):
    """A function that Ctrl-C ends at its call of that number."""
    calls = iter(range(times))

    def interrupted(*args, **kwargs):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    return interrupted


@pytest.mark.parametrize(
    ("target", "times", "message"),
    [
        ("apalu_jax.experiments.specs.load", 0, "interrupted\n"),
        ("apalu_jax.experiments.runner.run.plan", 0, "holds 0 finished runs, "),
        ("apalu_jax.experiments.data.load", 0, "holds 0 finished runs, "),
        ("apalu_jax.experiments.training.loop.train", 1, "holds 3 finished runs, "),
        ("apalu_jax.experiments.report.build", 0, "interrupted\n"),
    ],
)
def test_ctrl_c_is_one_line_and_status_130(
    tmp_path, monkeypatch, target, times, message
):
    module, _, name = target.rpartition(".")
    function = getattr(sys.modules[module], name)
    monkeypatch.setattr(sys.modules[module], name, interrupting(function, times))
    arms = ("--arms", "relu") if target.endswith("build") else ()
    result = invoke(*DIGITS, *arms, "--out", tmp_path / "run")
    assert result.exit_code == 130
    assert result.stderr.startswith("apalu: interrupted")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert ("continue with --resume" in result.stderr) == message.startswith("holds")


IMPORTING = """
import signal
import sys

# A shell starts what it runs in the background with Ctrl-C ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
from apalu_jax.cli import main

def tell(event, args):
    if event == "import" and args[0] == "apalu_jax.experiments.runner":
        print("importing", flush=True)

sys.addaudithook(tell)
main()
"""


@pytest.mark.process
def test_ctrl_c_while_a_process_imports(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", IMPORTING, *DIGITS, "--out", str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "apalu: interrupted\n")
