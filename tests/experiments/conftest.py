"""A small experiment, and one finished run of it that the tests may read."""

from dataclasses import replace

import jax
import pytest

from apalu_jax.experiments import runner, specs


def tiny(**changes):
    """Digits with few seeds and epochs and three arms, one of them a control."""
    settings = {
        "arms": ("relu", "apalu"),
        "controls": ("apalu-frozen",),
        "seeds": 3,
        "seeds_per_block": 3,
        "epochs": 2,
    }
    return replace(specs.load("digits", "smoke"), **{**settings, **changes})


@pytest.fixture(scope="package", autouse=True)
def optax_promotion():
    """As in tests/conftest.py, for all: nearly every experiment trains with Adam.

    Of the scope of a package, so that fixtures of modules may train too.
    """
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="package")
def finished_run(tmp_path_factory):
    """The spec, the folder and the records of a whole run; not to be changed."""
    spec, out = tiny(), tmp_path_factory.mktemp("finished") / "run"
    return spec, out, runner.run(spec, out)
