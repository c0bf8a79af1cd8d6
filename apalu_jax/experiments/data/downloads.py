"""Files of data sets: lookup, download, checksum.

A file is taken from the first of these that holds it: the given folder, the folder that
``$APALU_DATA_DIR`` names, the user's cache. Otherwise it is downloaded into the cache
from its official source, if it has one. Its SHA-256 is checked every time. Those of all
files are in registry.txt, in the format of :func:`pooch.Pooch.load_registry`.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import pooch

from apalu_jax.experiments import ExperimentError, storage

_TIMEOUT_S = 60
_REGISTRY = Path(__file__).with_name("registry.txt").read_text(encoding="utf-8")


class Missing(ExperimentError):
    """Raised for a file that is not here and cannot be downloaded."""


@dataclass(frozen=True, kw_only=True)
class File:
    """One file of a data set, by its path within a data folder, with forward slashes.

    ``sha256`` is in hexadecimal; ``url`` is the official source, None if the user must
    provide the file.
    """

    path: str
    sha256: str
    url: str | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """Origin of a data set: authors and address, license, files.

    ``files`` is empty for a set that is bundled with a library; ``alternatives`` are
    other sets of files that serve instead, such as a copy in another format, see
    :func:`choose`. ``note`` gives hints on how to get it.
    """

    title: str
    origin: str
    license: str
    files: tuple[File, ...] = ()
    alternatives: tuple[tuple[File, ...], ...] = ()
    note: str = ""


def listed(path: str) -> File:
    """Looks up a file in registry.txt."""
    rows = (line.split() for line in _REGISTRY.splitlines())
    (row,) = (row for row in rows if row[0] == path)
    return File(path=path, sha256=row[1], url=row[2] if len(row) > 2 else None)


def check_bundled(what: str, content: bytes, sha256: str) -> None:
    """Checks data that scikit-learn brings along."""
    actual = hashlib.sha256(content).hexdigest()
    if actual != sha256:
        raise ExperimentError(
            f"scikit-learn's {what} SHA-256 {actual}, expected {sha256}."
        )


def cache_dir() -> Path:
    """The folder of downloaded files in the user's cache; not created here."""
    return storage.cache_dir() / "data"


def choose(source: Source, data_dir: Path | None = None) -> tuple[File, ...]:
    """Chooses the files of a data set if all are here, else an alternative that is.

    If no set of files is complete, it is ``source.files``, which can be downloaded.
    """
    for candidate in (source.files, *source.alternatives):
        if all(_is_here(file, data_dir) for file in candidate):
            return candidate
    return source.files


def find(file: File, data_dir: Path | None = None) -> Path:
    """Finds a file on this machine and checks it."""
    path = locate(file, data_dir)
    if path is None:
        raise Missing(f"{file.path} is in none of {_searched(data_dir)}.")
    actual = pooch.file_hash(str(path), alg="sha256")
    if actual != file.sha256:
        raise ExperimentError(
            f"{path}: damaged or another version: its SHA-256 is {actual}, expected "
            f"{file.sha256}."
        )
    return path


def locate(file: File, data_dir: Path | None = None) -> Path | None:
    """Finds a file on this machine, unchecked; None if it is not here."""
    paths = (folder / file.path for folder in folders(data_dir))
    return next((path for path in paths if path.is_file()), None)


def fetch(file: File, data_dir: Path | None = None) -> Path:
    """Finds a file, or downloads it into the cache, only complete and checked."""
    if _is_here(file, data_dir):
        return find(file, data_dir)
    target = cache_dir() / file.path
    if file.url is None:
        raise Missing(
            f"{file.path} has no official download; put it into --data-dir, "
            f"$APALU_DATA_DIR or {cache_dir()}: it is in none of {_searched(data_dir)}."
        )
    pooch.get_logger().setLevel("WARNING")
    try:
        pooch.retrieve(
            file.url,
            known_hash=f"sha256:{file.sha256}",
            fname=target.name,
            path=target.parent,
            downloader=pooch.HTTPDownloader(timeout=_TIMEOUT_S),
        )
    # A ValueError is a wrong checksum; every error of requests is an OSError.
    except (OSError, ValueError) as error:
        raise ExperimentError(f"{file.url} cannot be downloaded: {error}.") from error
    return target


def check_folder(data_dir: Path | None) -> None:
    """Raises an ExperimentError if a folder is given that does not exist."""
    if data_dir is not None and not data_dir.is_dir():
        raise ExperimentError(
            f"--data-dir must be a folder; files would be looked for in "
            f"{_searched(data_dir)}."
        )


def folders(data_dir: Path | None = None) -> list[Path]:
    """Lists the folders that are searched, in order, whether they exist or not."""
    named = os.environ.get("APALU_DATA_DIR")
    given = [data_dir, Path(named) if named else None, cache_dir()]
    return [folder for folder in given if folder is not None]


def _searched(data_dir: Path | None) -> str:
    def named(folder: Path) -> str:
        if folder.is_dir():
            return str(folder)
        what = "is no folder" if folder.exists() else "does not exist"
        return f"{folder} (which {what})"

    return ", ".join(map(named, folders(data_dir)))


def _is_here(file: File, data_dir: Path | None) -> bool:
    return locate(file, data_dir) is not None
