"""The arms: their gains, and their weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apalu_jax.experiments import ExperimentError, arms
from apalu_jax.experiments.arms import ARMS

from .helpers import initial_activation


@pytest.mark.parametrize("arm", ARMS)
def test_gain_is_that_of_the_function(arm):
    z = np.linspace(-12, 12, 240_001)
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    y = jax.jit(initial_activation(arm))(jnp.asarray(z, jnp.float32))
    moment = np.sum(np.asarray(y, np.float64) ** 2 * density) * (z[1] - z[0])
    assert ARMS[arm].gain == pytest.approx(1 / np.sqrt(moment), rel=1e-5)


def test_unknown_arm_is_refused():
    with pytest.raises(ExperimentError, match="`arms`.*'mish'"):
        arms.get("mish")


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_starts_from_the_same_weights(arm, params_by_arm):
    relu, own = params_by_arm["relu"], params_by_arm[arm]
    dense = {name: value for name, value in own.items() if name.startswith("Dense")}
    assert sorted(dense) == ["Dense_0", "Dense_1", "Dense_2"]
    jax.tree.map(np.testing.assert_array_equal, dense, dict(relu))


def test_trained_competitors_start_as_what_they_extend():
    x = jnp.linspace(-3, 3, 12).reshape(3, 4)
    swish, prelu = (ARMS[name].activation() for name in ("swish", "prelu-channel"))
    assert jnp.allclose(swish.init_with_output(jax.random.key(0), x)[0], jax.nn.silu(x))
    slopes = jnp.array([0.1, 0.2, 0.3, 0.4])
    y = prelu.apply({"params": {"negative_slope": slopes}}, x)
    assert jnp.allclose(y, jnp.where(x < 0, x * slopes.reshape(1, 4), x))
    assert prelu.init(jax.random.key(0), x)["params"]["negative_slope"].shape == (4,)
