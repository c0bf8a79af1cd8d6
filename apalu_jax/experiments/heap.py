"""The process's heap: memory that a step has freed stays, for the next one to take."""

import ctypes
import platform

__all__ = ("keep_freed",)

# Numbers of mallopt's parameters in glibc's malloc.h.
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4


def keep_freed() -> None:
    """Lets the C library keep the memory that is freed, however large the blocks.

    On CPU, XLA asks for the memory of a step anew each time. A block of more than 32 MB
    is one that glibc asks the system for and gives back at once, and the system clears
    every page of it, which for a small convolutional network with APALU is a third of
    the step's time. The process holds on to the most that it has needed; there is no
    way back. Without effect where the C library is another one.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, -1)
