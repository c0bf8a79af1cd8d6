"""The optimizers of the arms, step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apalu_jax import introspection
from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.arms import ARMS
from apalu_jax.experiments.training import optimizers

OPTIMIZER = {
    "name": "adamw",
    "learning_rate": 0.01,
    "schedule": "constant",
    "weight_decay": 0.5,
    "activation_floor": 0.01,
}


def update_of(arm, params, gradient, **options):
    """The first update of an optimizer whose gradients are all the same number."""
    optimizer = optimizers.build({**OPTIMIZER, **options}, ARMS[arm], params, 10)
    gradients = jax.tree.map(lambda leaf: jnp.full_like(leaf, gradient), params)
    return jax.jit(optimizer.update)(gradients, optimizer.init(params), params)[0]


@pytest.mark.parametrize("arm", ARMS)
def test_weight_decay_leaves_the_activation_alone(arm, params_by_arm):
    updates = update_of(arm, params_by_arm[arm], 0.0)
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
def test_large_steps_keep_the_activation_in_bounds(arm, low, high, params_by_arm):
    params = params_by_arm[arm]
    updates = update_of(arm, params, 1.0, learning_rate=100.0)
    for a, b in introspection.collect(jax.tree.map(jnp.add, params, updates)).values():
        assert np.float32(low) <= min(a, b) and max(a, b) <= np.float32(high)


@pytest.mark.parametrize("slow", [n for n, arm in ARMS.items() if arm.rate != 1])
def test_a_rate_of_its_own(slow, params_by_arm):
    """A tenth of the weights' steps, for the activation alone."""
    plain = slow.removesuffix("-slow")
    params = params_by_arm[plain]
    whole, tenth = (update_of(arm, params, 1.0) for arm in (plain, slow))
    for name, leaves in whole.items():
        factor = 1.0 if name.startswith("Dense") else 0.1
        for key, leaf in leaves.items():
            np.testing.assert_allclose(tenth[name][key], factor * leaf, rtol=1e-6)


def test_unknown_optimizer_is_refused():
    for change, message in (
        (
            {"name": "adamx"},
            "`name`.*'adamx'",
        ),
        ({"schedule": "steps"}, "`schedule`.*'steps'"),
        ({"schedule": "step"}, "`drop_at`"),
        ({"momentun": 0.9}, "`momentun`"),
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


def test_scaled_gelu_starts_as_gelu_and_stays_positive(params_by_arm):
    x = jnp.linspace(-3, 3, 7)
    activation = ARMS["gelu-gain"].activation()
    variables = activation.init(jax.random.key(0), x)
    np.testing.assert_array_equal(
        activation.apply(variables, x), jax.nn.gelu(x, approximate=False)
    )
    params = params_by_arm["gelu-gain"]
    updates = update_of("gelu-gain", params, 1.0, learning_rate=100.0)
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


def test_clipped_parameters_have_an_upper_bound_too(params_by_arm):
    params = params_by_arm["apalu-clipped"]
    updates = update_of("apalu-clipped", params, -1.0, learning_rate=100.0)
    after = jax.tree.map(jnp.add, params, updates)
    for a, b in introspection.collect(after).values():
        assert (a, b) == (pytest.approx(3.0), pytest.approx(3.0))
