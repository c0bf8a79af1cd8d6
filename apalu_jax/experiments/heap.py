"""The process's heap: freed memory stays, and nobody looks for cycles in it."""

import contextlib
import ctypes
import gc
import platform
from collections.abc import Iterator

__all__ = ("keep_freed", "uncollected")

# Numbers of mallopt's parameters in glibc's malloc.h.
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4
_ARENA_MAX = -8


def keep_freed() -> None:
    """Lets the C library keep the memory that is freed, however large the blocks.

    On CPU, XLA asks for the memory of a step anew each time. A block of more than 32 MB
    is one that glibc asks the system for and gives back at once, and the system clears
    every page of it, which for a small convolutional network with APALU is a third of
    the step's time. So are the heaps of threads, which glibc gives back whatever it is
    told: threads that are started later share the main one. The process holds on to the
    most that it has needed; there is no way back. Without effect where the C library is
    another one.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, -1)
    libc.mallopt(_ARENA_MAX, 1)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Keeps Python from looking for cycles meanwhile.

    Every call of a step makes an array for each of some hundred parameters, so that
    Python looks for cycles all the time, and among all that the compilation of every
    arm has left: for GoogLeNet a third of a step's time, and more with every arm. What
    is made meanwhile must not hold itself; arrays do not.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
