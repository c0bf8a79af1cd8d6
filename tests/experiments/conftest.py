"""One finished run of a small experiment that the tests may read."""

import jax
import pytest

from apalu_jax.experiments import runner

from .helpers import tiny


@pytest.fixture(scope="package", autouse=True)
def optax_promotion():
    """As in tests/conftest.py, for all: nearly every experiment trains with Adam.

    Of the scope of a package, so that fixtures of modules may train too.
    """
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="package")
def finished_run(tmp_path_factory):
    """The spec, the folder and the records of a complete run; not to be changed."""
    spec, out = tiny(), tmp_path_factory.mktemp("finished") / "run"
    return spec, out, runner.run(spec, out).records
