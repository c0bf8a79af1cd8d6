"""Comparisons on own models and data: numbers and output."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from typer.testing import CliRunner

from apalu_jax import experiments
from apalu_jax.cli import app
from apalu_jax.experiments import comparison
from apalu_jax.experiments.own import activations, declaration
from apalu_jax.experiments.own.network import NNXNetwork, build
from apalu_jax.experiments.results import Results
from apalu_jax.experiments.runner.timing import StepTime
from tests.helpers import table

from .helpers import SETUP
from .own_models import ARMS, SPLITS, compare, load, make_nnx, maker, numbers, of

REGRESSION = 1, "mse", {"rmse", "mae", "r2", "chance"}
KINDS = {
    "arrays": (numbers(), *REGRESSION),
    "splits": (SPLITS, *REGRESSION),
    "function": (load, *REGRESSION),
    "classes": (
        numbers(classes=3),
        3,
        "cross_entropy",
        {"accuracy", "log_loss", "chance"},
    ),
}


@pytest.mark.parametrize(
    ("library", "kind"), table(("nnx", "linen"), tuple(KINDS), strength=1)
)
def test_every_kind_of_model_and_data(library, kind):
    data, classes, loss, names = KINDS[kind]
    make_model = maker(library, outputs=classes, drop=0.3)
    found = compare(make_model, data, ["relu", "apalu"], loss=loss)
    records = found.results.records
    runs = [("relu", 0), ("relu", 1), ("apalu", 0), ("apalu", 1)]
    assert [(r.arm, r.seed) for r in records] == runs
    assert {r.status for r in records} == {"ok"}
    assert all(set(r.history.test) == names for r in records)
    ours = [r for r in records if r.arm == "apalu"]
    assert all(len(r.history.activations) == len(r.inputs) == 2 for r in ours)
    for record in ours:
        for curves in record.history.activations.values():
            assert curves["a"][0] != curves["a"][-1]


def train_by_hand(seed, epochs=3, batch=13, rate=0.01):
    """The same run as a loop: NNX's own optimizer, split into train and eval."""
    start = jax.random.fold_in(jax.random.key(seed), 0)
    model = make_nnx(lambda: jax.nn.relu, nnx.Rngs(start))
    optimizer = nnx.Optimizer(model, optax.adam(rate), wrt=nnx.Param)
    x, y = (jnp.asarray(a, jnp.float32) for a in SPLITS["train"])

    @nnx.jit
    def step(model, optimizer, x, y):
        grads = nnx.grad(lambda m: jnp.mean((m(x)[:, 0] - y) ** 2))(model)
        optimizer.update(model, grads)

    for epoch in range(1, epochs + 1):
        key, _ = jax.random.split(jax.random.fold_in(jax.random.key(seed), epoch))
        order = jax.random.permutation(key, len(x))
        for i in range(len(x) // batch):
            chosen = order[i * batch : (i + 1) * batch]
            step(model, optimizer, x[chosen], y[chosen])
    model.eval()
    inputs, targets = SPLITS["test"]
    errors = model(jnp.asarray(inputs, jnp.float32))[:, 0] - targets
    return float(np.sqrt(np.mean(np.square(errors, dtype=np.float64))))


ADAM = {"name": "adam", "learning_rate": 0.01, "schedule": "constant"}


@pytest.mark.parametrize(
    ("optimizer", "vmapped"), [(ADAM, 2), (optax.adam(0.01), 1)], ids=("named", "optax")
)
def test_a_run_is_that_of_a_loop_by_hand(optimizer, vmapped):
    found = compare(
        activations=["relu", "gelu"],
        optimizer=optimizer,
        epochs=3,
        vmapped_seeds=vmapped,
    )
    by_hand = [train_by_hand(seed) for seed in (0, 1)]
    np.testing.assert_allclose(of(found, "relu", "rmse"), by_hand, rtol=1e-4)


@pytest.mark.parametrize("library", ["nnx", "linen"])
def test_arms_start_from_the_same_weights_and_drop_the_same(library):
    x = numbers(11)[0].astype("f4")
    networks = []
    for name in ("relu", "prelu", "apalu"):
        (arm,) = [a for n, a in activations.choose(ARMS).items() if n == name]
        arm = activations.for_nnx(name, arm) if library == "nnx" else arm
        networks.append(build(maker(library, drop=0.5), arm.activation, {}))
    assert isinstance(networks[0], NNXNetwork) == (library == "nnx")
    drawn = [network.init(jax.random.key(3), x) for network in networks]
    common = jax.tree.leaves(drawn[0])
    for other in drawn[1:]:
        kept = [leaf for leaf in jax.tree.leaves(other) if leaf.ndim]
        assert len(kept) == len(common)
        for a, b in zip(common, kept, strict=True):
            np.testing.assert_array_equal(a, b)

    def dropped(network, variables, key):
        outputs, carried = network.train(variables, x, jax.random.key(key))
        return np.asarray(outputs), jax.tree.leaves(carried)

    first, carried = dropped(networks[0], drawn[0], 1)
    again, _ = dropped(networks[0], drawn[0], 1)
    other, _ = dropped(networks[0], drawn[0], 2)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    before = [
        leaf for name in drawn[0] if name != "params" for leaf in [drawn[0][name]]
    ]
    moved = zip(jax.tree.leaves(before), carried, strict=True)
    assert all(not np.array_equal(a, b) for a, b in moved)
    evaluated = [networks[0].evaluate(drawn[0], x) for _ in range(2)]
    np.testing.assert_array_equal(*evaluated)


def test_masks_of_dropout_are_those_of_every_arm():
    class Masked(nnx.Module):
        def __init__(self, activation, rngs):
            self.first = nnx.Linear(5, 3, rngs=rngs)
            self.act = activation()
            self.drops = nnx.List([nnx.Dropout(0.5, rngs=rngs) for _ in range(2)])

        def __call__(self, x):
            ones = jnp.ones_like(self.act(self.first(x)))
            return jnp.stack([drop(ones) for drop in self.drops])

    x = jnp.ones((17, 5))
    masks = []
    for factory in (lambda: jax.nn.relu, nnx.PReLU):
        network = build(Masked, factory, {})
        variables = network.init(jax.random.key(0), x)
        masks.append(network.train(variables, x, jax.random.key(7))[0])
    np.testing.assert_array_equal(*masks)
    assert not np.array_equal(*masks[0])  # each layer has its own


@pytest.fixture
def untrained(monkeypatch):
    """Comparisons end before the first run."""
    monkeypatch.setattr(
        comparison.runner, "run", lambda spec, folder, **_: Results(spec, folder=folder)
    )


def test_number_of_vmapped_seeds_is_measured(monkeypatch, tmp_path, untrained):
    def measured(data=SPLITS, **changes):
        arms = ["relu", "gelu"]
        found = compare(data=data, vmapped_seeds=None, activations=arms, **changes)
        return found.results.spec.vmapped_seeds

    assert measured() in (1, 2)
    for slow, expected in ((1.0, 2), (3.0, 1)):
        monkeypatch.setattr(
            declaration,
            "time_step",
            lambda spec, trial, parts, slow=slow: StepTime(
                slow if len(trial.seeds) > 1 else 1.0, 0, 1
            ),
        )
        assert measured() == expected
    # A folder keeps what it was begun with.
    out = tmp_path / "out"
    out.mkdir()
    spec = compare(activations=["relu", "gelu"]).results.spec
    Results(spec, folder=out).setup_index(SETUP)
    assert measured(out=out) == 2
    assert measured(lambda seed: {**SPLITS, "train": numbers(60 + seed)}) == 1


def test_a_comparison_has_the_name_of_its_folder(tmp_path, untrained):
    def name(**options):
        return compare(activations=["relu", "gelu"], **options).results.spec.name

    assert name(out=tmp_path / "wine") == "wine"
    assert name(out=tmp_path / "wine", name="mine") == "mine"
    assert name(out=tmp_path / ".hidden") == name() == "compare"


def test_table_report_and_figure(tmp_path):
    found = compare(seeds=6, vmapped_seeds=6, epochs=1, activations=["relu", "apalu"])
    lines = str(found.table).splitlines()
    assert lines[0] == "compare · 2 activations x 6 paired seeds"
    assert max(map(len, lines)) <= 79
    rows = found.table.table.rows
    assert {row[0] for row in rows} == {"relu", "apalu"}
    assert found.table._repr_html_().count("<tr>") == 3
    shown = [label.get_text() for label in found.plot().axes[0].get_yticklabels()]
    assert shown == ["relu"]
    page = found.report()
    assert page == found.folder / "report.html"
    assert "apalu" in page.read_text() and "preset" not in page.read_text()
    result = CliRunner().invoke(app, ["report", str(found.folder)])
    assert result.exit_code == 0
    spec = json.loads((found.folder / "spec.json").read_text())["spec"]
    assert spec["data"]["summary"]["train"] == 61


def test_steps_are_rounded_to_epochs(untrained):
    found = compare(epochs=None, steps=11, activations=["relu", "gelu"])
    assert found.results.spec.epochs == 3  # of 4 steps


def test_doubts_come_first():
    hot = {"name": "sgd", "learning_rate": 1e6}
    found = compare(activations=["relu", "apalu"], optimizer=hot, loss="mse")
    assert {r.status for r in found.results.records} == {"diverged"}
    warned = found.table.headline[2:]
    assert warned[0].startswith("No better than a constant prediction: relu, apalu.")
    assert warned[1].startswith("2 of 2 runs of relu diverged")
    level = np.sqrt(np.var(SPLITS["test"][1]))
    np.testing.assert_allclose(of(found, "relu", "rmse"), level, rtol=1e-5)
    # It begins at the floor, and hardly moves.
    low = compare(
        maker("linen"),
        activations=["relu", ("low", low_apalu)],
        optimizer={"name": "sgd", "learning_rate": 1e-9},
    )
    assert any("ended at the floor" in line for line in low.table.headline)


def low_apalu():
    from apalu_jax.linen import APALU

    return APALU(params_init=(0.5, 1e-3))


def test_public_names():
    assert experiments.compare is comparison.compare
