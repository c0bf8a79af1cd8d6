"""What notebooks/train_transformer.py refuses, and how it stops and goes on."""

import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import train_transformer as script
import transformer_options as options
from transformer_checkpoints import Checkpoints, MismatchError

pytestmark = [
    pytest.mark.notebook,
    pytest.mark.usefixtures("optax_promotion", "flax_promotion", "quick_compilation"),
]


def run(monkeypatch, out, *words, size="tiny"):
    given = ["script", "--out", str(out), "--size", size, "--text", "50000", *words]
    monkeypatch.setattr("sys.argv", given)
    script.main()


# The tests have 8 devices.
@pytest.mark.parametrize(
    "words, line",
    [
        (["--mesh", "abc"], "argument --mesh: must be as in 4x2, got abc"),
        (["--mesh", "8x0"], "argument --mesh: must be as in 4x2, got 8x0"),
        (["--mesh", "4x1"], "--mesh must be of all devices, 8, got 4x1"),
        (["--mesh", "8x2"], "--mesh must be of all devices, 8, got 8x2"),
        (["--mesh", "1x8"], "'model' must divide 4 heads and 256 bytes, got 8"),
        (["--batch", "6"], "--batch must be a multiple of 8, the devices that"),
        (["--mesh", "4x2", "--batch", "6"], "--batch must be a multiple of 4"),
        (
            ["--mesh", "4x2", "--batch", "4", "--parallel", "shard_map"],
            "--batch must be a multiple of 8",
        ),
        (["--every", "0"], "argument --every: must be at least 1, got 0"),
        (["--steps", "-3"], "argument --steps: must be at least 1, got -3"),
        (["--steps", "many"], "argument --steps: invalid positive value: 'many'"),
        (["--rate", "-1"], "argument --rate: must be above 0 and finite, got -1"),
        (["--rate", "nan"], "argument --rate: must be above 0 and finite, got nan"),
        (["--text", "21"], "--text must be more than 21 bytes, the length of a"),
        (["--text", "999999999"], "--text must be at most"),
        (["--process", "1"], "--process need --distributed"),
        (["--size", "huge"], "argument --size: invalid choice: 'huge'"),
    ],
)
def test_bad_options_are_one_line(monkeypatch, tmp_path, capsys, words, line):
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, tmp_path / "out", *words)
    said = str(stopped.value)
    if said == "2":  # from argparse: usage, then the line
        said = capsys.readouterr().err.splitlines()[-1]
    assert line in said and "\n" not in said
    assert not (tmp_path / "out").exists()


