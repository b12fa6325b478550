"""Columns of tables: from CSV, Parquet and HDF5 files, snapshot files, and frames in memory."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsr.hparams.base import ConfigError, nearest
from qsr.hparams.bounded import MOST_DATA, check_inflated, check_regular, parsing, read_text, reason
from qsr.hparams.hdf5 import check_dataset, members, opened_hdf5
from qsr.snapshots import SCHEMA, read_snapshots

Columns = dict[str, NDArray[Any]]  # name -> (S,) float64, or objects where a column has text
_MISSING = ("", "na", "nan", "null", "none")
_NAMED = 12  # how many columns an error message names


def read_columns(path: str | Path) -> Columns:
    """The columns of a file, by its ending: csv, tsv, parquet, h5 or hdf5.

    HDF5: one-dimensional data sets of equal length; of a snapshot file the occupations n0, n1, ... and everything that is
    known of each snapshot (`label`, `state_id`, the parameters under their own names).

    Raises:
        ConfigError: for a file that is not there or cannot be read.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"{path}: {'a directory, expected a table' if file.is_dir() else 'no such file'}")
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".parquet": _read_parquet, ".pq": _read_parquet}
    readers |= dict.fromkeys((".h5", ".hdf5"), _read_hdf5)
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise ConfigError(f"{path}: unknown ending '{file.suffix}', expected one of {', '.join(readers)}")
    columns = reader(file)
    if not columns or not len(next(iter(columns.values()))):
        raise ConfigError(f"{path}: has no rows")
    return columns


def read_text_columns(file: Path) -> dict[str, list[str]]:
    """The columns of a csv or tsv file as they stand there.

    Raises:
        ConfigError: for a file that is not such a table.
    """
    try:
        text = io.StringIO(read_text(file, MOST_DATA), newline="")
        rows = list(csv.reader(text, delimiter="\t" if file.suffix.lower() == ".tsv" else ","))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({reason(error)})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{file}: not a table of text ({error})") from None
    rows = [row for row in rows if row]
    if not rows:
        raise ConfigError(f"{file}: is empty")
    names = [name.strip() for name in rows[0]]
    if len(names) == 1 and ";" in names[0]:
        raise ConfigError(f"{file}: columns are separated by ';', expected ','")
    if len(set(names)) < len(names):
        raise ConfigError(f"{file}: two columns have the name '{next(name for name in names if names.count(name) > 1)}'")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(names):
            raise ConfigError(f"{file}: line {number} has {len(row)} values, the first line has {len(names)}")
    return {name: [row[index] for row in rows[1:]] for index, name in enumerate(names)}


def is_snapshot_file(path: str | Path) -> bool:
    """Whether a file that can be read is one of snapshots."""
    if Path(path).suffix.lower() not in (".h5", ".hdf5"):
        return False
    with opened_hdf5(path, "not an HDF5 file that can be read") as store:
        return _is_snapshots(store)


def columns_of(data: Any) -> Columns:
    """The columns of a mapping of sequences, a pandas frame (or another with `columns`), or an array (S, K): x0, x1, ...

    Raises:
        ConfigError: for anything else, and for columns of different lengths.
    """
    if hasattr(data, "columns"):
        names = [str(name) for name in data.columns]
        columns = {name: _typed(np.asarray(data[key])) for name, key in zip(names, data.columns, strict=True)}
    elif isinstance(data, Mapping):
        columns = {str(name): _typed(np.asarray(values)) for name, values in data.items()}
    else:
        array = np.asarray(data)
        if array.ndim != 2:
            raise ConfigError(f"data: expected a frame, a mapping of columns or an array (S, K), found {type(data).__name__}")
        columns = {f"x{index}": _typed(array[:, index]) for index in range(array.shape[1])}
    lengths = {name: values.shape for name, values in columns.items()}
    if any(len(shape) != 1 for shape in lengths.values()) or len(set(lengths.values())) > 1:
        raise ConfigError(f"data: columns must be one-dimensional and of one length, found {lengths}")
    return columns


