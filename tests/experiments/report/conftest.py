"""A large made-up experiment, shared by the tests of reports."""

import pytest

from .helpers import make_large


@pytest.fixture(scope="package")
def large():
    return make_large()
