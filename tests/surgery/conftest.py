"""Settings of the tests of surgery."""

import pytest


@pytest.fixture(autouse=True)
def _quick(quick_compilation):
    """Networks whose arithmetic is compared with itself: compile them quickly."""