def numbers_in(columns: Columns, names: Sequence[str], where: str) -> NDArray[np.float64]:
    """(S, K) the named columns, in this order.

    Raises:
        ConfigError: naming a column that is missing, or that is not of numbers.
    """
    check_present(columns, names, where)
    for name in names:
        if columns[name].dtype == object:
            row, value = next((row, value) for row, value in enumerate(columns[name]) if not _is_number(value))
            raise ConfigError(f"{where}: column '{name}' is not of numbers, row {row + 1} has {value!r}")
    length = len(next(iter(columns.values())))
    return np.stack([columns[name] for name in names], axis=1) if names else np.empty((length, 0))


def check_present(columns: Columns, names: Sequence[str], where: str) -> None:
    """Whether a table has the columns.

    Raises:
        ConfigError: naming one that is missing.
    """
    for name in names:
        if name not in columns:
            shown = ", ".join(list(columns)[:_NAMED]) + (", ..." if len(columns) > _NAMED else "")
            hint = nearest(name, columns)
            raise ConfigError(f"{where}: no column '{name}'{hint if 'did you mean' in hint else f'; there are {shown}'}")


def _typed(values: NDArray[Any]) -> NDArray[Any]:
    """float64 where every value is a number or missing, else objects."""
    if values.dtype.kind in "biuf":
        return values.astype(np.float64)
    if values.dtype.kind in "cmM":  # complex numbers and times: text, which no feature may be
        values = values.astype(str)
    found = [None if _is_missing(value) else value for value in values.tolist()]
    try:
        return np.array([np.nan if value is None else float(value) for value in found], dtype=np.float64)
    except (TypeError, ValueError):
        return np.array([value if value is None else str(value) for value in found], dtype=object)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value) or str(value).strip().lower() in _MISSING


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return value is None
    return True


def _read_csv(file: Path) -> Columns:
    return {name: _typed(np.array(values, dtype=object)) for name, values in read_text_columns(file).items()}


def _read_parquet(file: Path) -> Columns:
    try:
        from pyarrow import parquet
    except ImportError:
        raise ConfigError(f"{file}: Parquet files need pyarrow: pip install 'qsr[hsm]'") from None
    with parsing(file, "not a Parquet file"):
        size = check_regular(file)
        about = parquet.ParquetFile(file).metadata
        groups = [about.row_group(number) for number in range(about.num_row_groups)]
        check_inflated(sum(group.total_byte_size for group in groups), size, str(file))
        table = parquet.read_table(file)
        return columns_of({name: table.column(name).to_pandas() for name in table.column_names if name != "__index_level_0__"})


def _read_hdf5(file: Path) -> Columns:
    try:
        with opened_hdf5(file, "not an HDF5 file that can be read") as store:
            if _is_snapshots(store):
                return _snapshot_columns(file)
            found = {name: values for name, values in members(store, file).items() if getattr(values, "ndim", 0) == 1}
            columns = {name: _values(check_dataset(values, file)) for name, values in found.items()}
    except OSError as error:
        raise ConfigError(f"{file}: not an HDF5 file that can be read ({reason(error)})") from None
    if not columns:
        raise ConfigError(f"{file}: expected one-dimensional data sets, one for each column, at the top of the file")
    return columns_of(columns)


def _is_snapshots(store: Any) -> bool:
    schema = store.attrs.get("schema")
    return isinstance(schema, str) and schema == SCHEMA


def _values(dataset: Any) -> NDArray[Any]:
    found: NDArray[Any] = dataset.asstr()[:] if dataset.dtype.kind in "OS" else dataset[:]
    return found


def _snapshot_columns(file: Path) -> Columns:
    snapshots = read_snapshots(file)
    columns: Columns = {f"n{site}": snapshots.configs[:, site] for site in range(snapshots.configs.shape[1])}
    names = {"labels": "label"}
    columns |= {names.get(name, name): values for name, values in snapshots.columns.items()}
    return columns_of({**columns, **snapshots.params})
