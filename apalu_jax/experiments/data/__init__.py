"""The data sets, one module each.

A module holds ``SOURCE``, a :class:`~apalu_jax.experiments.data.downloads.Source`, and
``load(data_dir, unit, **options)``, which gives a
:class:`~apalu_jax.experiments.data.splits.Dataset`: ``data_dir`` is the folder to look
in first, ``unit`` the subset, e.g. a category, and the options are those of a spec's
table ``data``.
"""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from apalu_jax.experiments.data import (
    anomaly,
    cifar10,
    digits,
    downloads,
    isl_keypoints,
    magnetic_tile,
    mnist,
    mvtec,
    series,
    uci,
)
from apalu_jax.experiments.data.splits import Dataset
from apalu_jax.experiments.schema import Options, construct, lookup

__all__ = ("download", "load", "names", "source", "state", "verify")


_MODULES: Mapping[str, ModuleType] = {
    "anomaly": anomaly,
    "cifar10": cifar10,
    "digits": digits,
    "isl_keypoints": isl_keypoints,
    "magnetic_tile": magnetic_tile,
    "mnist": mnist,
    "mvtec_screw": mvtec,
    "series": series,
    "uci": uci,
}


def names() -> list[str]:
    """Names of the data sets."""
    return list(_MODULES)


def source(name: str) -> downloads.Source:
    """Origin of the data set ``name``."""
    return lookup(_MODULES, {"name": name}, "data").SOURCE


def load(options: Options, data_dir: Path | None = None, unit: str = "") -> Dataset:
    """Loads a data set, downloading what is missing.

    The options are its ``name`` and those of its module's ``load``. ``data_dir`` is
    looked in first; ``unit`` is the subset that is wanted, e.g. a category, ``""`` for
    all.

    Raises:
      ExperimentError: There is no such set, or its files are missing or damaged.
    """
    module = lookup(_MODULES, options, "data")
    where = f"data {options['name']}"
    return construct(module.load, options, where, data_dir=data_dir, unit=unit)


def verify(name: str, data_dir: Path | None = None) -> list[Path]:
    """Checks that a data set is here and sound, without downloading.

    The result, its files, is empty for a set that a library brings along.
    """
    wanted = downloads.choose(source(name), data_dir)
    if not wanted:
        load({"name": name}, data_dir)
    return [downloads.find(file, data_dir) for file in wanted]


def state(name: str, data_dir: Path | None = None) -> tuple[str, int]:
    """Tells how much of a data set is here, unchecked, and its bytes.

    It is "present", "partly", "missing", or "bundled" with a library.
    """
    wanted = downloads.choose(source(name), data_dir)
    paths = [downloads.locate(file, data_dir) for file in wanted]
    here = [path for path in paths if path is not None]
    if not wanted:
        return "bundled", 0
    found = "present" if len(here) == len(wanted) else "partly" if here else "missing"
    return found, sum(path.stat().st_size for path in here)


def download(name: str, data_dir: Path | None = None) -> list[Path]:
    """Downloads the missing files of a data set; returns all as :func:`verify` does."""
    return [downloads.fetch(file, data_dir) for file in source(name).files]
