"""Experiments in files of the user's own: `apalu new`, `apalu run FILE.toml`."""

import itertools
import json
import re
import sys

import pytest
from typer.testing import CliRunner

from apalu_jax.cli import app
from apalu_jax.experiments.own import files
from apalu_jax.experiments.results import read

NUMBERS = itertools.count()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder; what is imported from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def invoke(*args):
    return CliRunner().invoke(app, list(map(str, args)))


def new(folder, **changes):
    """The starting file, with a module name of its own and few runs."""
    name = f"my-task{next(NUMBERS)}"
    assert invoke("new", name).exit_code == 0
    path = folder / f"{name}.toml"
    small = {"seeds": "2", "epochs": "2", "batch_size": "301", **changes}
    text = path.read_text()
    for key, value in small.items():
        text = re.sub(rf"(?m)^{key} = .*$", f"{key} = {value}", text)
    path.write_text(f"vmapped_seeds = 2\n{text}")
    return path


def test_a_new_file_runs_and_goes_on(folder):
    path = new(folder, arms='["relu", "apalu"]')
    assert invoke("new", path.stem).exit_code == 2  # it exists
    said = invoke("run", path, "--dry-run")
    assert said.exit_code == 0
    assert not (folder / "runs").exists()
    lines = said.stdout.splitlines()
    assert lines[0] == f"{path.stem}: 4 runs of relu, apalu, into runs/{path.stem}"
    assert lines[1].endswith(
        "1150 training, 288 validation and 359 test examples of 64"
    )
    assert re.match(r"time: about \d+ seconds? on cpu, by a step of .* ms", lines[2])
    first = invoke("run", path, "--arms", "relu")
    assert first.exit_code == 0, first.output
    some = read(folder / "runs" / path.stem)
    assert [r.arm for r in some.records] == ["relu", "relu"]
    assert invoke("run", path).exit_code == 2  # without --resume
    more = invoke("run", path, "--dry-run", "--resume")
    assert more.stdout.startswith(f"{path.stem}: 2 runs of apalu, into")
    assert "(2 are there already)" in more.stdout
    assert invoke("run", path, "--resume").exit_code == 0
    found = read(folder / "runs" / path.stem)
    assert [r.arm for r in found.records] == ["relu", "relu", "apalu", "apalu"]
    assert found.records[:2] == some.records
    assert (folder / "runs" / path.stem / "report.html").exists()
    spec = json.loads((folder / "runs" / path.stem / "spec.json").read_text())["spec"]
    assert spec["model"]["name"] == f"{path.stem.replace('-', '_')}:make_model"


def test_options_presets_and_own_functions(folder):
    path = new(folder)
    module = path.stem.replace("-", "_")
    source = folder / f"{module}.py"
    source.write_text(
        source.read_text()
        + "\ndef mine():\n    return lambda x: x * x\n"
        + "\ndef error(outputs, targets):\n    return (outputs.argmax(-1) != targets)"
        ".mean()\n"
    )
    text = path.read_text()
    for old, added in (
        (f'model = "{module}:make_model"\n', ""),
        ('metric = "accuracy"\n', ""),
        ('arms = ["relu", "gelu", "prelu", "apalu"]', 'arms = ["relu", "mine"]'),
        ('reference = "apalu"', 'reference = "mine"'),
        ("seeds = 2\n", ""),
    ):
        assert old in text
        text = text.replace(old, added, 1) if old != "seeds = 2\n" else text
    text += f"""
[model]
name = "{module}:make_model"
width = 5
[metric]
name = "{module}:error"
higher_is_better = false
margin = 0.01
[activations]
mine = "{module}:mine"
[presets.smoke]
epochs = 1
[presets.reduced]
epochs = 2
"""
    path.write_text(text)
    smoke = files.load(path, "smoke").spec
    assert (smoke.epochs, files.load(path).spec.epochs) == (1, 2)
    assert smoke.model["width"] == 5
    result = invoke("run", path, "--preset", "smoke")
    assert result.exit_code == 0, result.output
    found = read(folder / "runs" / f"{path.stem}-smoke")
    assert {r.arm for r in found.records} == {"relu", "mine"}
    assert all(0 <= r.value <= 1 for r in found.records)


