"""Ctrl-C while a command starts."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ("INTERRUPTED", "exit_at_once")

INTERRUPTED = "apalu: interrupted"


def _exit(signum: int, frame: FrameType | None) -> None:
    os.write(2, f"{INTERRUPTED}\n".encode())
    os._exit(130)


@contextmanager
def exit_at_once() -> Iterator[None]:
    """End the process at Ctrl-C, while modules are imported and nothing can be lost.

    A KeyboardInterrupt may be lost there: the callback that JAX has in the garbage
    collection swallows one that is raised inside of it (jax 0.10.2, 1 of 14 tries).
    Another handler than Python's own, and other threads, are left alone.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        if before is signal.default_int_handler:
            signal.signal(signal.SIGINT, _exit)
    except ValueError:  # not the main thread
        before = None
    try:
        yield
    finally:
        if before is signal.default_int_handler:
            signal.signal(signal.SIGINT, before)
