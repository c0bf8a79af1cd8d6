"""Files that survive a kill or a full disk at any moment, and one writer at a time.

- A checked file begins with the SHA-256 of its content, so that damage is found.
- A line of a JSON-lines file counts once its newline is on the disk. What follows the
  last newline was never finished; the next append cuts it off.
"""

import contextlib
import fcntl
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from apalu_jax._files import naming, write_atomic
from apalu_jax.experiments import ExperimentError

_DIGEST_BYTES = hashlib.sha256().digest_size

_Line = TypeVar("_Line")
_Scalar = TypeVar("_Scalar", bound=np.generic)


def save_checked(path: Path, content: bytes) -> None:
    """Writes content behind its SHA-256; see :func:`._files.write_atomic`."""
    write_atomic(path, hashlib.sha256(content).digest() + content)


def load_checked(path: Path) -> bytes | None:
    """Reads a file of :func:`save_checked`; None if there is none."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    expected, content = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != expected:
        raise ExperimentError(f"{path}: damaged. Delete it to compute it again.")
    return content


def parse_lines(
    path: Path, content: bytes, decode: Callable[[bytes], _Line]
) -> list[_Line]:
    """Decodes every finished line; what follows the last newline is ignored."""
    decoded: list[_Line] = []
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            decoded.append(decode(line))
        except (ValueError, msgspec.MsgspecError, RecursionError) as error:
            raise ExperimentError(
                f"{path}, line {number}: damaged ({error}). Nothing was changed."
            ) from error
    return decoded


def read_lines(path: Path, decode: Callable[[bytes], _Line]) -> list[_Line]:
    """Reads a JSON-lines file; empty if absent. See :func:`parse_lines`."""
    return parse_lines(path, path.read_bytes(), decode) if path.exists() else []


def append_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Appends lines; each is safely on the disk before the next is begun.

    Several processes may append to one file at a time: an exclusive lock on the file
    covers cutting off an unfinished line and writing, so no line is lost. On a full
    disk, finished lines stay.
    """
    with naming(path), path.open("a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        end = file.read().rfind(b"\n") + 1
        file.truncate(end)
        for line in lines:
            try:
                written = file.write(line)
                if written != len(line):
                    # On a full disk the first call writes a part; the next one raises.
                    file.write(line[written:])
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise
            end += len(line)


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Holds a folder for this process alone; ends with the process, however it ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise ExperimentError(
            f"{folder} is in use by another run: wait for it, or choose another folder."
        ) from error
    finally:
        os.close(handle)


def cache_dir() -> Path:
    """The user's cache folder of this package; not created here."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(base or Path.home() / ".cache") / "apalu_jax"
    except RuntimeError as error:
        raise ExperimentError(
            "No cache folder: set XDG_CACHE_HOME, as the user has no home folder."
        ) from error


def cached_array(
    name: str, make: Callable[[], NDArray[_Scalar]], folder: str
) -> NDArray[_Scalar]:
    """Loads an array from the cache, or computes and stores it.

    ``name`` of the file says everything that the array depends on. A damaged file is
    replaced; a cache that cannot be written is no error.
    """
    path = cache_dir() / folder / name
    with contextlib.suppress(OSError, ExperimentError):
        content = load_checked(path)
        if content is not None:
            return np.load(io.BytesIO(content))
    made = make()
    buffer = io.BytesIO()
    np.save(buffer, made)
    with contextlib.suppress(OSError):
        save_checked(path, buffer.getvalue())
    return made
