"""Experiments declared in a file of the user's own, and a file to start from.

A file has the keys of the package's experiments, with ``model`` and ``data`` that name
functions, as in ``"my_module:make_model"``. Modules are looked for beside the file
first.
"""

import importlib.util
import keyword
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from msgspec.structs import asdict

from apalu_jax._arguments import did_you_mean
from apalu_jax._files import write_atomic
from apalu_jax.experiments import ExperimentError, specs
from apalu_jax.experiments.formatting import first_line
from apalu_jax.experiments.own import activations, task
from apalu_jax.experiments.own.declaration import Declaration, check_names, declare
from apalu_jax.experiments.own.parts import Objects
from apalu_jax.experiments.runner.parts import DECLARED
from apalu_jax.experiments.schema import convert
from apalu_jax.experiments.specs import Spec

# Keys beside those of a spec.
_OWN_KEYS = ("presets", "loss", "activations")

# Keys of a spec that mean nothing where model and data are functions.
_PACKAGE_KEYS = ("task", "pretraining", "backbone", "descriptions")


def find(
    name: str, preset: str | None = None, units: Sequence[str] | None = None
) -> Declaration:
    """Loads an experiment of the package by its name, or one of a file ``*.toml``."""
    if name.endswith(".toml"):
        return load(Path(name), preset, units)
    return Declaration(specs.load(name, preset or "reduced", units), DECLARED)


def load(
    path: Path, preset: str | None = None, units: Sequence[str] | None = None
) -> Declaration:
    """Loads an experiment from a file.

    Args:
      path: The file, in TOML.
      preset: One of the file's presets; None for "reduced", or else the first one.
      units: Some of the declared units; None for those of the preset.

    Raises:
      ExperimentError: The file is missing or invalid, or something that it names; the
        message has the file, the key, what was given and what is expected.
    """
    try:
        return _load(path, preset, units)
    except ExperimentError as error:
        if str(error).startswith(str(path)):
            raise
        raise ExperimentError(f"{path}: {error}") from error


def write_new(name: str, folder: Path) -> list[Path]:
    """Writes a module and an experiment that run as they stand; returns the files.

    Raises:
      ExperimentError: The name cannot be that of a new module, or a file exists.
    """
    module = name.replace("-", "_")
    if not module.isidentifier() or keyword.iskeyword(module):
        raise ExperimentError(
            f"The name must have letters, digits, - and _ alone, and be no keyword of "
            f"Python, got {name!r}."
        )
    paths = [folder / f"{module}.py", folder / f"{name}.toml"]
    for path in paths:
        if path.exists():
            raise ExperimentError(f"{path} exists already: choose another name.")
    # Beside the file it would be imported in place of the other one, by everybody.
    if importlib.util.find_spec(module) is not None:
        raise ExperimentError(
            f"The name of the module, {module}, must be new, got that of another "
            "module of Python: choose another name."
        )
    for path in paths:
        template = resources.files(__package__) / f"new{path.suffix}.txt"
        text = template.read_text(encoding="utf-8")
        write_atomic(
            path, text.replace("NAME", name).replace("MODULE", module).encode()
        )
    return paths


def _load(path: Path, preset: str | None, units: Sequence[str] | None) -> Declaration:
    raw = _read(path)
    if "presets" in raw:
        presets = raw["presets"]
        if not (isinstance(presets, dict) and presets) or not all(
            isinstance(table, dict) for table in presets.values()
        ):
            raise ExperimentError(
                f"{path}: `presets` must be a table of tables, got {presets!r}."
            )
        preset = preset or ("reduced" if "reduced" in presets else next(iter(presets)))
        raw = specs.choose(raw, str(path), preset, units)
    elif preset is not None:
        raise ExperimentError(f"{path} has no table `presets`, got preset {preset!r}.")
    for key in ("model", "data"):
        if isinstance(raw.get(key), str):
            raw[key] = {"name": raw[key]}
    own = [key for key in ("model", "data") if ":" in _name(raw, key)]
    if not own:
        spec = convert(raw, Spec, str(path))
        check_names(spec)
        return Declaration(spec, DECLARED)
    if own != ["model", "data"]:
        raise ExperimentError(
            f"{path}: `model` and `data` must both name a function, as in "
            f"'my_module:load', got {_name(raw, 'model')!r} and {_name(raw, 'data')!r}."
        )
    return _declare(path, raw)


