"""Files of one JSON object a line that can be trusted after a kill at any moment.

A line counts once its newline is on the disk; what stands behind the last newline was
never finished and is cut off before the next line is written. Anything else that is
wrong is an error that names the file and the line.
"""

import json
import os
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, TypeVar

from apalu_jax.experiments import ExperimentError

__all__ = ("append", "parse", "read")

_Line = TypeVar("_Line")


def read(path: Path, from_line: Callable[[str], _Line]) -> list[_Line]:
    """Reads every finished line; none if there is no file.

    Args:
      path: The file.
      from_line: Reads one; raises ValueError or TypeError where it is damaged.

    Returns:
      What the lines hold, in their order.

    Raises:
      ExperimentError: A line is damaged.
    """
    found: list[_Line] = []
    if not path.exists():
        return found
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            found.append(from_line(line.decode("utf-8")))
        except (ValueError, TypeError) as error:
            raise ExperimentError(
                f"{path}, line {number}: damaged ({error}). Nothing was changed."
            ) from error
    return found


def parse(line: str, keys: Collection[str]) -> dict[str, Any]:
    """Reads an object with exactly these keys from strict JSON.

    Raises:
      ValueError: The line is something else.
    """
    fields = json.loads(line, parse_constant=_reject_constant)
    if not isinstance(fields, dict):
        raise ValueError("it must be a JSON object")
    if set(fields) != set(keys):
        raise ValueError(f"the keys differ by {sorted(set(fields) ^ set(keys))}")
    return fields


def append(path: Path, lines: Iterable[str]) -> None:
    """Appends lines, each safely on the disk before the next one is begun.

    Args:
      path: The file; an unfinished last line is cut off first.
      lines: What to append, newlines included.

    Raises:
      OSError: The disk is full or the file cannot be written; what was finished stays.
    """
    path.touch()
    end = path.read_bytes().rfind(b"\n") + 1
    os.truncate(path, end)
    for line in lines:
        encoded = line.encode("utf-8")
        try:
            with path.open("ab") as file:
                file.write(encoded)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            # The part of a line that still fitted must not stay behind.
            os.truncate(path, end)
            raise
        end += len(encoded)


def _reject_constant(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")
