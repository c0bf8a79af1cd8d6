from dataclasses import replace
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from apalu_jax.experiments import ExperimentError, checkpoints, trainer
from apalu_jax.experiments.jobs import preparation
from apalu_jax.experiments.outcomes import Block
from apalu_jax.experiments.programs import compile_program
from apalu_jax.experiments.tasks.classification import Classification
from apalu_jax.linen import APALU

from .conftest import tiny

_PREPARED = {}


def prepare(spec):
    """Data and compiled programs of a spec, kept over the tests."""
    if spec.config_hash not in _PREPARED:
        _PREPARED[spec.config_hash] = preparation(spec, None)
    return _PREPARED[spec.config_hash]


def train(
    spec,
    block,
    path=Path("absent.msgpack"),
    every_s=np.inf,
    on_epoch=None,
    factors=None,
):
    job = prepare(spec)("", "", block.arm, block.seeds)
    saving = trainer.Saving(path, every_s)
    notes = []
    result = trainer.train(
        job.program,
        job.task,
        block.seeds,
        factors or [1.0] * len(block.seeds),
        job.folds,
        job.noted,
        job.watched,
        saving,
        on_epoch or notes.append,
    )
    return result._replace(seconds=notes)


def arrays(trained):
    return trained.variables, trained.predictions, trained.rows


def assert_same(first, second, tolerance=0.0):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def together():
    spec = tiny()
    return train(spec, Block("", "", (0, 1, 2), "apalu"))


def test_same_seeds_give_the_same_run_twice(together):
    again = train(tiny(), Block("", "", (0, 1, 2), "apalu"))
    assert_same(arrays(together), arrays(again))
    assert again.seconds == [0, 1, 2]


def test_a_seed_alone_gives_what_it_gives_among_others(together):
    alone = train(tiny(seeds_per_block=1), Block("", "", (1,), "apalu"))
    one = jax.tree.map(lambda leaf: leaf[1:2], arrays(together))
    assert_same(one, arrays(alone), tolerance=2e-5)


def test_history_has_every_epoch(together):
    assert [sorted(row) for row in together.rows[1:]] == 2 * [
        [
            *("activations/APALU_0/a", "activations/APALU_0/b"),
            *("activations/APALU_1/a", "activations/APALU_1/b"),
            *("train/loss", "validation/accuracy", "validation/log_loss"),
        ]
    ]
    np.testing.assert_array_equal(
        together.rows[0]["activations/APALU_0/a"], np.float32([0.55] * 3)
    )
    losses = np.array([row["train/loss"] for row in together.rows[1:]])
    assert losses.shape == (2, 3)
    assert (losses[1] < losses[0]).all()
    assert (together.rows[-1]["validation/accuracy"] > 0.6).all()


def test_of_many_pairs_the_quartiles_are_noted():
    trained = train(tiny(epochs=1), Block("", "", (0, 1, 2), "apalu-channel"))
    site = trained.variables["params"]["APALU_0"]["apalu_a"]
    assert site.shape == (3, 64)
    noted = [row["activations/APALU_0/a"] for row in trained.rows]
    np.testing.assert_allclose(noted[0], np.full((3, 3), 0.55), rtol=1e-6)
    for pairs, quartiles in zip(site, noted[1], strict=True):
        np.testing.assert_allclose(quartiles, np.percentile(pairs, [25, 50, 75]))
        assert quartiles[0] < quartiles[2]


def test_a_run_goes_on_from_its_checkpoint(together, tmp_path):
    class Stop(Exception):
        pass

    def stop_after_one(done):
        if done == 1:
            raise Stop

    block, path = Block("", "", (0, 1, 2), "apalu"), tmp_path / "block.msgpack"
    with pytest.raises(Stop):
        train(tiny(), block, path, 0.0, stop_after_one)
    assert len(checkpoints.load(path)["rows"]) == 2
    resumed = train(tiny(), block, path, 0.0)
    assert resumed.seconds == [1, 2]
    assert_same(arrays(together), arrays(resumed))


def test_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "folder" / "block.msgpack"
    content = {"state": [np.arange(3.0)], "rows": [{"a": np.ones(2)}], "seconds": 1.5}
    checkpoints.save(path, content)
    loaded = checkpoints.load(path)
    assert loaded["seconds"] == 1.5
    assert_same(loaded, content)
    raw = bytearray(path.read_bytes())
    for damage in (raw[:-1], raw[:10], b"", raw[:60] + b"\x7f" + raw[61:]):
        path.write_bytes(damage)
        with pytest.raises(ExperimentError, match=f"{path}: damaged checkpoint"):
            checkpoints.load(path)
    checkpoints.remove(path)
    assert checkpoints.load(path) is None
    assert not path.parent.exists()


