"""The training loop: seeds, epochs, checkpoints."""

from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from msgspec.structs import replace

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.records import Trial
from apalu_jax.experiments.runner.execute import Executor
from apalu_jax.experiments.tasks.classification import Classification
from apalu_jax.experiments.training import loop
from apalu_jax.experiments.training.checkpoint import Checkpoint
from apalu_jax.experiments.training.compiled import compile_training
from apalu_jax.linen import APALU

from ..helpers import assert_same, tiny

ABSENT = Path("absent.msgpack")
_EXECUTORS = {}


def prepare(spec, trial):
    """Data and compiled functions of a trial, shared by the tests."""
    if spec.run_hash not in _EXECUTORS:
        _EXECUTORS[spec.run_hash] = Executor(spec, None, ABSENT, np.inf, 0)
    return _EXECUTORS[spec.run_hash].prepare(trial)[0]


def trial(seeds, arm="apalu", multipliers=None):
    return Trial(arm, "", "", seeds, multipliers or (1.0,) * len(seeds))


def train(spec, trial, path=ABSENT, every_s=np.inf, on_epoch=None):
    epochs = []
    checkpoint = Checkpoint(path, every_s, trial, spec.run_hash)

    def note(epoch, loss):
        epochs.append(epoch)
        if on_epoch:
            on_epoch(epoch)

    result = loop.train(prepare(spec, trial), trial, checkpoint, note)
    return result._replace(seconds=epochs)


def arrays(trained):
    return trained.variables, trained.predictions, trained.rows


@pytest.fixture(scope="module")
def vmapped():
    spec = tiny()
    return train(spec, trial((0, 1, 2)))


def test_same_seeds_give_the_same_run_twice(vmapped):
    again = train(tiny(), trial((0, 1, 2)))
    assert_same(arrays(vmapped), arrays(again))
    assert again.seconds == [0, 1, 2]


def test_a_seed_alone_gives_what_it_gives_among_others(vmapped):
    alone = train(tiny(vmapped_seeds=1), trial((1,)))
    one = jax.tree.map(lambda leaf: leaf[1:2], arrays(vmapped))
    assert_same(one, arrays(alone), tolerance=2e-5)


def test_history_has_every_epoch(vmapped):
    assert [sorted(row) for row in vmapped.rows[1:]] == 2 * [
        [
            *("activations/APALU_0/a", "activations/APALU_0/b"),
            *("activations/APALU_1/a", "activations/APALU_1/b"),
            *("train/loss", "validation/accuracy", "validation/log_loss"),
        ]
    ]
    np.testing.assert_array_equal(
        vmapped.rows[0]["activations/APALU_0/a"], np.float32([0.55] * 3)
    )
    losses = np.array([row["train/loss"] for row in vmapped.rows[1:]])
    assert losses.shape == (2, 3)
    assert (losses[1] < losses[0]).all()
    assert (vmapped.rows[-1]["validation/accuracy"] > 0.6).all()


def test_of_many_pairs_the_quartiles_are_noted():
    trained = train(tiny(epochs=1), trial((0, 1, 2), "apalu-channel"))
    site = trained.variables["params"]["APALU_0"]["apalu_a"]
    assert site.shape == (3, 64)
    noted = [row["activations/APALU_0/a"] for row in trained.rows]
    np.testing.assert_allclose(noted[0], np.full((3, 3), 0.55), rtol=1e-6)
    for pairs, quartiles in zip(site, noted[1], strict=True):
        np.testing.assert_allclose(quartiles, np.percentile(pairs, [25, 50, 75]))
        assert quartiles[0] < quartiles[2]


def test_a_run_goes_on_from_its_checkpoint(vmapped, tmp_path):
    class Stop(Exception):
        pass

    def stop_after_one(done):
        if done == 1:
            raise Stop

    block, path = trial((0, 1, 2)), tmp_path / "block.msgpack"
    with pytest.raises(Stop):
        train(tiny(), block, path, 0.0, stop_after_one)
    assert len(Checkpoint(path, 0.0, block, tiny().run_hash).saved["rows"]) == 2
    resumed = train(tiny(), block, path, 0.0)
    assert resumed.seconds == [1, 2]
    assert_same(arrays(vmapped), arrays(resumed))


