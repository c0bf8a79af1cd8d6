"""Results of an experiment: the runs so far, in one folder.

``spec.json`` holds the declaration and the set-ups (device and versions) that records
refer to by number; ``records.jsonl`` has one line for each run, appended as it ends.
A folder for a repository is packed by :func:`pack`: ``records.jsonl.gz``, and the input
histograms summed over the runs of an arm in ``inputs.json.gz``. Both forms may stand
side by side, when a packed experiment goes on.
"""

import contextlib
import gzip
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, TypeVar

import msgspec
from msgspec import Struct

from apalu_jax._files import write_atomic
from apalu_jax.experiments import ExperimentError, storage
from apalu_jax.experiments.formatting import joined
from apalu_jax.experiments.records import InputCounts, Key, Record, Setup, select
from apalu_jax.experiments.schema import Options, convert
from apalu_jax.experiments.specs import Spec

SPEC = "spec.json"
RECORDS = "records.jsonl"
_PACKED = "records.jsonl.gz"
_INPUTS = "inputs.json.gz"
CHECKPOINTS = "checkpoints"
_FOLDERS = (CHECKPOINTS, "figures")
_FILES = (SPEC, RECORDS, _PACKED, _INPUTS, "report.md", "report.html")

_T = TypeVar("_T")
Inputs: TypeAlias = dict[str, InputCounts]
"""Histogram of the inputs of each activation, by site."""


class _Total(Struct, frozen=True, forbid_unknown_fields=True):
    """Sum of the input histograms of an arm."""

    arm: str
    variant: str
    unit: str
    inputs: Inputs


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    """Content of ``spec.json``."""

    spec: Options
    setups: list[Setup] = []


@dataclass
class Results:
    """An experiment and its runs so far, in memory alone if ``folder`` is None.

    ``records`` are in the order in which they ended; a run that follows a failed one of
    the same key replaces it, and one that is recorded twice counts once. ``packed`` has
    the sums of the input histograms of packed records, by arm, variant and unit.
    """

    spec: Spec
    records: list[Record] = field(default_factory=list)
    setups: list[Setup] = field(default_factory=list)
    folder: Path | None = None
    packed: dict[tuple[str, str, str], Inputs] = field(default_factory=dict)

    @property
    def evaluated(self) -> list[Record]:
        """The runs that are judged."""
        return select(self.records)

    @property
    def finished(self) -> set[Key]:
        """Keys of the runs that need not be run again."""
        return {record.key for record in self.records if record.status != "failed"}

    def setup_index(self, setup: Setup) -> int:
        """Index of a set-up, which is written to ``spec.json`` if it is new."""
        if setup not in self.setups:
            self.setups.append(setup)
            self._write_spec()
        return self.setups.index(setup)

    def append(self, records: Iterable[Record]) -> None:
        """Appends declared runs, each synced to the disk before the next is begun."""
        added = list(records)
        merged = _merge(self.spec, self.records, added, "appended records")
        if self.folder is not None:
            lines = (msgspec.json.encode(record) + b"\n" for record in added)
            storage.append_lines(self.folder / RECORDS, lines)
        self.records = merged

    def inputs(self, arm: str, variant: str, unit: str) -> Inputs:
        """Histogram of the inputs of each activation, summed over runs that are ok."""
        total = dict(self.packed.get((arm, variant, unit), {}))
        for record in select(self.records, variant, arm, unit):
            if record.status == "ok":
                for site, counts in record.inputs.items():
                    total[site] = total[site] + counts if site in total else counts
        return total

    def _write_spec(self) -> None:
        if self.folder is not None:
            content = _File(self.spec.to_dict(), self.setups)
            text = msgspec.json.format(msgspec.json.encode(content), indent=1)
            write_atomic(self.folder / SPEC, text + b"\n")


def read(folder: Path) -> Results:
    """Reads the results of a folder, and checks every record against the spec."""
    path = folder / SPEC
    if not path.exists():
        raise ExperimentError(f"{folder} holds no results: {path} is missing.")
    content = _decode(path, path.read_bytes(), _File)
    try:
        spec = convert(content.spec, Spec, "the declaration")
    except ExperimentError as error:
        raise ExperimentError(f"{path}: {error}") from error
    decode = msgspec.json.Decoder(Record).decode
    packed = folder / _PACKED
    records = storage.parse_lines(packed, _unzip(packed), decode)
    records += storage.read_lines(folder / RECORDS, decode)
    records = _merge(spec, [], records, str(folder / RECORDS))
    if any(record.setup >= len(content.setups) for record in records):
        raise ExperimentError(f"{path}: damaged (the set-up of a record is missing).")
    path = folder / _INPUTS
    totals = _decode(path, _unzip(path) or b"[]", list[_Total])
    packed_inputs = {
        (total.arm, total.variant, total.unit): total.inputs for total in totals
    }
    return Results(spec, records, content.setups, folder, packed_inputs)


