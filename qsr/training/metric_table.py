"""A table of metrics, one row for each evaluation or epoch: what evaluators and the graph trainer return."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsr.hparams import MissingKeyError, nearest
from qsr.runs import write_atomically

Row = dict[str, Any]  # column -> a number, or a list of them


SHOWN = 10  # rows of a table that is printed


class MetricTable:
    """Rows of named numbers. As of a data frame, its length is the number of rows, and iterating gives the columns' names.

    Args:
        columns: names that are there before there are rows; others come with the rows that have them.
        rows: mappings from names to numbers, or to lists of numbers (one for each class).
    """

    def __init__(self, columns: Sequence[str] = (), rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self._columns = dict.fromkeys(columns)
        self._rows: list[Row] = []
        for row in rows:
            self.append(row)

    @property
    def columns(self) -> list[str]:
        """Names, in the order of their first appearance."""
        return list(self._columns)

    @property
    def rows(self) -> list[Row]:
        """Copies of the rows; a column that a row was not given is NaN in it."""
        return [{name: row.get(name, math.nan) for name in self._columns} for row in self._rows]

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row at the end."""
        self._columns |= dict.fromkeys(row)
        self._rows.append(dict(row))

    def tail(self, number: int) -> MetricTable:
        """A table of the last rows."""
        return MetricTable(self.columns, self._rows[-number:] if number else ())

    def __getitem__(self, name: str) -> NDArray[Any]:
        """A column (rows,): numbers, or objects where there are lists among them.

        Raises:
            MissingKeyError: (a KeyError) if there is no such column.
        """
        if name not in self._columns:
            raise MissingKeyError(f"no column {name!r}{nearest(str(name), self._columns)}")
        values = [row.get(name, math.nan) for row in self._rows]
        if not any(isinstance(value, list) for value in values):
            return np.array(values) if values else np.array([], dtype=np.float64)
        found = np.empty(len(values), dtype=object)
        found[:] = values
        return found

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def __repr__(self) -> str:
        """The last rows, as a table."""
        shown = [[*(_short(row[name]) for name in self._columns)] for row in self.tail(SHOWN).rows]
        widths = [max(map(len, column)) for column in zip(self._columns, *shown, strict=True)]
        lines = [
            "  ".join(f"{text:>{width}}" for text, width in zip(row, widths, strict=True)) for row in ([*self._columns], *shown)
        ]
        return "\n".join([*lines, f"[{len(self)} rows]"])

    # --- elsewhere --------------------------------------------------------------------------------------------------

    def to_csv(self, path: str | Path) -> None:
        """Write the table with a line of names first; numbers keep all their digits, lists are JSON."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self._columns)
        for row in self.rows:
            writer.writerow(json.dumps(value) if isinstance(value, list) else value for value in row.values())
        write_atomically(path, text.getvalue())

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with the same columns.

        Raises:
            ImportError: where pandas is not installed.
        """
        import pandas

        return pandas.DataFrame(self.rows, columns=self.columns)

    def state_dict(self) -> dict[str, Any]:
        """Columns and rows, in plain containers."""
        return {"columns": self.columns, "rows": [dict(row) for row in self._rows]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state_dict` gave."""
        self._columns = dict.fromkeys(state["columns"])
        self._rows = [dict(row) for row in state["rows"]]


def _short(value: Any) -> str:
    return json.dumps([round(number, 4) for number in value]) if isinstance(value, list) else f"{value:.6g}"


def last_row(table: Any) -> Row:
    """The last row of a table: a `MetricTable`, a data frame, or a mapping of columns; empty if there is none."""
    return {name: np.asarray(table[name])[-1] for name in table if len(table[name])}
