"""The history of a run: a column per metric in `history.h5`, appended through a journal that a crash cannot damage.

Appended rows go to `history.journal`, one line each; `merge` makes a new `history.h5` with them. The two files belong
together by a number: the generation of `history.h5`, which the first line of the journal repeats. Replacing
`history.h5` raises it, so a journal that a crash left behind is known to be merged already, and no row is lost or
counted twice, wherever the crash fell.

A merge rewrites the whole file. `flush` waits with it until the journal has a share of all rows: of n rows each is then rewritten
O(log n) times, and a reader has few lines to parse.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsr.hparams import ConfigError
from qsr.hparams.bounded import parse_json, parsing, read_bounded
from qsr.hparams.hdf5 import attributes, member, members, opened_hdf5, read_array, written_hdf5
from qsr.runs.files import reason, replacing, sync_directory

HISTORY_FILE = "history.h5"
JOURNAL_FILE = "history.journal"
FORMAT = "qsr-history/1"
JOURNAL_SHARE = 16  # the journal is merged when it has a 16th of all rows
COUNTERS = {"steps": "step", "epochs": "epoch"}  # group -> the int64 column that every row of it has

logger = logging.getLogger(__name__)

Columns = dict[str, NDArray[Any]]  # column name -> (rows,) int64 for the counter, float64 for all others
_encode = json.JSONEncoder(separators=(",", ":")).encode


class History:
    """Rows of metrics in the groups `steps` and `epochs`.

    One process appends, flushes and truncates (it holds the lock of the run directory); any number may read meanwhile.

    Args:
        directory: of the run; the files are made when there is something to write.
        units: column name -> unit, written as the attribute `unit` of the column.

    Raises:
        ConfigError: from every method that reads, if a file is damaged.
    """

    def __init__(self, directory: str | Path, units: Mapping[str, str] | None = None) -> None:
        self.path = Path(directory) / HISTORY_FILE
        self.journal_path = Path(directory) / JOURNAL_FILE
        self.units = dict(units or {})
        self._journal: io.FileIO | None = None
        # What the files hold, known from the first append on; None: look.
        self._generation: int | None = None
        self._lengths: dict[str, int] = {}
        self._journaled = 0

    def append(self, group: str, row: Mapping[str, float]) -> None:
        """Add a row; when this returns, the operating system has it, and killing the process cannot take it back.

        Args:
            group: `steps` or `epochs`.
            row: column -> value, with `step` or `epoch` among them. New columns are NaN in earlier rows.

        Raises:
            ValueError: for another group, a row without its counter, or a column with a '/' in its name.
            OSError: if the disk is full; the row is not stored then.
        """
        counter = _counter(group)
        if counter not in row or any("/" in name for name in row):
            raise ValueError(f"a row of '{group}' needs a '{counter}' and names without '/', found {list(row)}")
        values = {name: int(value) if name == counter else float(value) for name, value in row.items()}
        journal = self._journal or self._open_journal()
        self._write(journal, _line([group, values]))
        self._lengths[group] += 1
        self._journaled += 1

    def flush(self) -> None:
        """Put the rows on disk, where a power failure cannot take them back; merge the journal if it has grown to its share."""
        if self._journal is None or self._journaled * JOURNAL_SHARE >= sum(self._lengths.values()):
            self.merge()
        else:
            os.fsync(self._journal.fileno())

    def merge(self) -> None:
        """Make a new history.h5 with the rows of the journal, which is removed. Costs a rewrite of the whole file."""
        stored, journal = self._load()
        if journal.continues(stored):
            self._replace(stored, journal.merged_into(stored))
        else:  # one that a crash left behind after its merge
            self.close()
            self.journal_path.unlink(missing_ok=True)

    def truncate(self, lengths: Mapping[str, int]) -> None:
        """Cut each group back to the given number of rows, for going on from a checkpoint.

        Raises:
            ConfigError: if a group has fewer rows.
        """
        stored, journal = self._load()
        tables = journal.merged_into(stored)
        for group, length in lengths.items():
            if length > (found := _length(tables, group)):
                raise ConfigError(f"{self.path}: {found} rows of '{group}', expected at least the {length} of the checkpoint")
        if any(length < _length(tables, group) for group, length in lengths.items()):
            cut = {
                group: {name: values[: lengths.get(group, len(values))] for name, values in columns.items()}
                for group, columns in tables.items()
            }
            self._replace(stored, cut)

    def read(self, group: str) -> Columns:
        """All columns of a group, in the order of their first appearance; values that no row gave are NaN.

        Returns:
            name -> (rows,) array, int64 for `step` or `epoch`, else float64; empty if nothing was recorded. To ask for a column
            that is not there is a ConfigError.
        """
        _counter(group)
        stored, journal = self._load()
        return _Named(journal.merged_into(stored).get(group, {}), f"{self.path}: {group}")

    def length(self, group: str) -> int:
        """Number of rows."""
        if self._generation is not None:
            return self._lengths[group]
        return len(self.read(group).get(_counter(group), ()))

    def close(self) -> None:
        """Let go of the journal; appending opens it again."""
        if self._journal is not None:
            self._journal.close()
        self._journal = None
        self._generation = None

    def _load(self) -> tuple[_Stored, _Journal]:
        # The journal first: if the writer merges it in between, history.h5 is the newer of the two and has its rows.
        journal = _read_journal(self.journal_path)
        stored = _read_stored(self.path)
        if journal.extends is not None and journal.extends > stored.generation:
            raise ConfigError(f"{self.path}: missing or older than {JOURNAL_FILE}, which continues a later version of it")
        return stored, journal

    def _write(self, journal: io.FileIO, line: bytes) -> None:
        try:
            if journal.write(line) != len(line):
                raise OSError(errno.ENOSPC, "no space left for the history", str(self.journal_path))
        except OSError:
            self.close()  # the next append looks at the files again, and cuts a torn line off
            raise

    def _open_journal(self) -> io.FileIO:
        if self._generation is None:
            stored, journal = self._load()
            tables = journal.merged_into(stored)
            self._generation = stored.generation
            self._lengths = {group: _length(tables, group) for group in COUNTERS}
            self._journaled = len(journal.rows) if journal.continues(stored) else 0
            if journal.extends == stored.generation:
                with open(self.journal_path, "r+b") as file:
                    file.truncate(journal.end)
            else:
                self.journal_path.unlink(missing_ok=True)
        fresh = not self.journal_path.exists()
        self._journal = io.FileIO(self.journal_path, "a")
        if fresh:
            self._write(self._journal, _line({"extends": self._generation}))
            sync_directory(self.journal_path.parent)
        return self._journal

    def _replace(self, stored: _Stored, tables: dict[str, Columns]) -> None:
        self.close()
        generation = stored.generation + 1
        units = {**stored.units, **self.units}
        with replacing(self.path) as temporary, written_hdf5(temporary) as file:
            file.attrs["format"] = FORMAT
            file.attrs["generation"] = generation
            for group, columns in tables.items():
                made = file.create_group(group, track_order=True)
                for name, values in columns.items():
                    made.create_dataset(name, data=values).attrs["unit"] = units.get(name, "")
        self.journal_path.unlink(missing_ok=True)
        self._generation = generation
        self._lengths = {group: _length(tables, group) for group in COUNTERS}
        self._journaled = 0


def same_history(first: History, second: History, ignore: Collection[str] = ("seconds",)) -> bool:
    """Whether two runs recorded the same columns with the same numbers, bit for bit (NaN equals NaN).

    Args:
        ignore: columns that hold measured time.
    """
    for group in COUNTERS:
        one, other = first.read(group), second.read(group)
        names = one.keys() - set(ignore)
        if names != other.keys() - set(ignore):
            return False
        if not all(np.array_equal(one[name], other[name], equal_nan=True) for name in names):
            return False
    return True


class _Named(Columns):
    """Columns of a file that somebody else may have written: one that is missing is the file's fault."""

    def __init__(self, columns: Columns, where: str) -> None:
        super().__init__(columns)
        self.where = where

    def __missing__(self, name: str) -> Any:
        raise ConfigError(f"{self.where}: has no column '{name}'")


