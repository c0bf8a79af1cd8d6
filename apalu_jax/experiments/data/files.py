"""Files of data sets: where they come from, where they lie, what they must be.

A file is taken from the first of these that holds it: the folder given, the folder that
``$APALU_DATA_DIR`` names, the user's cache. Otherwise it is downloaded into the cache
from its official source, if it has one. Its SHA-256 is checked every time.
"""

import contextlib
import hashlib
import os
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from apalu_jax.experiments import ExperimentError, storage

__all__ = (
    "File",
    "Source",
    "cache_dir",
    "choose",
    "digest",
    "download",
    "fetch",
    "find",
    "folders",
)

_TIMEOUT_S = 60


@dataclass(frozen=True, kw_only=True)
class File:
    """One file of a data set.

    Attributes:
      path: Where it lies within a data folder, with forward slashes.
      sha256: Checksum, in hexadecimal.
      url: Official source; None where it must be given by hand.
    """

    path: str
    sha256: str
    url: str | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a data set comes from.

    Attributes:
      title: What it is.
      origin: Who made it, and the address.
      licence: Under which terms.
      files: Its files; none for a set that a library brings along.
      alternatives: Other sets of files that do instead, such as a copy in another
        format; see :func:`choose`.
      note: What else one should know to get it.
    """

    title: str
    origin: str
    licence: str
    files: tuple[File, ...] = ()
    alternatives: tuple[tuple[File, ...], ...] = ()
    note: str = ""


def cache_dir() -> Path:
    """The folder of downloaded files in the user's cache; not created here."""
    return storage.cache_dir() / "data"


def choose(source: Source, data_dir: Path | None = None) -> tuple[File, ...]:
    """The files of a data set that are to be used.

    Args:
      source: Where the data set comes from.
      data_dir: Folder to look in first.

    Returns:
      ``source.files`` if all are on this machine, else the first of its alternatives
      of which that is true, else ``source.files``, which can be downloaded.
    """
    for candidate in (source.files, *source.alternatives):
        if all(_is_here(file, data_dir) for file in candidate):
            return candidate
    return source.files


def find(file: File, data_dir: Path | None = None) -> Path:
    """Finds a file that is on this machine, and checks it.

    Args:
      file: What to look for.
      data_dir: Folder to look in first.

    Returns:
      Where it is.

    Raises:
      ExperimentError: It is nowhere, or the first one found has another checksum.
    """
    places = folders(data_dir)
    for folder in places:
        path = folder / file.path
        if path.is_file():
            actual = digest(path)
            if actual != file.sha256:
                raise ExperimentError(
                    f"{path}: damaged or another version: its SHA-256 is {actual}, "
                    f"expected {file.sha256}."
                )
            return path
    looked = ", ".join(str(folder) for folder in places)
    raise ExperimentError(f"{file.path} is in none of {looked}.")


def fetch(file: File, data_dir: Path | None = None) -> Path:
    """Finds a file, or downloads it.

    Args:
      file: What is needed.
      data_dir: Folder to look in first.

    Returns:
      Where it is.

    Raises:
      ExperimentError: As :func:`find`, or as :func:`download`.
    """
    if _is_here(file, data_dir):
        return find(file, data_dir)
    return download(file)


def download(file: File) -> Path:
    """Downloads a file into the cache; it appears there only whole and checked.

    Args:
      file: What is needed.

    Returns:
      Where it is.

    Raises:
      ExperimentError: It has no official source, the source cannot be reached, or what
        came has another checksum.
    """
    target = cache_dir() / file.path
    if file.url is None:
        raise ExperimentError(
            f"{file.path} has no official download; put it into --data-dir, "
            f"$APALU_DATA_DIR or {cache_dir()}."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with (
            os.fdopen(handle, "wb") as out,
            urllib.request.urlopen(file.url, timeout=_TIMEOUT_S) as response,
        ):
            while chunk := response.read(1 << 20):
                out.write(chunk)
        actual = digest(Path(name))
        if actual != file.sha256:
            raise ExperimentError(
                f"{file.url}: what came has SHA-256 {actual}, expected {file.sha256}."
            )
        os.replace(name, target)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise ExperimentError(f"{file.url} cannot be downloaded: {error}.") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
    return target


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folders(data_dir: Path | None = None) -> list[Path]:
    """Where files are looked for, in this order.

    Args:
      data_dir: Folder to look in first.

    Returns:
      Folders, whether they exist or not.
    """
    named = os.environ.get("APALU_DATA_DIR")
    given = [data_dir, Path(named) if named else None, cache_dir()]
    return [folder for folder in given if folder is not None]


def _is_here(file: File, data_dir: Path | None) -> bool:
    return any((folder / file.path).is_file() for folder in folders(data_dir))
