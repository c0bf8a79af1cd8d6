"""Processes with one core each.

Nothing that loads JAX may be imported here: a worker keeps to its core before JAX
counts the cores.
"""

import ctypes
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children, get_context
from multiprocessing.sharedctypes import Synchronized
from types import TracebackType

# Number of the option of prctl in linux/prctl.h: the signal at the parent's death.
_PDEATHSIG = 1


class Workers(ProcessPoolExecutor):
    """Processes that end with this one, and at once if the statement's body fails."""

    def __init__(self, number: int) -> None:
        """Starts no process yet."""
        context = get_context("spawn")
        started = context.Value("i", 0)
        super().__init__(number, context, _prepare, (started,))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends the processes."""
        if kind is not None:
            for child in active_children():
                child.terminate()
        super().__exit__(kind, error, traceback)


def _prepare(started: "Synchronized[int]") -> None:
    """Runs first in a worker."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with started.get_lock():
        number = started.value
        started.value += 1
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[number % len(cores)]})
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
