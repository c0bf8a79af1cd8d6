"""Settings of the experiments' tests, and one finished run that they may read."""

import functools

import jax
import jax.numpy as jnp
import pytest

from apalu_jax.experiments import runner
from apalu_jax.experiments.arms import ARMS
from apalu_jax.experiments.runner import execute
from apalu_jax.experiments.tasks.base import init_variables
from tests.helpers import QUICK_ENVIRONMENT, quick_code_generation

from .helpers import mlp, tiny


@pytest.fixture(scope="package", autouse=True)
def quick_compilation():
    """Compile quickly, in the processes that tests start too.

    The networks here run for milliseconds, and compiling them was three quarters of the
    time. Programs made so are dropped at the end, for no other test to run them.
    """
    with pytest.MonkeyPatch.context() as patch, quick_code_generation():
        for item in QUICK_ENVIRONMENT.items():
            patch.setenv(*item)
        yield
    jax.clear_caches()


@pytest.fixture(scope="package", autouse=True)
def optax_promotion():
    """As in tests/conftest.py, for all: nearly every experiment trains with Adam.

    Of the scope of a package, so that fixtures of modules may train too.
    """
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="package", autouse=True)
def shared_programs():
    """Share compiled functions between runs, as the trials of one run do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute, "_compile", functools.cache(execute._compile))
        yield


@pytest.fixture(scope="package")
def finished_run(tmp_path_factory):
    """The spec, the folder and the records of a complete run; not to be changed."""
    spec, out = tiny(), tmp_path_factory.mktemp("finished") / "run"
    return spec, out, runner.run(spec, out).records


@pytest.fixture(scope="package")
def params_by_arm():
    """Initial parameters of a small network with every arm, all from one key."""

    @jax.jit
    def draw(key):
        x = jnp.zeros((1, 64))
        return {arm: init_variables(mlp(arm), key, x)["params"] for arm in ARMS}

    return draw(jax.random.key(5))
