"""Checkpoints of a run that is under way: one file, whole or absent.

A file is written beside its place, synced and renamed, so a kill cannot tear it. It
begins with its own SHA-256: what else may happen to it is found when it is read.
"""

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any, cast

from flax import serialization

from apalu_jax.experiments import ExperimentError

__all__ = ("load", "remove", "save")

_DIGEST_BYTES = hashlib.sha256().digest_size


def save(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint in place of the earlier one.

    Args:
      path: The file; its folder is made if need be.
      content: Numbers, strings, NumPy arrays, and lists and dicts of these.
    """
    payload = serialization.msgpack_serialize(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _unfinished(path)
    with unfinished.open("wb") as file:
        file.write(hashlib.sha256(payload).digest() + payload)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def load(path: Path) -> dict[str, Any] | None:
    """Reads a checkpoint; None if there is none.

    Args:
      path: The file.

    Returns:
      What :func:`save` was given.

    Raises:
      ExperimentError: The file is damaged.
    """
    if not path.exists():
        return None
    raw = path.read_bytes()
    expected, payload = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
    if hashlib.sha256(payload).digest() != expected:
        raise ExperimentError(
            f"{path}: damaged checkpoint. Delete it to train from the start."
        )
    return cast(dict[str, Any], serialization.msgpack_restore(payload))


def remove(path: Path) -> None:
    """Removes a checkpoint, what a kill left of one, and their empty folder."""
    path.unlink(missing_ok=True)
    _unfinished(path).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        path.parent.rmdir()


def _unfinished(path: Path) -> Path:
    return path.with_suffix(".tmp")
