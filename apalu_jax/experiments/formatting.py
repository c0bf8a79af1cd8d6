"""Text put together from parts."""

import difflib
from collections.abc import Iterable


def joined(*parts: str, by: str = ", ") -> str:
    """The parts that are not empty."""
    return by.join(filter(None, parts))


def range_text(ends: Iterable[str]) -> str:
    """Both ends of a range; one if they read alike."""
    return " to ".join(dict.fromkeys(ends))


def first_line(error: Exception) -> str:
    """Kind of an error and the first line of its message."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question after an error about an unknown name; "" if none is like it.

    Examples:
      >>> did_you_mean("digit", ["digits", "mnist"])
      " Did you mean 'digits'?"
    """
    close = difflib.get_close_matches(name, list(known), 1)
    return f" Did you mean {close[0]!r}?" if close else ""