class Recorder:
    """A task that notes which examples it sees, and from which key it starts."""

    def init(self, key, batch):
        params = {"start": jax.random.uniform(key)}
        return {"params": params, "seen": {"order": jnp.zeros(12, jnp.int32)}}

    def loss(self, variables, batch, key):
        earlier = variables["seen"]["order"][4:]
        order = jnp.concatenate([earlier, batch["index"]])
        return 0.0 * variables["params"]["start"], {"seen": {"order": order}}

    def predict(self, variables, part):
        raise NotImplementedError

    histograms = predict


def test_seeds_and_epochs_have_draws_of_their_own():
    program = compile_program(
        Recorder(),
        lambda params, steps, factor: optax.sgd(factor),
        batch_size=4,
        epochs=2,
        together=True,
    )
    factors = jnp.ones(2)
    seeds = jnp.arange(2, dtype=jnp.uint32)
    part = {"index": jnp.stack([jnp.arange(12)] * 2)}
    state = program.init(seeds, part)
    starts = np.asarray(state.variables["params"]["start"])
    orders = []
    for number in (1, 2):
        state, _ = program.epochs(state, seeds, factors, number, number, part)
        orders += list(np.asarray(state.variables["seen"]["order"]))
    assert starts[0] != starts[1]
    # Every example once in an epoch, in an order for each seed and epoch.
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert all(tuple(order) != tuple(range(12)) for order in orders)


def test_every_epoch_is_told_its_number():
    def epochs(state, seeds, factors, first, last, part):
        numbers.append((first, last))
        return compiled(state, seeds, factors, first, last, part)

    numbers = []
    job = prepare(tiny(epochs=7, notes=3))("", "", "apalu", (0, 1, 2))
    assert job.noted == [2, 5, 7]
    compiled = job.program.epochs
    job = job._replace(program=job.program._replace(epochs=epochs))
    saving = trainer.Saving(Path("absent.msgpack"), np.inf)
    trained = job.train((0, 1, 2), [1.0] * 3, saving, lambda share: None)
    assert numbers == [(1, 2), (3, 5), (6, 7)]
    assert trained.epochs == [0, 2, 5, 7]
    assert len(trained.rows) == 4


@pytest.mark.parametrize("size", [1, 3])
def test_a_factor_is_one_of_the_learning_rate(size):
    """Seeds together, and a seed alone, which is stepped from the host."""
    base = tiny(seeds_per_block=size)
    block = Block("", "", tuple(range(size)), "relu")
    rate = {**base.optimizer, "learning_rate": 3 * base.optimizer["learning_rate"]}
    declared = train(replace(base, optimizer=rate), block)
    by_factor = train(base, block, factors=[3.0] * size)
    assert_same(declared.variables, by_factor.variables, tolerance=1e-5)
    plain = train(base, block)
    assert not np.allclose(
        plain.rows[-1]["train/loss"], by_factor.rows[-1]["train/loss"]
    )


def test_collections_besides_params_are_carried():
    class Normalised(nn.Module):
        @nn.compact
        def __call__(self, inputs, *, train):
            x = inputs.reshape(len(inputs), -1)
            x = nn.BatchNorm(use_running_average=not train)(nn.Dense(16)(x))
            x = nn.Dropout(0.1, deterministic=not train)(APALU()(x))
            return nn.Dense(10)(x)

    folds = prepare(tiny())("", "", "relu", (0,)).folds
    task = Classification(network=Normalised())
    program = compile_program(
        task,
        lambda params, steps, factor: optax.adam(1e-2),
        batch_size=64,
        epochs=2,
        together=False,
    )
    saving = trainer.Saving(Path("absent.msgpack"), np.inf)
    result = trainer.train(
        program, task, (0,), [1.0], folds, [2], False, saving, lambda done: None
    )
    mean = result.variables["batch_stats"]["BatchNorm_0"]["mean"]
    assert mean.shape == (1, 16)
    assert np.abs(mean).max() > 0.01
    assert result.rows[-1]["validation/accuracy"] > 0.6
    test = trainer.stack([folds[0].test])
    assert program.histograms(result.variables, test)["APALU_0"].counts.sum() > 0


def test_parts_that_cannot_be_trained_are_refused():
    with pytest.raises(ExperimentError, match=r"`batch_size` must be at most 1257"):
        train(tiny(batch_size=2000), Block("", "", (0, 1, 2), "relu"))
    parts = [{"x": np.zeros(2)}, {"x": np.zeros(3)}]
    with pytest.raises(ExperimentError, match="declare seeds_per_block = 1"):
        trainer.stack(parts)
