"""Records: one JSON object a line, appended as each run ends."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from apalu_jax.experiments import ExperimentError, lines

__all__ = ("FILE_NAME", "Key", "Record", "append", "finished", "read")

FILE_NAME = "records.jsonl"


class Key(NamedTuple):
    """What makes a run one of its kind within an experiment."""

    arm: str
    variant: str
    unit: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run.

    Attributes:
      experiment: Name of the spec.
      preset: Name of its preset.
      arm: The activation.
      seed: The seed.
      variant: The table that it belongs to; ``""`` where there is one.
      unit: What is paired besides the seed; ``""`` where there is nothing.
      metric: Name of the metric.
      value: The metric on the test part after the last epoch; the score of chance if
        the run diverged, None if it failed.
      status: "ok", "diverged" (not finite), or "failed" (stopped by an error of the
        machine, such as memory that ran out; it is tried again on resume).
      history: "epochs", after which notes were taken, 0 for the start; metrics by part:
        a list with one number for each of these but the start for "train" and
        "validation", and for "watched", the test part, where the spec has it watched;
        the last epoch's number for "test", with its size as "examples"; the path of
        each activation's parameters, start included, under "activations"; "exhibit",
        what a figure needs of seed 0; and "learning_rate_factor", which the tuning
        chose. Where an activation has more than one pair, the quartiles of each are
        noted.
      activations: For each activation site the start and the end of its parameters, and
        under "inputs" the histogram of its inputs on the test part.
      config_hash: SHA-256 of the spec.
      versions: Versions of what computed it, and of the data where there is a choice.
      platform: Kind of the device.
      wall_s: Seconds, compilation included, shared out over the seeds trained together.
    """

    experiment: str
    preset: str
    arm: str
    seed: int
    variant: str
    unit: str
    metric: str
    value: float | None
    status: Literal["ok", "diverged", "failed"]
    history: Mapping[str, Any]
    activations: Mapping[str, Any]
    config_hash: str
    versions: Mapping[str, str]
    platform: str
    wall_s: float

    def __post_init__(self) -> None:
        """Checks what the statistics stand on."""
        if self.status not in ("ok", "diverged", "failed"):
            raise ValueError(
                f"`status` must be ok, diverged or failed: {self.status!r}."
            )
        if type(self.seed) is not int or self.seed < 0:
            raise ValueError(f"`seed` must be an integer >= 0, got {self.seed!r}.")
        if (self.value is None) != (self.status == "failed"):
            raise ValueError("`value` must be a number, or null where the run failed.")
        if self.value is not None and type(self.value) not in (int, float):
            raise ValueError(f"`value` must be a number, got {self.value!r}.")

    @property
    def key(self) -> Key:
        """The run's place in the experiment."""
        return Key(self.arm, self.variant, self.unit, self.seed)

    def to_line(self) -> str:
        """The record as one line of strict JSON, newline included."""
        return json.dumps(dataclasses.asdict(self), allow_nan=False) + "\n"

    @classmethod
    def from_line(cls, line: str) -> "Record":
        """Reads :meth:`to_line` back.

        Raises:
          ValueError: The line is not JSON, or not a record.
        """
        return cls(**lines.parse(line, {f.name for f in dataclasses.fields(cls)}))


def read(path: Path, config_hash: str | None = None) -> list[Record]:
    """Reads every finished record; none if there is no file.

    Args:
      path: The file.
      config_hash: What the records must have been made under; None for no check.

    Returns:
      The records in the order of the file. A record that follows a failed one of the
      same run replaces it.

    Raises:
      ExperimentError: A line is damaged, of another configuration, or there twice.
    """
    found: dict[Key, Record] = {}
    for number, record in enumerate(lines.read(path, Record.from_line), start=1):
        if config_hash is not None and record.config_hash != config_hash:
            raise ExperimentError(
                f"{path}, line {number}: made under another configuration "
                f"({record.config_hash[:12]}, not {config_hash[:12]}). Choose another "
                "folder."
            )
        earlier = found.get(record.key)
        if earlier is not None and earlier.status != "failed":
            raise ExperimentError(
                f"{path}, line {number}: {tuple(record.key)} is recorded twice."
            )
        found[record.key] = record
    return list(found.values())


def finished(records: Iterable[Record]) -> set[Key]:
    """The runs that need not be run again."""
    return {record.key for record in records if record.status != "failed"}


def append(path: Path, records: Iterable[Record]) -> None:
    """Appends records, each safely on the disk before the next one is begun.

    Args:
      path: The file; an unfinished last line is cut off first.
      records: What to append.

    Raises:
      OSError: The disk is full or the file cannot be written; what was finished stays.
    """
    lines.append(path, (record.to_line() for record in records))
