"""Figures without pyplot, and the error without matplotlib."""

import pytest

from tests.helpers import run_python


@pytest.mark.process
def test_no_pyplot_and_a_clear_error_without_matplotlib():
    run_python("""
import sys
import apalu_jax.plotting as plotting
plotting.plot_learning_curves({"a": [[1.0, 2.0]]})
assert "matplotlib.pyplot" not in sys.modules
for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
    sys.modules[name] = None
del sys.modules["apalu_jax.plotting"]
try:
    import apalu_jax.plotting
except ImportError as error:
    assert 'pip install "matplotlib' in str(error)
else:
    raise AssertionError
""")