@dataclass
class _Stored:
    """What history.h5 holds; generation 0 is a file that is not there yet."""

    generation: int = 0
    tables: dict[str, Columns] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)


@dataclass
class _Journal:
    """Rows that were appended to generation `extends` (None: not even its first line was finished), up to byte `end`."""

    extends: int | None = None
    rows: list[tuple[str, dict[str, float]]] = field(default_factory=list)
    end: int = 0

    def continues(self, stored: _Stored) -> bool:
        """Whether there are rows here that `stored` does not have."""
        return bool(self.rows) and self.extends == stored.generation

    def merged_into(self, stored: _Stored) -> dict[str, Columns]:
        """The stored tables with these rows at their ends."""
        if not self.continues(stored):
            return stored.tables
        merged = dict(stored.tables)
        for group in COUNTERS:
            rows = [row for name, row in self.rows if name == group]
            if rows:
                merged[group] = _extended(group, stored.tables.get(group, {}), rows)
        return merged


def _extended(group: str, columns: Columns, rows: list[dict[str, float]]) -> Columns:
    before = len(columns.get(COUNTERS[group], ()))
    result: Columns = {}
    for name in dict.fromkeys([*columns, *(name for row in rows for name in row)]):
        kind = np.int64 if name == COUNTERS[group] else np.float64
        old = columns.get(name, np.full(before, np.nan if kind is np.float64 else 0, dtype=kind))
        result[name] = np.concatenate([old, np.array([row.get(name, np.nan) for row in rows], dtype=kind)])
    return result


