"""`apalu bench train` on tiny cases: the same training in both, and the ratios hold."""

from contextlib import closing
from importlib.util import find_spec

import numpy as np
import pytest
from typer.testing import CliRunner

from apalu_jax.benchmarks import BenchmarkError, torch_train, train
from apalu_jax.benchmarks.train_cases import CASES
from apalu_jax.cli import app

needs_torch = pytest.mark.skipif(
    find_spec("torch") is None, reason="PyTorch is not installed"
)
MLP = CASES["mlp"]
TINY = MLP._replace(examples=24, batch_size=8, steps=30, together=2)


class FakeTorch:
    """Stands for PyTorch, with times of its own."""

    version, threads = "2.0", 4

    def prepare(self, key, problem):
        self.batch_size = problem.batch_size

    def train(self, key, threads, epochs):
        return 0.5 * threads * epochs, [1.0] * epochs

    def close(self):
        pass


@pytest.mark.usefixtures("optax_promotion")
def test_rows_of_both(monkeypatch):
    monkeypatch.setattr(train, "FUNCTIONS", ("apalu",))
    monkeypatch.setattr(train, "BURST", 0.001)
    monkeypatch.setattr(train, "find_spec", lambda name: True)
    monkeypatch.setattr(train, "Torch", FakeTorch)
    lines = []
    result = train.measure({"tiny": TINY}, budget=0, progress=lines.append)
    assert lines == ["tiny, apalu: compiling", "tiny: timing"]
    assert any("tiny, batches 8 x 13, adam, 30 steps." in n for n in result["notes"])
    assert result["setting"]["versions"]["torch"] == "2.0"
    ours, torch = result["rows"]
    for row in (ours, torch):
        assert (row["case"], row["function"]) == ("tiny", "apalu")
        run_s = 30 * row["seconds_per_step_and_seed"]
        np.testing.assert_allclose(row["seeds_per_hour"] * run_s, 3600)
        shared_s = row.get("compile_s", 0) / train.SEEDS
        np.testing.assert_allclose(
            row["compiled_seeds_per_hour"] * (run_s + shared_s), 3600
        )
    assert 0 < ours["compile_s"] < 60
    # An epoch has three batches.
    assert torch["seconds_per_step_and_seed"] == pytest.approx(0.5 / 3)


def test_without_torch_there_is_a_note(monkeypatch):
    monkeypatch.setattr(train, "find_spec", lambda name: None)
    result = train.measure({}, budget=0)
    assert "Without PyTorch, which is not installed." in result["notes"]
    assert "torch" not in result["setting"]["versions"]
    # All functions are compared with nothing then.
    quartiles = {"lower": 0.01, "median": 0.01, "upper": 0.01}
    (ours,) = train._rows(TINY, {None: quartiles}, first_s=1.0)
    assert ours["framework"] == "jax" and "to_torch" not in ours


def test_a_step_is_over_all_seeds_and_steps_of_its_epochs():
    def seconds(epochs):
        return 0.1 * epochs

    assert train._burst(seconds, steps=4)() == pytest.approx([0.025])


def test_torch_is_timed_with_the_number_of_threads_that_is_faster():
    def quartiles(median):
        return {"lower": 0.9 * median, "median": median, "upper": 1.2 * median}

    found = {None: quartiles(0.01), 1: quartiles(0.02), 2: quartiles(0.05)}
    ours, torch = train._rows(TINY, found, first_s=3.06)
    assert (ours["framework"], ours["seeds"]) == ("jax", 2)
    assert (torch["framework"], torch["seeds"]) == ("torch", 1)
    assert torch["threads"] == 1 and torch["spread"] == pytest.approx(0.3)
    # An epoch is 3 steps of 2 seeds, a run 30 steps, and ten seeds share 3 seconds.
    assert ours["compile_s"] == pytest.approx(3.0)
    assert (ours["to_torch"], torch["to_torch"]) == pytest.approx((2.0, 1.0))
    assert ours["compiled_to_torch"] == pytest.approx(0.6 / (0.3 + 0.3))
    assert torch["compiled_to_torch"] == torch["to_torch"]


# One batch holds all examples, so that both have the same batches in any order.
FULL_BATCH = {
    "mlp": MLP._replace(examples=128, together=2),
    "rnn": CASES["rnn"]._replace(examples=64, together=2),
    "cnn": CASES["cnn"]._replace(
        model=CASES["cnn"].model | {"features": [4, 8], "strides": [1, 2]},
        shape=(8, 8, 3),
        examples=128,
    ),
}


@pytest.fixture(scope="module")
def torch():
    with closing(torch_train.Torch()) as torch:
        yield torch


@needs_torch
@pytest.mark.usefixtures("optax_promotion")
@pytest.mark.parametrize(
    ("name", "function"),
    [(name, function) for name in FULL_BATCH for function in train.FUNCTIONS],
)
def test_torch_trains_as_jax_does(torch, name, function):
    """The paths of the losses agree, from the same weights on the same batches."""
    case = FULL_BATCH[name]
    trainer = train.Trainer(case, function)
    torch.prepare(name, train.problem(case, function, trainer.first))
    seconds, got = torch.train(name, 1, 20)
    want = [float(trainer.train(1)[0]) for _ in range(20)]
    assert seconds > 0
    assert want[-1] < 0.97 * want[0]
    np.testing.assert_allclose(got, want, rtol=1e-4)


@needs_torch
def test_torch_takes_every_full_batch_of_an_epoch(torch):
    """With a rate of 0 the mean loss is that of all examples, in any order."""
    data = TINY.data()
    shapes = {"Dense_0/kernel": (13, 4), "Dense_1/kernel": (4, 1)}
    shapes |= {"Dense_0/bias": (4,), "Dense_1/bias": (1,)}
    rng = np.random.default_rng(1)
    weights = {k: rng.standard_normal(v, np.float32) for k, v in shapes.items()}
    problem = torch_train.Problem(
        {"name": "mlp", "features": [4]},
        "relu",
        MLP.optimizer | {"learning_rate": 0.0},
        TINY.batch_size,
        weights,
        **data,
    )
    torch.prepare("still", problem)
    _, losses = torch.train("still", 1, 3)
    w = weights
    hidden = data["inputs"] @ w["Dense_0/kernel"] + w["Dense_0/bias"]
    outputs = np.maximum(hidden, 0) @ w["Dense_1/kernel"] + w["Dense_1/bias"]
    want = np.square(outputs - data["targets"]).mean()
    np.testing.assert_allclose(losses, [want] * 3, rtol=1e-5)


@needs_torch
def test_an_error_of_the_child_is_one_line(torch):
    with pytest.raises(BenchmarkError, match=r"^PyTorch: KeyError: 'absent'\.$"):
        torch.train("absent", 1, 1)


def test_the_command(monkeypatch):
    asked = []

    def measure(progress):
        progress("a line")
        asked.append(1)
        return train.to_result("train", {"case": "{case}"}, [{"case": "mlp"}], [])

    monkeypatch.setattr(train, "measure", measure)
    done = CliRunner().invoke(app, ["bench", "train"])
    assert done.exit_code == 0, done.output
    assert "mlp" in done.stdout and asked == [1]
