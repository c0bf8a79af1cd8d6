"""Progress of a comparison that is called from Python."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from apalu_jax.experiments.records import Trial

# Without a terminal, a line after so many seconds; in a notebook one line is renewed.
_EVERY_S = 30.0
_NOTEBOOK_S = 0.5


@contextlib.contextmanager
def showing(wanted: bool) -> Iterator[Callable[[Trial, float], None]]:
    """Shows what is trained, the share done and the time left.

    On a terminal as a bar that goes in the end; in a notebook as a line; elsewhere as a
    line every 30 seconds, on standard error.
    """
    if not wanted:
        yield lambda trial, share: None
    elif "ipykernel" in sys.modules:
        yield from _notebook()
    else:
        console = Console(stderr=True)
        if console.is_terminal:
            yield from _bar(console)
        else:
            yield _Lines(
                _EVERY_S, lambda text: print(text, file=sys.stderr, flush=True)
            )


class _Lines:
    """Tells the state in a line, at most every so many seconds."""

    def __init__(self, every_s: float, tell: Callable[[str], None]) -> None:
        self._every_s, self._tell = every_s, tell
        self.start = self._last = time.monotonic()
        self._first: tuple[float, float] | None = None

    def __call__(self, trial: Trial, share: float) -> None:
        now = time.monotonic()
        # Of a run that is resumed, the time left is that of what it does now.
        self._first = self._first or (now, share)
        if now - self._last < self._every_s:
            return
        self._last = now
        since, begun = self._first
        tail = ""
        if share > begun:
            left = (now - since) * (1 - share) / (share - begun)
            tail = f", {left:.0f} s left"
        self._tell(f"{trial.name}: {100 * share:.0f} %{tail}")


def _notebook() -> Iterator[Callable[[Trial, float], None]]:
    from IPython import display

    def line(text: str) -> dict[str, str]:
        return {"text/plain": text}

    shown: Any = display.display(line("compiling"), raw=True, display_id=True)  # type: ignore[no-untyped-call]
    lines = _Lines(_NOTEBOOK_S, lambda text: shown.update(line(text), raw=True))
    yield lines
    shown.update(line(f"done in {time.monotonic() - lines.start:.0f} s"), raw=True)


def _bar(console: Console) -> Iterator[Callable[[Trial, float], None]]:
    columns = (
        TextColumn("{task.description:>20}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("compiling", total=1.0)
        yield lambda trial, share: progress.update(
            task, completed=share, description=trial.name
        )
