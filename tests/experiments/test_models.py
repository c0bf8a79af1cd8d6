import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apalu_jax import introspection
from apalu_jax.experiments import ExperimentError, arms, models, tasks
from apalu_jax.experiments.arms import ARMS
from apalu_jax.experiments.training import optimizers

OPTIMIZER = {
    "name": "adamw",
    "learning_rate": 0.01,
    "schedule": "constant",
    "weight_decay": 0.5,
    "activation_floor": 0.01,
}


def build(arm, init="he", features=(32, 16)):
    options = {"name": "mlp", "features": list(features), "init": init}
    return models.build(options, arms.get(arm), 10)


@pytest.mark.parametrize("arm", ARMS)
def test_gain_is_that_of_the_function(arm):
    z = np.linspace(-12, 12, 240_001)
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    activation = ARMS[arm].activation()
    x = jnp.asarray(z, jnp.float32)
    if ARMS[arm].parameters:
        y = activation.apply(activation.init(jax.random.key(0), x), x)
    else:
        y = activation(x)
    moment = np.sum(np.asarray(y, np.float64) ** 2 * density) * (z[1] - z[0])
    assert ARMS[arm].gain == pytest.approx(1 / np.sqrt(moment), rel=1e-5)


def test_unknown_arm_is_refused():
    with pytest.raises(ExperimentError, match="`arms` must be among relu, .*'mish'"):
        arms.get("mish")


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_starts_from_the_same_weights(arm):
    x = jnp.zeros((2, 8, 8))
    relu = build("relu").init(jax.random.key(5), x)["params"]
    own = build(arm).init(jax.random.key(5), x)["params"]
    dense = {name: value for name, value in own.items() if name.startswith("Dense")}
    assert sorted(dense) == ["Dense_0", "Dense_1", "Dense_2"]
    jax.tree.map(np.testing.assert_array_equal, dense, dict(relu))


def test_every_site_has_parameters_of_its_own():
    params = build("apalu").init(jax.random.key(0), jnp.zeros((1, 64)))["params"]
    assert sorted(introspection.collect(params)) == ["APALU_0", "APALU_1"]


@pytest.mark.parametrize(
    ("init", "gain"), [("he", np.sqrt(2)), ("gain", ARMS["silu"].gain)]
)
def test_hidden_weights_have_the_declared_variance(init, gain):
    network = build("silu", init, features=(1024, 1024))
    params = network.init(jax.random.key(0), jnp.zeros((1, 64)))["params"]
    for layer, fan_in in (("Dense_0", 64), ("Dense_1", 1024)):
        spread = float(params[layer]["kernel"].std())
        assert spread == pytest.approx(gain / np.sqrt(fan_in), rel=0.01)
    last = float(params["Dense_2"]["kernel"].std())
    assert last == pytest.approx(1 / np.sqrt(1024), rel=0.03)


def test_unknown_model_init_and_task_are_refused():
    with pytest.raises(ExperimentError, match="`model` must be one of .*mlp"):
        models.build({"name": "no-such", "init": "he"}, ARMS["relu"], 10)
    with pytest.raises(ExperimentError, match="`init` must be he or gain"):
        build("relu", init="zeros")
    with pytest.raises(ExperimentError, match="`task` must be one of .*classification"):
        tasks.build({"name": "no-such"}, build("relu"))


def test_classification_by_hand():
    class Fixed:
        def apply(self, variables, inputs, **_):
            return inputs

    task = tasks.build({"name": "classification"}, Fixed())
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]]))
    part = {"inputs": logits, "targets": np.array([0, 1])}
    metrics = task.metrics(jax.device_get(task.predict({}, part)), part, None)
    assert metrics["accuracy"] == 0.5
    assert metrics["log_loss"] == pytest.approx(-np.log(0.5 * 0.2) / 2)
    part = {"targets": np.array([0, 1, 2, 3])}
    assert task.chance("accuracy", part) == 0.25
    assert task.chance("log_loss", part) == pytest.approx(np.log(4))
    with pytest.raises(ExperimentError, match="`metric` must be one of accuracy"):
        task.chance("auroc", part)


@pytest.mark.parametrize("arm", ARMS)
def test_weight_decay_leaves_the_activation_alone(arm):
    params = build(arm).init(jax.random.key(0), jnp.zeros((1, 64)))["params"]
    optimizer = optimizers.build(OPTIMIZER, ARMS[arm], params, 10)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    for name, leaves in updates.items():
        moved = [k for k, leaf in leaves.items() if np.any(leaf != 0)]
        assert moved == (["kernel"] if name.startswith("Dense") else [])


@pytest.mark.parametrize(
    ("arm", "low", "high"),
    [
        ("apalu", 0.01, 0.0101),
        ("apalu-frozen", 0.065, 0.55),
        ("apalu-clipped", 0.0999999, 0.1000001),
    ],
)
def test_large_steps_keep_the_activation_in_bounds(arm, low, high):
    params = build(arm).init(jax.random.key(0), jnp.zeros((1, 64)))["params"]
    options = {**OPTIMIZER, "learning_rate": 100.0}
    optimizer = optimizers.build(options, ARMS[arm], params, 10)
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(ones, optimizer.init(params), params)
    for a, b in introspection.collect(jax.tree.map(jnp.add, params, updates)).values():
        assert np.float32(low) <= min(a, b) and max(a, b) <= np.float32(high)


