"""Measurements of the package: each gives a table that is plain JSON.

The tables and figures are made from the results alone. Every ``measure`` takes
``functions``, names in :data:`~apalu_jax.benchmarks.functions.FUNCTIONS` (all by
default), if it has a choice, and raises a BenchmarkError if an argument is wrong or the
platform cannot be measured.
"""

import datetime
import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import NotRequired, TypeAlias, TypedDict, cast

import jax

import apalu_jax
from apalu_jax._files import write_atomic

Row: TypeAlias = dict[str, str | float]
"""Measured values by name; what the columns of a table format."""

Progress: TypeAlias = Callable[[str], None]
"""Called with a line on what is measured next."""


def plain(*names: str) -> dict[str, str]:
    """Columns that show a value as it is, under its name."""
    return {name: f"{{{name}}}" for name in names}


class Setting(TypedDict):
    """Machine, versions and date of a measurement."""

    machine: str
    platform: str
    versions: dict[str, str]
    date: str
    threads: NotRequired[int]


class Result(TypedDict):
    """One measurement.

    The columns map heads to format strings of their cells, such as ``"{ulp:.2f}"``; a
    cell is empty if its row lacks a name. The notes are Markdown.
    """

    benchmark: str
    columns: dict[str, str]
    rows: list[Row]
    notes: list[str]
    setting: Setting


class BenchmarkError(ValueError):
    """Raised for errors of the user; the message is a single line."""


def quiet(text: str) -> None:
    """Do nothing: the progress of a caller who does not ask for it."""


def check_choices(name: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise a BenchmarkError that names the argument if a value is unknown."""
    choices = list(known)
    for value in given:
        if value not in choices:
            raise BenchmarkError(
                f"`{name}` must be of {', '.join(map(repr, choices))}, got {value!r}."
            )


def ratios(
    row: Mapping[str, float], reference: Mapping[str, float], name: str
) -> dict[str, float]:
    """Ratios to the values of a reference of that name, but for those that are zero."""
    return {f"{k}_to_{name}": v / reference[k] for k, v in row.items() if reference[k]}


def to_result(
    benchmark: str, columns: dict[str, str], rows: list[Row], notes: Iterable[str]
) -> Result:
    """Add the machine, the versions and the date to what was measured."""
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    versions = {name: version(name) for name in ("jax", "jaxlib", "numpy")}
    own = {"apalu_jax": apalu_jax.__version__, "python": platform.python_version()}
    setting: Setting = {
        "machine": machine,
        "platform": jax.devices()[0].device_kind,
        "versions": own | versions,
        "date": datetime.date.today().isoformat(),
    }
    return Result(
        benchmark=benchmark, columns=columns, rows=rows, notes=[*notes], setting=setting
    )


def read_result(path: Path) -> Result:
    """Read what :func:`write_result` wrote; anything else is a BenchmarkError."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BenchmarkError(f"{path} is not JSON: {error}.") from error
    if not isinstance(result, dict) or not Result.__required_keys__ <= result.keys():
        raise BenchmarkError(f"{path} is not a result of `apalu bench`.")
    return cast(Result, result)


def write_result(result: Result, path: Path) -> None:
    """Write a result as JSON, atomically; an existing file is replaced."""
    head = {k: v for k, v in result.items() if k != "rows"}
    # A line for each row: there are many, and versions of a file are compared.
    rows = ",\n    ".join(json.dumps(row, allow_nan=False) for row in result["rows"])
    text = json.dumps(head, allow_nan=False, indent=2).removesuffix("\n}")
    write_atomic(path, f'{text},\n  "rows": [\n    {rows}\n  ]\n}}\n'.encode())