def _counter(group: str) -> str:
    if group not in COUNTERS:
        raise ValueError(f"no group '{group}' in a history; one of {', '.join(COUNTERS)}")
    return COUNTERS[group]


def _length(tables: Mapping[str, Columns], group: str) -> int:
    return len(tables.get(group, {}).get(_counter(group), ()))


def _read_stored(path: Path) -> _Stored:
    try:
        with opened_hdf5(path, "damaged") as file:
            about = attributes(file, path)
            if not isinstance(about.get("format"), str) or about["format"] != FORMAT:
                raise ConfigError(f"{path}: not a history of a run (expected the attribute format={FORMAT})")
            groups = {name: member(file, name, path) for name in COUNTERS if name in file.keys()}  # noqa: SIM118
            tables = {group: _table(found, group, path) for group, found in groups.items()}
            units = {
                name: str(values.attrs["unit"]) for found in groups.values() for name, values in members(found, path).items()
            }
            return _Stored(int(about["generation"]), tables, units)
    except FileNotFoundError:
        return _Stored()
    except OSError as error:
        raise ConfigError(f"{path}: damaged ({reason(error)})") from None


def _table(found: Any, group: str, path: Path) -> Columns:
    columns = {name: read_array(found, name, path) for name in members(found, path)}
    counter = columns.get(COUNTERS[group])
    if columns and (counter is None or counter.dtype.kind not in "iu"):
        raise ConfigError(f"{path}: damaged ('{group}' has no whole numbers '{COUNTERS[group]}')")
    for name, values in columns.items():
        if counter is not None and (values.dtype.kind not in "biuf" or values.ndim != 1 or len(values) != len(counter)):
            raise ConfigError(
                f"{path}: damaged ('{group}/{name}' is {values.dtype} {values.shape}, expected numbers {counter.shape})"
            )
    return columns


def _line(entry: Any) -> bytes:
    text = _encode(entry).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _entries(raw: bytes, path: Path) -> Iterable[tuple[Any, int]]:
    """The entries of a journal, each with the position after its line, up to one that is torn.

    Rows of a checkpoint are on disk with it. Those since may reach the disk in any order, which a power failure shows.
    """
    start = 0
    while (stop := raw.find(b"\n", start)) >= 0:
        checksum, _, text = raw[start:stop].partition(b" ")
        if checksum != b"%08x" % zlib.crc32(text):
            if stop + 1 < len(raw):
                logger.warning("%s: damaged at byte %d; rows from there on are left out", path, start)
            return
        start = stop + 1
        yield parse_json(text), start


def _read_journal(path: Path) -> _Journal:
    try:
        raw = read_bounded(path)
    except FileNotFoundError:
        return _Journal()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({reason(error)})") from None
    journal = _Journal()
    with parsing(path, "damaged: not the rows of a run"):
        for entry, end in _entries(raw, path):
            if journal.extends is None:
                journal.extends = int(entry["extends"])
            else:
                group, row = entry
                journal.rows.append((_checked_group(group), _checked_row(row, group)))
            journal.end = end
    return journal


def _checked_group(group: Any) -> str:
    _counter(group)
    return str(group)


def _checked_row(row: Any, group: str) -> dict[str, float]:
    """A row as `append` takes it; raises ValueError for another one."""
    numbers = all(type(value) in (int, float) and "/" not in name for name, value in row.items())
    if not numbers or not -(2**63) <= row[COUNTERS[group]] < 2**63 or type(row[COUNTERS[group]]) is not int:
        raise ValueError(f"a row of '{group}' needs a '{COUNTERS[group]}' and numbers")
    return {name: value if name == COUNTERS[group] else float(value) for name, value in row.items()}
