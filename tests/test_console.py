"""The state of a run in a terminal."""

import io
import os
import sys

import pytest

from apalu_jax import _console


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (80, "15 %, 1 second left · train apalu (4 of 4) · epoch 19/20 · loss 0.2345"),
        (70, "15 %, 1 second left · train apalu (4 of 4) · epoch 19/20"),
        (45, "15 %, 1 second left · train apalu (4 of 4)"),
        (12, "15 %, 1 sec"),
    ],
)
def test_a_narrow_terminal_leaves_out_whole_parts_of_the_state(
    monkeypatch, columns, shown
):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(
        _console.shutil, "get_terminal_size", lambda: os.terminal_size((columns, 40))
    )
    state = "15 %, 1 second left · train apalu (4 of 4) · epoch 19/20 · loss 0.2345"
    with _console.Ticker() as ticker:
        ticker.show(state)
    assert sys.stderr.getvalue() == f"\r{shown}\x1b[K\r\x1b[K"