def test_an_unusable_checkpoint_is_named(tmp_path):
    path, mine = tmp_path / "folder" / "trial.msgpack", trial((0, 1))
    state = {"a": np.arange(3, dtype=np.float32), "b": np.zeros((), np.int32)}
    Checkpoint(path, 0.0, mine, "hash").save_if_due(
        state, {"rows": [{"a": np.ones(2)}]}
    )
    loaded = Checkpoint(path, 0.0, mine, "hash")
    assert_same(loaded.restore(jax.eval_shape(lambda: state)), state)
    assert_same(loaded.saved["rows"], [{"a": np.ones(2)}])
    assert loaded.seconds() > 0
    others = (
        (trial((0, 2)), "hash"),
        (trial((0, 1), multipliers=(1.0, 2.0)), "hash"),
        (trial((0, 1), "relu"), "hash"),
        (mine._replace(kind="search"), "hash"),
        (mine, "other"),
    )
    for other in others:
        with pytest.raises(ExperimentError, match="another configuration or trial"):
            Checkpoint(path, 0.0, *other)
    # As after an upgrade of optax between a kill and the resumed run.
    for wrong in (
        {"a": state["a"]},
        {**state, "a": np.arange(4, dtype=np.float32)},
        {**state, "b": np.zeros((), np.int8)},
    ):
        with pytest.raises(ExperimentError, match="another version of the state"):
            loaded.restore(jax.eval_shape(lambda wrong=wrong: wrong))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ExperimentError, match=f"{path}: damaged. Delete it"):
        Checkpoint(path, 0.0, mine, "hash")


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
    program = compile_training(
        Recorder(),
        lambda params, steps, multiplier: optax.sgd(multiplier),
        batch_size=4,
        epochs=2,
        vmapped=True,
    )
    multipliers = jnp.ones(2)
    seeds = jnp.arange(2, dtype=jnp.uint32)
    part = {"index": jnp.stack([jnp.arange(12)] * 2)}
    state = program.init(seeds, part)
    starts = np.asarray(state.variables["params"]["start"])
    orders = []
    for number in (1, 2):
        state, _ = program.epochs(state, seeds, multipliers, number, number, part)
        orders += list(np.asarray(state.variables["seen"]["order"]))
    assert starts[0] != starts[1]
    # Every example once in an epoch, in an order for each seed and epoch.
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert all(tuple(order) != tuple(range(12)) for order in orders)


def test_every_epoch_gets_its_number():
    def epochs(state, seeds, multipliers, first, last, split):
        numbers.append((first, last))
        return compiled.epochs(state, seeds, multipliers, first, last, split)

    numbers, block = [], trial((0, 1, 2))
    training = prepare(tiny(epochs=7, num_log_points=3), block)
    assert training.log_epochs == [2, 5, 7]
    compiled = training.compiled
    training = training._replace(compiled=compiled._replace(epochs=epochs))
    checkpoint = Checkpoint(ABSENT, np.inf, block, "")
    trained = loop.train(training, block, checkpoint, lambda epoch, loss: None)
    assert numbers == [(1, 2), (3, 5), (6, 7)]
    assert trained.epochs == [0, 2, 5, 7]
    assert len(trained.rows) == 4


@pytest.mark.parametrize("size", [1, 3])
def test_a_multiplier_is_one_of_the_learning_rate(size):
    """Seeds vmapped, and a seed alone, which is stepped from the host."""
    base = tiny(vmapped_seeds=size, epochs=1)
    block = trial(tuple(range(size)), "relu")
    rate = {**base.optimizer, "learning_rate": 3 * base.optimizer["learning_rate"]}
    declared = train(replace(base, optimizer=rate), block)
    by_multiplier = train(base, block._replace(lr_multipliers=(3.0,) * size))
    assert_same(declared.variables, by_multiplier.variables, tolerance=1e-5)
    plain = train(base, block)
    assert not np.allclose(
        plain.rows[-1]["train/loss"], by_multiplier.rows[-1]["train/loss"]
    )


