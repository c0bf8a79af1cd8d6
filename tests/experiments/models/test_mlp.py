"""The plain dense network, and options that are shared by all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apalu_jax import introspection
from apalu_jax.experiments import ExperimentError, models, tasks
from apalu_jax.experiments.arms import ARMS

from ..helpers import mlp


def test_every_site_has_parameters_of_its_own(params_by_arm):
    sites = introspection.collect(params_by_arm["apalu"])
    assert sorted(sites) == ["APALU_0", "APALU_1"]


@pytest.mark.parametrize(
    ("init", "gain"), [("he", np.sqrt(2)), ("gain", ARMS["silu"].gain)]
)
def test_hidden_weights_have_the_declared_variance(init, gain):
    network = mlp("silu", init, features=(1024, 1024))
    variables = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 64)))
    params = variables["params"]
    for layer, fan_in in (("Dense_0", 64), ("Dense_1", 1024)):
        spread = float(params[layer]["kernel"].std())
        assert spread == pytest.approx(gain / np.sqrt(fan_in), rel=0.01)
    last = float(params["Dense_2"]["kernel"].std())
    assert last == pytest.approx(1 / np.sqrt(1024), rel=0.03)


def test_unknown_model_init_and_task_are_refused():
    with pytest.raises(ExperimentError, match="`model`.*'no-such'"):
        models.build({"name": "no-such", "init": "he"}, ARMS["relu"], 10)
    with pytest.raises(ExperimentError, match="`init`.*'zeros'"):
        mlp("relu", init="zeros")
    with pytest.raises(ExperimentError, match="`task`.*'no-such'"):
        tasks.build({"name": "no-such"}, mlp("relu"))
