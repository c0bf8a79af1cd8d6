"""Checkpoints by orbax with checksums of their files, so that damage is found.

orbax writes in the background, and a folder gets its name when it is complete. It does
not notice that a bit of a file has changed since: a flipped one is restored in silence.
So each step has a file of SHA-256 sums beside it, which is written last; a step without
it, or with a file that differs, is passed over, and the step before it is taken.
"""

import hashlib
import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any, TypeAlias

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

PyTree: TypeAlias = Any


class MismatchError(ValueError):
    """Raised if a checkpoint is that of another model."""


class Checkpoints:
    """The newest steps of a training state in a folder.

    Every process of a job calls every method, with the same arguments.

    Args:
      folder: Where they are; it is made if need be. All processes must reach it.
      keep: Number of steps that are kept.
    """

    def __init__(self, folder: Path, keep: int = 3) -> None:
        self._folder = Path(folder).absolute()
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True),
            item_handlers=ocp.StandardCheckpointHandler(),
        )
        self._lock = threading.Lock()

    def save(self, step: int, state: PyTree) -> None:
        """Starts to write a step; the one before it is complete when this returns."""
        self.wait()
        self._manager.save(step, args=ocp.args.StandardSave(_by_name(state)))
        if jax.process_index() == 0:
            # A thread that ends with the process, should the step never be complete.
            threading.Thread(target=self._seal, args=[step], daemon=True).start()

    def _seal(self, step: int) -> None:
        """Adds checksums to a step as soon as its folder has its name."""
        while not (self._folder / str(step)).exists():
            time.sleep(0.05)
        self._add_sums(step)

    def _add_sums(self, step: int) -> None:
        with self._lock:
            if not self._sums(step).exists():
                sums = _checksums(self._folder / str(step))
                write_whole(self._sums(step), json.dumps(sums))

    def wait(self) -> None:
        """Waits until the last step and its checksums are on the disk."""
        self._manager.wait_until_finished()
        if jax.process_index() == 0:
            wanted = {self._sums(step): step for step in self._manager.all_steps()}
            for old in {*self._folder.glob(_sums_of("*"))} - wanted.keys():
                old.unlink()
            for step in wanted.values():
                self._add_sums(step)

    def restore(self, like: PyTree) -> tuple[int, PyTree] | None:
        """Reads the newest undamaged step, or returns None if there is none.

        Args:
          like: A state of the same structure, of arrays or of
            :class:`jax.ShapeDtypeStruct` whose shardings the result gets. They may be
            others, on other devices, than those that were saved.

        Raises:
          MismatchError: If the step has other arrays than `like`.
        """
        step = self._newest()
        if step < 0:
            return None
        saved = _shapes(self._manager.item_metadata(step).tree)
        wanted = _shapes(_by_name(like))
        for name in sorted(saved.keys() | wanted.keys()):
            found, expected = (s.get(name, "absent") for s in (saved, wanted))
            if found != expected:
                raise MismatchError(
                    f"step {step} of {self._folder} is of another model: {name} is "
                    f"{found}, expected {expected}"
                )
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _by_name(like))
        saved = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
        leaves = [saved[name] for name in _by_name(like)]
        return step, jax.tree.unflatten(jax.tree.structure(like), leaves)

    def _newest(self) -> int:
        """The newest undamaged step, -1 if none; the damaged ones are moved away."""
        step = -1
        if jax.process_index() == 0:
            for candidate in sorted(self._manager.all_steps(), reverse=True):
                fault = self._fault(candidate)
                if not fault:
                    step = candidate
                    break
                print(f"step {candidate} is passed over: {fault}", flush=True)
                aside = self._folder / f"damaged-{candidate}"
                shutil.rmtree(aside, ignore_errors=True)
                (self._folder / str(candidate)).rename(aside)
                self._sums(candidate).unlink(missing_ok=True)
        step = int(multihost_utils.broadcast_one_to_all(step))
        self._manager.reload()
        return step

    def _fault(self, step: int) -> str:
        """The first fault of a step in words, "" if there is none."""
        sums = self._sums(step)
        if not sums.exists():
            return f"{sums.name} is missing, so it was not complete"
        found = _checksums(self._folder / str(step))
        try:
            expected = json.loads(sums.read_text())
        except ValueError:  # of JSON or of UTF-8
            return f"{sums.name} is not as it was written"
        for name in sorted({*found, *expected}):
            if found.get(name) != expected.get(name):
                return f"{step}/{name} is not as it was written"
        return ""

    def _sums(self, step: int) -> Path:
        return self._folder / _sums_of(step)


def _sums_of(step: int | str) -> str:
    return f"{step}.sha256.json"


def _by_name(state: PyTree) -> dict[str, jax.Array]:
    """Leaves by their path, as in "params/blocks/act/apalu_a".

    Flax NNX wraps arrays, optax has NamedTuples: by names alone a checkpoint outlives
    the structure of both.
    """
    leaves, _ = jax.tree.flatten_with_path(state)
    names = [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in leaves]
    return dict(
        zip(
            (name.removesuffix("/value") for name in names),
            (leaf for _, leaf in leaves),
            strict=True,
        )
    )


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in tree.items()}


def _checksums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def write_whole(path: Path, text: str) -> None:
    """Writes a file that is there completely or not at all."""
    part = path.with_suffix(".part")
    with part.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
