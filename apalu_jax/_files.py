"""Replacement of a file in one step, which a kill or a full disk cannot tear."""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ("naming", "write_atomic")

# Temporary files older than this were left behind by a kill.
_ABANDONED_S = 3600.0


def write_atomic(path: Path, content: bytes) -> None:
    """Replaces a file, and removes temporary files that earlier writers left.

    A new file beside it is written, synced and renamed: the target is complete or
    absent, also after a crash of the machine.

    Args:
      path: The file; its folder is created if absent.
      content: The new content.

    Raises:
      OSError: The disk is full or the folder cannot be written; the message names
        ``path``, which keeps its old content, and no temporary file stays behind.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{path.name}."
        for leftover in path.parent.glob(f"{prefix}*.tmp"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - leftover.stat().st_mtime > _ABANDONED_S:
                    leftover.unlink()
        handle, name = tempfile.mkstemp(".tmp", prefix, path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            # mkstemp's mode is 0600; a new file has what the umask leaves of 0666.
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
        _sync_folder(path.parent)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Adds the path to an OSError that names no file, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def _sync_folder(folder: Path) -> None:
    """Syncs a folder, without which a rename may be lost in a crash."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
