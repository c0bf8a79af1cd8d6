"""Settings of the tests of introspection."""

import pytest


@pytest.fixture(autouse=True)
def _quick(quick_compilation):
    """Counts are of whole programs compared with NumPy: compile them quickly."""