def test_collections_besides_params_are_carried():
    class Normalized(nn.Module):
        @nn.compact
        def __call__(self, inputs, *, train):
            x = inputs.reshape(len(inputs), -1)
            x = nn.BatchNorm(use_running_average=not train)(nn.Dense(16)(x))
            x = nn.Dropout(0.1, deterministic=not train)(APALU()(x))
            return nn.Dense(10)(x)

    block = trial((0,), "relu")
    folds = prepare(tiny(), block).splits
    task = Classification(network=Normalized())
    program = compile_training(
        task,
        lambda params, steps, multiplier: optax.adam(1e-2),
        batch_size=64,
        epochs=2,
        vmapped=False,
    )
    checkpoint = Checkpoint(ABSENT, np.inf, block, "")
    training = loop.Training(program, task, folds, [2], False)
    result = loop.train(training, block, checkpoint, lambda epoch, loss: None)
    mean = result.variables["batch_stats"]["BatchNorm_0"]["mean"]
    assert mean.shape == (1, 16)
    assert np.abs(mean).max() > 0.01
    assert result.rows[-1]["validation/accuracy"] > 0.6
    test = loop.stack([folds[0].test])
    assert program.histograms(result.variables, test)["APALU_0"].counts.sum() > 0


def test_parts_that_cannot_be_trained_are_refused():
    with pytest.raises(ExperimentError, match=r"`batch_size` must be at most 1257"):
        train(tiny(batch_size=2000), trial((0, 1, 2), "relu"))
    parts = [{"x": np.zeros(2)}, {"x": np.zeros(3)}]
    with pytest.raises(ExperimentError, match="declare vmapped_seeds = 1"):
        loop.stack(parts)


@pytest.mark.parametrize(
    ("drop_last", "sizes"), [(True, [600, 600]), (False, [600, 600, 57])]
)
@pytest.mark.parametrize("vmapped", [False, True])
def test_the_incomplete_last_batch(vmapped, drop_last, sizes):
    """It is dropped, or a step of its own; every example is then seen once an epoch."""

    class Counting(Classification):
        def loss(self, variables, batch, key):
            seen = variables["seen"].at[batch["index"]].add(1)
            n = variables["sizes"].at[variables["at"]].set(len(batch["index"]))
            carried = {"seen": seen, "sizes": n, "at": variables["at"] + 1}
            return jnp.sum(variables["params"]["w"] ** 2), carried

        def init(self, key, batch, pretrained=None):
            return {
                "params": {"w": jnp.ones(2)},
                "seen": jnp.zeros(1257, int),
                "sizes": jnp.zeros(4, int),
                "at": jnp.zeros((), int),
            }

    count = 2 if vmapped else 1
    program = compile_training(
        Counting(network=nn.Dense(1)),
        lambda params, steps, multiplier: optax.sgd(1.0 / steps),
        batch_size=600,
        epochs=1,
        vmapped=vmapped,
        drop_last=drop_last,
    )
    split = {"index": jnp.tile(jnp.arange(1257), (count, 1))}
    seeds, rates = jnp.arange(count, dtype="uint32"), jnp.ones(count)
    state = program.init(seeds, split)
    state, losses = program.epochs(state, seeds, rates, 1, 1, split)
    assert losses.shape == (count,)
    for i in range(count):
        found = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), state.variables)
        assert found["sizes"][: found["at"]].tolist() == sizes
        assert found["seen"].sum() == sum(sizes) and found["seen"].max() == 1


def test_a_split_smaller_than_a_batch_is_one_step():
    spec, block = tiny(batch_size=2000, drop_last=False, epochs=1), trial((0, 1, 2))
    found = train(spec, block)
    assert np.isfinite(found.rows[-1]["train/loss"]).all()