def test_the_width_and_the_kind_of_parallelism(monkeypatch, tmp_path):
    for attribute, number, words, line in (
        ("device_count", 5, ["--batch", "5"], "'fsdp' must divide the width 32, got 5"),
        ("process_count", 2, ["--parallel", "pmap"], "pmap is for one process"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(jax, attribute, lambda number=number: number)
            with pytest.raises(SystemExit, match=line):
                run(patch, tmp_path / "out", *words)


def test_a_job_whose_processes_are_not_known(monkeypatch, tmp_path):
    def initialize(*place):  # as JAX does, before it has any devices
        assert place == (None, None, None)
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    line = "--distributed needs --coordinator, .* here: coordinator_address should"
    with pytest.raises(SystemExit, match=line):
        run(monkeypatch, tmp_path / "out", "--distributed")


def test_processes_that_differ_are_refused(monkeypatch, tmp_path):
    def gather(number):
        return np.stack([number, number + 1])

    monkeypatch.setattr(options.multihost_utils, "process_allgather", gather)
    with pytest.raises(SystemExit, match="all processes must have the same options"):
        run(monkeypatch, tmp_path / "out")


def test_the_options_that_processes_share(monkeypatch):
    def number(*words):
        given = ["script", "--out", "runs", *words]
        monkeypatch.setattr("sys.argv", given)
        options.check_processes(options.parse(None), np.zeros(3, np.uint8))
        return int(seen.pop()[0])

    def gather(number):
        seen.append(number)
        return number[None]

    seen = []
    monkeypatch.setattr(options.multihost_utils, "process_allgather", gather)
    plain = number("--distributed")
    job = "--distributed", "--coordinator", "a:1", "--process", "1", "--out", "/other"
    assert number(*job) == plain
    for words in (
        ["--every", "7"],
        ["--mesh", "2x4"],
        ["--parallel", "pmap"],
        ["--residual", "input"],
        ["--rate", "0.1"],
    ):
        assert number("--distributed", *words) != plain


def test_a_checkpoint_of_another_model_is_named(tmp_path):
    written = Checkpoints(tmp_path)
    written.save(4, {"a": jnp.ones(3), "b": jnp.ones(2)})
    written.wait()
    for like, line in (
        ({"a": jnp.ones(1), "b": jnp.ones(2)}, r"step 4 of .* a is \(3,\), .* \(1,\)"),
        ({"a": jnp.ones(3)}, r"b is \(2,\), expected absent"),
        ({"a": jnp.ones(3), "b": jnp.ones(2), "c": jnp.ones(1)}, "c is absent"),
    ):
        with pytest.raises(MismatchError, match=line):
            Checkpoints(tmp_path).restore(like)


def test_a_complete_step_gets_its_checksums_at_once(tmp_path):
    """Not only when the next one is written: a job may be killed before."""
    Checkpoints(tmp_path).save(1, {"a": jnp.ones(3)})
    deadline = time.monotonic() + 60
    while not (tmp_path / "1.sha256.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    step, tree = Checkpoints(tmp_path).restore({"a": jnp.ones(3)})
    assert step == 1 and tree["a"].shape == (3,)


def counting(monkeypatch, step):
    """A program that counts its steps; `step` gives the losses."""

    def make(training, mesh):
        def take(state, batch):
            number = int(state.step) + 1
            return state._replace(step=state.step + 1), jnp.float32(step(number))

        return by_jit(training, mesh)._replace(step=take)

    by_jit = script.PROGRAMS["jit"]
    monkeypatch.setitem(script.PROGRAMS, "jit", make)


def test_ctrl_c_and_going_on(monkeypatch, tmp_path, capsys):
    def until_five(number):
        if number == 5:
            raise KeyboardInterrupt
        return 1.0

    words = "--steps", "6", "--every", "2", "--batch", "8", "--mesh", "4x2"
    with monkeypatch.context() as patch:
        counting(patch, until_five)
        with pytest.raises(SystemExit, match="stopped; the same command goes on"):
            run(patch, tmp_path, *words)
    assert (tmp_path / "checkpoints" / "4.sha256.json").exists()
    assert "from step 0 of 6" in capsys.readouterr().out

    with pytest.raises(SystemExit, match=r"apalu_a is \(3,\), .*\(3, 128\): --size or"):
        run(monkeypatch, tmp_path, *words, "--per-channel")

    counting(monkeypatch, lambda number: 1.0)
    run(monkeypatch, tmp_path, *words, "--rate", "0.1", "--residual", "input")
    said = capsys.readouterr().out
    assert "from step 4 of 6" in said
    assert "rate is 0.1, and was 0.0006\n" in said
    assert said.count(", and was ") == 1
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["rate"] == 0.1 and settings["text"].startswith("50000 bytes")


def test_a_loss_that_is_not_finite_is_not_saved(monkeypatch, tmp_path):
    counting(monkeypatch, lambda number: np.nan if number > 2 else 1.0)
    words = "--steps", "6", "--every", "2", "--batch", "8"
    with pytest.raises(SystemExit, match="the loss is nan at step 4"):
        run(monkeypatch, tmp_path, *words)
    steps = {p.name for p in (tmp_path / "checkpoints").iterdir() if p.is_dir()}
    assert steps == {"2"}