ERRORS = [
    ({"seeds": '"ten"'}, "`seeds`: Expected `int`, got 'ten'"),
    ({"seeds": "0"}, "`seeds`: Expected `int` >= 1, got 0"),
    ({"reference": '"silu"'}, "`reference`: it must be one of relu, gelu"),
    ({"loss": "3"}, "`loss` must be cross_entropy, mse, or name a function.*got 3"),
    ({"loss": '"hinge"'}, "`loss` must be one of cross_entropy, mse.*got 'hinge'"),
    ({"metric": '"auc"'}, "`metric` must be one of accuracy.*got 'auc'"),
    ({"model": '"no_such:f"'}, "`model`: the module no_such cannot be imported"),
    ({"model": '"json:f"'}, "`model`: json must have a function f, got a module with"),
    ({"model": '"digits"'}, "`model` and `data` must both name a function"),
    ({"data": '":load"'}, "`data` must name a function"),
    ({"arms": '["relu", "mish"]'}, "`arms` must be among relu.*got 'mish'"),
    ({"learning_rate": '"high"'}, "`learning_rate`: Expected `float`, got 'high'"),
    ({"batch_size": "2000"}, "`batch_size` must be at most 1150"),
    (
        {"name": '"x"\nsedes = 3'},
        "a key must be .*, got .sedes. .did you mean .seeds.",
    ),
    ({"name": "x"}, "is not valid TOML"),
    ({"name": "[" * 5000}, "is not valid TOML: maximum recursion"),
    *(
        ({"name": name}, "`name`: a name must have 1 to 40 printable .*, got ")
        for name in ('"../../x"', '"/x"', '""', '"\\\\u001b[31m"', '"a\\\\nb"')
    ),
    ({"name": '"x"\npreset = "../y"'}, "`preset`: a name must have .*, got '../y'"),
    ({"arms": '["apalu"]'}, "`arms` must hold two at least, got apalu"),
    ({"arms": '"relu"'}, "`arms` must be a list of names, got 'relu'"),
    ({"arms": '[["relu"], "apalu"]'}, "`arms` must be a list of names, got .*'relu'"),
    ({"name": '"x"\ntask = "own"'}, "`task` is for models of the package"),
    ({"name": '"x"\nactivations = 3'}, "`activations` must be a table .*got 3"),
    (
        {"name": '"x"\nactivations = {mine = "m:f"}'},
        "`activations` must be a table .* among `arms` .*got .'mine': 'm:f'",
    ),
    ({"learning_rate": "inf"}, "`optimizer.learning_rate` must be finite, got inf"),
    ({"epochs": "2\npresets = {a = 3}"}, "`presets` must be a table of tables"),
    (
        {
            "epochs": "2\nsecondary_metrics = [{name = 'auc', higher_is_better = true, "
            "margin = 0.1}]"
        },
        "metrics of the test split are accuracy, log_loss, without .* 'auc'",
    ),
    ({"epochs": "2\npresets = 3"}, "`presets` must be a table"),
]


@pytest.mark.parametrize(("changes", "message"), ERRORS)
def test_errors_name_file_key_given_and_expected(folder, changes, message):
    path = new(folder, **changes)
    result = invoke("run", path)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"apalu: {path}"), line
    assert re.search(message, line), line


def test_other_errors_of_files(folder):
    missing = invoke("run", "no.toml")
    assert (missing.exit_code, missing.stderr.count("\n")) == (2, 1)
    path = new(folder)
    assert "has no table `presets`" in invoke("run", path, "--preset", "smoke").stderr
    for name in ("a/b", "", "3", "class", "json", "flax"):
        refused = invoke("new", name)
        assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    path = new(folder)
    text = path.read_text()
    module = path.stem.replace("-", "_")
    options = f'data = {{name = "{module}:load", fold = 3}}'
    path.write_text(text.replace(f'data = "{module}:load"', options))
    assert "`data`: the function must take fold" in invoke("run", path).stderr
    for table, name in (("units", "../x"), ("variants", "a/b")):
        path.write_text(f'{text}\n[{table}."{name}"]\nepochs = 3\n')
        assert f"`{table}`: a name must have" in invoke("run", path).stderr
    assert (
        "`units` must be among none, got x"
        in invoke("run", path, "--units", "x").stderr
    )
    path.write_text(f"{text}\n[units.b]\nepochs = 3\n[units.c]\nepochs = 4\n")
    assert files.load(path, units=["c"]).spec.unit_names == ("c",)
    # Windows' editors begin a file with a byte order mark.
    path.write_text(text, encoding="utf-8-sig")
    assert files.load(path).spec.name == path.stem


def test_a_declared_experiment_is_forecast(folder):
    said = invoke("run", "digits", "--preset", "smoke", "--arms", "relu", "--dry-run")
    assert said.exit_code == 0
    assert said.stdout.startswith("digits: 3 runs of relu, into runs/digits-smoke")


def test_a_file_may_name_what_the_package_has(folder):
    from importlib import resources

    text = (resources.files("apalu_jax.experiments.specs") / "digits.toml").read_text()
    (folder / "digits.toml").write_text(text)
    declared = files.load(folder / "digits.toml", "smoke")
    assert declared.spec == files.find("digits", "smoke").spec
