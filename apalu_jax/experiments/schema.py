"""Checked conversion of plain data (TOML, JSON) to typed options."""

import inspect
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar, get_args, get_type_hints

import msgspec

from apalu_jax._arguments import did_you_mean
from apalu_jax.experiments import ExperimentError

# Fields of every Flax module.
_OF_FLAX = ("parent", "name")

# Longest name that leaves a table room in 80 columns.
_LONGEST = 40

Options: TypeAlias = Mapping[str, Any]
"""A table of a declaration; its ``name`` says whose options they are."""

_T = TypeVar("_T")


def convert(raw: object, kind: type[_T], where: str) -> _T:
    """Converts plain data to a type of msgspec, and checks every key, type and bound.

    Raises:
      ExperimentError: A key is unknown or missing, or a value has the wrong type; the
        message begins with ``where`` and names the key, what was given and expected.

    Examples:
      >>> convert([2, 3], tuple[int, ...], "sizes")
      (2, 3)
    """
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, ExperimentError):
            # msgspec wraps whatever a __post_init__ raises.
            raise error.__cause__ from None
        message, _, path = str(error).partition(" - at `$")
        raise ExperimentError(
            f"{where}: {_explain(raw, kind, message, path[:-1])}"
        ) from error


def _explain(raw: Any, kind: Any, message: str, path: str) -> str:
    """Adds the key and the value that a path such as ``.a[0].b`` leads to."""
    message = message.partition(", got ")[0]
    keys = re.findall(r"[^.\[\]]+", path)
    if message.startswith("Object") or "[...]" in path:
        return f"`{path.lstrip('.')}`: {message}." if path else f"{message}."
    if message.startswith("Invalid enum") and len(keys) == 1:
        choices = get_args(get_type_hints(kind)[keys[0]])
        message = (
            f"Expected one of {', '.join(choice or repr(choice) for choice in choices)}"
        )
    for key in keys:
        raw = raw[key] if isinstance(raw, Mapping) else raw[int(key)]
    return f"`{path.lstrip('.')}`: {message}, got {raw!r}."


def check_finite(table: Options, where: str, path: str = "") -> None:
    """Checks that every number of nested tables is finite, as JSON has no other.

    Raises:
      ExperimentError: One is not; the message names its key.
    """
    for key, value in table.items():
        for entry in value if isinstance(value, list | tuple) else [value]:
            if isinstance(entry, Mapping):
                check_finite(entry, where, f"{path}{key}.")
            elif isinstance(entry, float) and not math.isfinite(entry):
                raise ExperimentError(
                    f"{where}: `{path}{key}` must be finite, got {entry}."
                )


def construct(
    target: Callable[..., _T], options: Options, where: str, **given: object
) -> _T:
    """Calls a class or function with options that fit its annotations.

    The key ``name`` of the options is left out, and so is anything ``given`` besides
    that ``target`` lacks.

    Raises:
      ExperimentError: As for :func:`convert`.

    Examples:
      >>> def area(unit: str, *, width: float, height: float = 1.0) -> str:
      ...     return f"{width * height:g} {unit}"
      >>> construct(area, {"name": "area", "width": 3}, "area", unit="m2")
      '3 m2'
    """
    parameters = inspect.signature(target).parameters
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for name, parameter in parameters.items():
        field = name, parameter.annotation
        if name in given or name in _OF_FLAX:
            continue
        required = parameter.default is parameter.empty
        fields.append(field if required else (*field, parameter.default))
    kind = msgspec.defstruct(
        "Options", fields, kw_only=True, forbid_unknown_fields=True
    )
    chosen = {key: value for key, value in options.items() if key != "name"}
    checked = msgspec.structs.asdict(convert(chosen, kind, where))
    known = {key: value for key, value in given.items() if key in parameters}
    return target(**known, **checked)


def lookup(registry: Mapping[str, _T], options: Options, where: str) -> _T:
    """Finds the entry of a registry that the ``name`` of the options refers to."""
    name = options.get("name", "")
    if name not in registry:
        raise ExperimentError(
            f"`{where}` must be one of {', '.join(registry)}, got {name!r}"
            f"{did_you_mean(name, registry)}."
        )
    return registry[name]


def is_name(text: str) -> bool:
    """True if a text fits terminals, tables and names of files."""
    printable = bool(text.strip()) and text.isprintable() and len(text) <= _LONGEST
    return printable and "/" not in text and not text.startswith(".")


def check_name(key: str, name: str) -> None:
    """Checks a name that a user gives.

    Raises:
      ExperimentError: It is empty, long, or has a control character or a slash.
    """
    if not is_name(name):
        raise ExperimentError(
            f"`{key}`: a name must have 1 to {_LONGEST} printable characters, no slash "
            f"and no dot at its beginning, got {name!r}."
        )
