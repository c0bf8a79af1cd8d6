"""Progress of a comparison that is called from Python."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from apalu_jax._console import Ticker
from apalu_jax.experiments.display import state_text
from apalu_jax.experiments.runner import State
from apalu_jax.experiments.specs import Spec

# Seconds between the states that a notebook shows.
_NOTEBOOK_S = 0.5


@contextlib.contextmanager
def showing(wanted: bool, spec: Spec) -> Iterator[Callable[[State], None]]:
    """Shows what is trained, the share done and the time left.

    In a notebook as a line that is renewed, else as :class:`~apalu_jax._console.Ticker`
    does.
    """
    text = state_text(spec)
    if not wanted:
        yield lambda state: None
    elif "ipykernel" in sys.modules:
        yield from _notebook(text)
    else:
        with Ticker() as ticker:
            yield lambda state: ticker.show(text(state))


def _notebook(text: Callable[[State], str]) -> Iterator[Callable[[State], None]]:
    from IPython import display

    def line(text: str) -> dict[str, str]:
        return {"text/plain": text}

    shown: Any = display.display(line("compiling"), raw=True, display_id=True)  # type: ignore[no-untyped-call]
    start = last = time.monotonic()

    def show(state: State) -> None:
        nonlocal last
        if time.monotonic() - last >= _NOTEBOOK_S:
            last = time.monotonic()
            shown.update(line(text(state)), raw=True)

    yield show
    shown.update(line(f"done in {time.monotonic() - start:.0f} s"), raw=True)
