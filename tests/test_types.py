"""Types, as a user's checker sees them."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

CLIENT = Path(__file__).with_name("typed_client.py")


def test_client_runs(capsys, optax_promotion):
    runpy.run_path(str(CLIENT))
    assert "smoothness" in capsys.readouterr().out


@pytest.mark.process
def test_client_has_no_error_in_strict_mode():
    """Every mistake in it is found too: an ignored error that is none is one."""
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(CLIENT)],
        capture_output=True, text=True, check=False,
        cwd=CLIENT.parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
