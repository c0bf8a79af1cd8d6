"""Text put together from parts."""

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
