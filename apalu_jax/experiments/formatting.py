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


def duration(seconds: float) -> str:
    """A rough time in words.

    Examples:
      >>> duration(100), duration(130), duration(9000)
      ('100 seconds', '2 minutes', '2 hours')
      >>> duration(0.7)
      '1 second'
    """
    for size, unit in ((3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return "1 second" if round(seconds) == 1 else f"{seconds:.0f} seconds"