@contextlib.contextmanager
def open_folder(
    folder: Path, spec: Spec, *, resume: bool = False, force: bool = False
) -> Iterator[Results]:
    """Holds a folder for one run, and reads or creates its results.

    ``spec`` replaces the stored declaration if no value depends on the difference.
    Without ``resume``, the folder must hold no records and no files of others;
    ``force`` removes the results that it holds. What a run left that failed before its
    first record is in nobody's way.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with storage.lock(folder):
        if force:
            _clear(folder)
        holds_records = _holds_records(folder)
        if (holds_records or _holds_others(folder)) and not resume:
            raise ExperimentError(
                f"{folder} is not empty: continue with --resume, start anew with "
                "--force, or choose another --out."
            )
        results = Results(spec, folder=folder)
        if not holds_records:
            if not (resume and _is_of(folder, spec)):
                _clear(folder)
        else:
            results = read(folder)
            stored = results.spec
            if stored.run_hash != spec.run_hash:
                raise ExperimentError(
                    f"{folder / SPEC} is of {joined(stored.name, stored.preset)} with "
                    f"another {', '.join(stored.differing(spec))}: choose another "
                    "--out."
                )
            # Records may be of arms or seeds that are not declared any more.
            _merge(spec, [], results.records, str(folder / RECORDS))
            results.spec = spec
        results._write_spec()
        yield results


def find(folder: Path) -> list[Path]:
    """Finds folders with results: this one, or else those directly in it, sorted."""
    if (folder / SPEC).exists():
        return [folder]
    found = sorted(path.parent for path in folder.glob(f"*/{SPEC}"))
    if not found:
        raise ExperimentError(
            f"{folder} holds no results: {folder / SPEC} is missing, and no folder in "
            "it has one."
        )
    return found


def undeclared_name(spec: Spec, record: Record) -> str:
    """An arm, variant or unit of a record that is not declared, in words; or ""."""
    known = (spec.all_arms, spec.variant_names, spec.unit_names)
    for kind, name, names in zip(Key._fields, record.key, known, strict=False):
        if name not in names:
            return f"{spec.name} declares no {kind} {name!r}"
    return ""


def pack(results: Results) -> None:
    """Compresses the records of a folder, with one histogram an arm instead of a run's.

    Tables and figures are made from the packed folder as before.
    """
    folder = results.folder
    if folder is None:
        raise ValueError("`results` must be those of a folder.")
    places = dict.fromkeys(record.key[:3] for record in results.evaluated)
    totals = [_Total(*place, results.inputs(*place)) for place in places]
    totals = [total for total in totals if total.inputs]
    slim = [msgspec.structs.replace(record, inputs={}) for record in results.records]
    lines = b"".join(msgspec.json.encode(record) + b"\n" for record in slim)
    if totals:
        write_atomic(folder / _INPUTS, _zip(msgspec.json.encode(totals)))
    write_atomic(folder / _PACKED, _zip(lines))
    (folder / RECORDS).unlink(missing_ok=True)


def _merge(
    spec: Spec, earlier: Iterable[Record], added: Iterable[Record], where: str
) -> list[Record]:
    """Adds declared records; one replaces a failed one, or repeats one, of its run."""
    merged = {record.key: record for record in earlier}
    run_hash = spec.run_hash
    for number, record in enumerate(added, start=1):
        key = record.key
        wrong = _undeclared(spec, run_hash, record)
        if key in merged and merged[key].status != "failed":
            if _timeless(merged[key]) == _timeless(record):
                continue
            wrong = f"{tuple(key)} is recorded twice, with different values"
        if wrong:
            raise ExperimentError(f"{where}, line {number}: {wrong}.")
        merged[key] = record
    return list(merged.values())


def _timeless(record: Record) -> Record:
    """A record without what a clock or the order of set-ups says."""
    return msgspec.structs.replace(record, wall_s=0.0, setup=0)


def _holds_records(folder: Path) -> bool:
    path = folder / RECORDS
    lines = b"\n" in path.read_bytes() if path.exists() else False
    return lines or (folder / _PACKED).exists()


def _is_of(folder: Path, spec: Spec) -> bool:
    """True if the declaration in a folder gives the same values."""
    with contextlib.suppress(ExperimentError):
        return read(folder).spec.run_hash == spec.run_hash
    return False


def _holds_others(folder: Path) -> bool:
    """True if a folder has files that no run has written: all, without a spec."""
    own = {*_FILES, *_FOLDERS} if (folder / SPEC).exists() else set()
    names = {path.name for path in folder.iterdir()} - own
    return any(not re.fullmatch(r"\..*\.tmp", name) for name in names)


def _clear(folder: Path) -> None:
    """Removes what runs and reports have written, the declaration last."""
    if (folder / SPEC).exists():
        for name in _FOLDERS:
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in reversed(_FILES):
            (folder / name).unlink(missing_ok=True)


def _undeclared(spec: Spec, run_hash: str, record: Record) -> str:
    """A contradiction between a record and the spec, in words; or ""."""
    if record.run_hash != run_hash:
        return (
            f"made under another configuration ({record.run_hash[:12]}, not "
            f"{run_hash[:12]}); choose another folder"
        )
    if unknown := undeclared_name(spec, record):
        return unknown
    declared = record.seed in spec.seed_range
    if record.kind == "search":
        run = record.seed, record.lr_multiplier
        search = spec.lr_search
        declared = search is not None and search.includes(*run, spec.seed_range)
    if not declared:
        return (
            f"{spec.name} declares no {record.kind} with seed {record.seed} and "
            f"learning-rate multiplier {record.lr_multiplier:g}"
        )
    return ""


def _decode(path: Path, content: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ExperimentError(f"{path}: damaged ({error}).") from error


def _zip(content: bytes) -> bytes:
    """Compresses with no time stamp: equal content gives equal files."""
    return gzip.compress(content, 9, mtime=0)


def _unzip(path: Path) -> bytes:
    if not path.exists():
        return b""
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ExperimentError(f"{path}: damaged ({error}).") from error