def _read(path: Path) -> dict[str, Any]:
    try:
        # Some editors begin a file with a byte order mark.
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ExperimentError(f"{path} is not valid TOML: {error}.") from error
    except OSError as error:
        raise ExperimentError(f"{path} cannot be read: {error.strerror}.") from error
    known = (*Spec.__struct_fields__, *_OWN_KEYS)
    for key in raw:
        if key not in known:
            raise ExperimentError(
                f"{path}: a key must be one of {', '.join(known)}, got {key!r}"
                f"{did_you_mean(key, known)}."
            )
    name = raw.get("name", path.stem)
    return {
        "name": name,
        "title": name,
        "question": "Does the result depend on the activation?",
        "stopping_rule": "A fixed number of seeds and of epochs, the same for every "
        "arm; the value is that after the last epoch.",
        **raw,
    }


def _declare(path: Path, raw: dict[str, Any]) -> Declaration:
    """Replaces names by what they stand for, and checks the rest."""
    for key in _PACKAGE_KEYS:
        if key in raw:
            raise ExperimentError(
                f"{path}: `{key}` is for models of the package, and not for one of "
                "your own."
            )
    loss, named = raw.pop("loss", None), raw.pop("activations", {})
    for key in ("arms", "ablations"):
        names = raw.get(key, [])
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise ExperimentError(
                f"{path}: `{key}` must be a list of names, got {names!r}."
            )
    arms = [*raw.get("arms", ()), *raw.get("ablations", ())]
    if not isinstance(named, dict) or not {*named} <= {*arms}:
        raise ExperimentError(
            f"{path}: `activations` must be a table of functions, by names that are "
            f"among `arms` or `ablations`, got {named!r}."
        )
    choices = [
        (name, _function(path, f"activations.{name}", named[name]))
        if name in named
        else name
        for name in arms
    ]
    if not isinstance(loss, str):
        raise ExperimentError(
            f"{path}: `loss` must be {', '.join(task.LOSSES)}, or name a function, as "
            f"in 'my_module:loss', got {loss!r}."
        )
    loss_function = _function(path, "loss", loss) if ":" in loss else None
    metric = raw.get("metric")
    table = metric if isinstance(metric, dict) else {"name": metric}
    name = table.get("name")
    own = isinstance(name, str) and ":" in name
    function = _function(path, "metric", name) if own else None
    chosen = activations.choose(choices, "arms")
    if function is None:
        measured = task.choose_metric(loss_function or loss, name, None, None)
        table = {**asdict(measured), **table, "name": measured.name}
    objects = Objects(
        make_model=_function(path, "model", raw["model"]["name"]),
        data=_function(path, "data", raw["data"]["name"]),
        loss=loss_function or loss,
        metric=function,
        metric_name=str(table["name"]),
        optimizer=None,
        arms=chosen,
    )
    given = {"metric": table, "task": {"name": "own", "loss": loss}}
    return declare({**raw, **given}, objects, str(path))


def _name(raw: Mapping[str, Any], key: str) -> str:
    table = raw.get(key)
    name = table.get("name") if isinstance(table, Mapping) else None
    return name if isinstance(name, str) else ""


def _function(path: Path, key: str, reference: object) -> Callable[..., Any]:
    """The function that a name such as "my_module:load" stands for."""
    where = f"{path}: `{key}`"
    module_name, colon, name = str(reference).partition(":")
    if not isinstance(reference, str) or not (module_name and colon and name):
        raise ExperimentError(
            f"{where} must name a function, as in 'my_module:load', got {reference!r}."
        )
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ExperimentError(
            f"{where}: the module {module_name} cannot be imported from {folder} or "
            f"elsewhere: {first_line(error)}."
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        own = [
            key
            for key, value in vars(module).items()
            if getattr(value, "__module__", None) == module_name
        ]
        raise ExperimentError(
            f"{where}: {module_name} must have a function {name}, got a module with "
            f"{', '.join(own) or 'none'}."
        )
    return found