def test_unknown_optimizer_is_refused():
    for change, message in (
        (
            {"name": "adamx"},
            "optimizer: `name`: .* adam, adamw, sgd, got",
        ),
        ({"schedule": "steps"}, "`schedule`: Expected one of constant, cosine, step"),
        ({"schedule": "step"}, "`drop_at` must be given for the schedule step"),
        ({"momentun": 0.9}, "optimizer: Object contains unknown field `momentun`"),
    ):
        with pytest.raises(ExperimentError, match=message):
            optimizers.build({**OPTIMIZER, **change}, ARMS["relu"], {}, 10)


def steps_of(options, gradients, params, total=10):
    """The parameters after each step of an optimizer of the relu arm."""
    optimizer = optimizers.build(
        {"activation_floor": 0.01, "schedule": "constant", **options},
        ARMS["relu"],
        params,
        total,
        multiplier=options.pop("multiplier", 1.0),
    )
    state, path = optimizer.init(params), []
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        path.append(float(params["kernel"][0, 0]))
    return path


def test_sgd_by_hand():
    params = {"kernel": jnp.full((1, 1), 2.0), "bias": jnp.ones(1)}
    zero = jax.tree.map(jnp.zeros_like, params)
    # Velocity v = 0.9 v + g, Nesterov's step 0.9 v + g, gradient g = 0.5 x.
    options = {"name": "sgd", "learning_rate": 0.1, "weight_decay": 0.5}
    momentum = {**options, "momentum": 0.9, "nesterov": True}
    x, v, expected = 2.0, 0.0, []
    for _ in range(3):
        g = 0.5 * x
        v = 0.9 * v + g
        x -= 0.1 * (0.9 * v + g)
        expected.append(x)
    assert steps_of(momentum, 3 * [zero], params) == pytest.approx(expected)
    assert steps_of(options, [zero], params) == pytest.approx([2 - 0.1])


def test_warmup_cosine_and_clipping_by_hand():
    params = {"kernel": jnp.zeros((1, 1))}
    g = {"kernel": jnp.full((1, 1), 5.0)}
    options = {
        "name": "sgd",
        "learning_rate": 1.0,
        "schedule": "cosine",
        "warmup": 0.4,
        "clip_norm": 1.0,
    }
    path = np.array([0.0, *steps_of(options, 11 * [g], params)])
    rates = [0, 0.25, 0.5, 0.75, *(0.5 + 0.5 * np.cos(np.pi * np.arange(7) / 6))]
    assert -np.diff(path) == pytest.approx(rates, abs=1e-6)


def test_scaled_gelu_starts_as_gelu_and_stays_positive():
    x = jnp.linspace(-3, 3, 7)
    activation = ARMS["gelu-gain"].activation()
    variables = activation.init(jax.random.key(0), x)
    np.testing.assert_array_equal(
        activation.apply(variables, x), jax.nn.gelu(x, approximate=False)
    )
    params = build("gelu-gain").init(jax.random.key(0), jnp.zeros((1, 64)))["params"]
    options = {**OPTIMIZER, "learning_rate": 100.0}
    optimizer = optimizers.build(options, ARMS["gelu-gain"], params, 10)
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(ones, optimizer.init(params), params)
    gain = params["ScaledGELU_0"]["gain"] + updates["ScaledGELU_0"]["gain"]
    assert gain == pytest.approx(0.01, rel=1e-5)


def test_adam_with_a_step_by_hand():
    """Weight decay is added to the gradient; the rate falls to a tenth."""
    params = {"kernel": jnp.full((1, 1), 2.0), "bias": jnp.ones(1)}
    zero = jax.tree.map(jnp.zeros_like, params)
    options = {
        "name": "adam",
        "learning_rate": 0.1,
        "weight_decay": 0.5,
        "schedule": "step",
        "drop_at": 0.5,
        **{"b1": 0.8, "b2": 0.7, "eps": 1e-2},
    }
    x, m, v, expected = 2.0, 0.0, 0.0, []
    for step in range(1, 5):
        g = 0.5 * x
        m, v = 0.8 * m + 0.2 * g, 0.7 * v + 0.3 * g**2
        corrected = m / (1 - 0.8**step), v / (1 - 0.7**step)
        rate = 0.1 if step <= 2 else 0.01
        x -= rate * corrected[0] / (np.sqrt(corrected[1]) + 1e-2)
        expected.append(x)
    assert steps_of(options, 4 * [zero], params, total=4) == pytest.approx(expected)


def test_clipped_parameters_have_an_upper_bound_too():
    params = build("apalu-clipped").init(jax.random.key(0), jnp.zeros((1, 64)))
    options = {**OPTIMIZER, "learning_rate": 100.0}
    optimizer = optimizers.build(options, ARMS["apalu-clipped"], params["params"], 10)
    down = jax.tree.map(lambda leaf: -jnp.ones_like(leaf), params["params"])
    updates, _ = optimizer.update(
        down, optimizer.init(params["params"]), params["params"]
    )
    after = jax.tree.map(jnp.add, params["params"], updates)
    for a, b in introspection.collect(after).values():
        assert (a, b) == (pytest.approx(3.0), pytest.approx(3.0))
