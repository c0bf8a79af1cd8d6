"""Checkpoint of a trial that is under way."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import jax
import numpy as np
from flax import serialization

from apalu_jax.experiments import ExperimentError, storage
from apalu_jax.experiments.records import Trial

Content: TypeAlias = dict[str, Any]
"""Numbers, strings, NumPy arrays, and lists and dicts of these, as msgpack has them."""

_Tree = TypeVar("_Tree")


class Checkpoint:
    """Last saved state of a trial, and the time that the trial has taken so far.

    A file that exists must be of the same trial and settings. ``saved`` is its content,
    empty if the trial is at its start.
    """

    def __init__(self, path: Path, every_s: float, trial: Trial, run_hash: str) -> None:
        """Loads the file if there is one."""
        self._path, self._every_s = path, every_s
        self._identity = {
            "run_hash": run_hash,
            "trial": list(trial[:3]) + [trial.kind],
            "seeds": list(trial.seeds),
            "lr_multipliers": list(trial.lr_multipliers),
        }
        self.saved = self._load()
        self._last_save = self._started = time.monotonic()
        self._started -= self.saved.get("seconds", 0.0)

    def seconds(self) -> float:
        """Seconds of all sessions."""
        return time.monotonic() - self._started

    def restore(self, shapes: _Tree) -> _Tree:
        """Replaces the leaves of a pytree by the saved ones.

        It is an error if their number, a shape or a dtype differs, as after an upgrade
        of a library.
        """
        expected, structure = jax.tree.flatten(shapes)
        leaves = self.saved["state"]
        if [(x.shape, x.dtype) for x in leaves] != [
            (x.shape, x.dtype) for x in expected
        ]:
            raise self._unusable("it is of another version of the state")
        return jax.tree.unflatten(structure, leaves)

    def save_if_due(self, state: object, progress: Mapping[str, object]) -> None:
        """Saves, unless the last save was less than ``every_s`` seconds ago."""
        if time.monotonic() - self._last_save < self._every_s:
            return
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
        content = {
            **self._identity,
            "state": leaves,
            "seconds": self.seconds(),
            **progress,
        }
        storage.save_checked(self._path, serialization.msgpack_serialize(content))
        self._last_save = time.monotonic()

    def _load(self) -> Content:
        payload = storage.load_checked(self._path)
        if payload is None:
            return {}
        content: Content = serialization.msgpack_restore(payload)
        if any(content.get(key) != value for key, value in self._identity.items()):
            raise self._unusable("it is of another configuration or trial")
        return content

    def _unusable(self, reason: str) -> ExperimentError:
        return ExperimentError(
            f"{self._path}: {reason}. Delete it to train from the start."
        )
