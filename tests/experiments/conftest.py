"""One finished run of a small experiment that the tests may read."""

import pytest

from apalu_jax.experiments import runner

from .helpers import tiny


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """The spec, the folder and the records of a complete run; not to be changed."""
    spec, out = tiny(), tmp_path_factory.mktemp("finished") / "run"
    return spec, out, runner.run(spec, out).records
