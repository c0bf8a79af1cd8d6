"""Measurements of the package: each gives a table that is plain JSON.

A result is a dictionary: ``benchmark``, its name; ``columns``, a format string per head
of the table; ``rows``, dictionaries of what those format; ``notes``, how to read it;
``setting``, where it was measured. The tables are made from the results alone.
"""

import datetime
import json
import os
import platform
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import jax

import apalu_jax

__all__ = ("BenchmarkError", "Result", "read_result", "to_result", "write_result")

Result: TypeAlias = dict[str, Any]


class BenchmarkError(ValueError):
    """Raised for errors of the user; the message is a single line."""


def to_result(
    benchmark: str,
    columns: Mapping[str, str],
    rows: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
) -> Result:
    """Adds to what was measured the machine, the versions and the date.

    Args:
      benchmark: Name of the benchmark, which is that of its command and file.
      columns: Head of a column -> format string of its cells, such as ``"{ulp:.2f}"``.
      rows: What is formatted; a cell is empty where its row lacks a name.
      notes: How to read the table, in Markdown.

    Returns:
      What :mod:`apalu_jax.benchmarks.tables` renders, plain enough for JSON.

    Examples:
      >>> result = to_result("size", {"n": "{n:.1f}"}, [{"n": 2}], [])
      >>> result["rows"], sorted(result["setting"])
      ([{'n': 2}], ['date', 'machine', 'platform', 'versions'])
    """
    return {
        "benchmark": benchmark,
        "columns": dict(columns),
        "rows": [dict(row) for row in rows],
        "notes": list(notes),
        "setting": {
            "machine": f"{platform.system()} {platform.machine()}, "
            f"{os.cpu_count()} cores",
            "platform": jax.devices()[0].device_kind,
            "versions": {
                "apalu_jax": apalu_jax.__version__,
                "python": platform.python_version(),
                **{name: version(name) for name in ("jax", "jaxlib", "numpy")},
            },
            "date": datetime.date.today().isoformat(),
        },
    }


def read_result(path: Path) -> Result:
    """Reads what :func:`write_result` wrote.

    Args:
      path: A file.

    Returns:
      The result.

    Raises:
      BenchmarkError: If the file holds something else.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BenchmarkError(f"{path} is not JSON: {error}.") from error
    keys = {"benchmark", "columns", "rows", "notes", "setting"}
    if not isinstance(result, dict) or not keys <= result.keys():
        raise BenchmarkError(f"{path} is not a result of `apalu bench`.")
    return result


def write_result(result: Result, path: Path) -> None:
    """Writes a result as JSON; the file is there whole or not at all.

    Args:
      result: See :func:`to_result`.
      path: The file, which is replaced if it exists.
    """
    unfinished = path.with_name(path.name + ".tmp")
    to_text = partial(json.dumps, allow_nan=False)
    head = to_text({k: v for k, v in result.items() if k != "rows"}, indent=2)
    # Each row on a line of its own: there are many, and they are compared.
    rows = ",\n    ".join(map(to_text, result["rows"]))
    text = head.removesuffix("\n}") + f',\n  "rows": [\n    {rows}\n  ]\n}}\n'
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
