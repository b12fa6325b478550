"""Measured configurations in other programs' files: bit strings, arrays, results of Aquila and of Bloqade, counts of Pulser."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsr.hparams import ConfigError
from qsr.hparams.bounded import npy_array, npz_arrays, parse_json, parsing, reason
from qsr.hparams.positions import read_positions, registers
from qsr.jobs.netcdf import read_netcdf
from qsr.training.files import read_bytes

MOST_COUNTED = 2**28  # occupations, with every shot written out as often as it was counted
Counted = tuple[str, int]  # a bit string, how often
Shot = tuple[str, Any, Any]  # why it failed, if it did; which atoms were there before, and after


@dataclass(frozen=True, eq=False)
class Measured:
    """What was found in a file.

    Attributes:
        configs: (S, N) uint8, 0 ground and 1 excited, in the order of the file.
        positions: (N, 2), where the file has them.
        dropped: shots that are no configuration, by the reason.
    """

    configs: NDArray[np.uint8]
    positions: NDArray[np.float64] | None = None
    dropped: dict[str, int] = field(default_factory=dict)


def read_measured(file: str | Path) -> Measured:
    """Configurations of a file, by its ending: csv, tsv, txt, npy, npz, nc or json.

    Raises:
        ConfigError: for a file that cannot be read, holds something else than 0 and 1, or no configuration.
    """
    readers: dict[str, Callable[[str, bytes], Measured]] = {
        **{".csv": _of_table, ".tsv": _of_table, ".txt": _of_text},
        **{".npy": _of_array, ".npz": _of_array, ".nc": _of_netcdf, ".json": _of_json},
    }
    reader = readers.get(Path(file).suffix.lower())
    if reader is None:
        raise ConfigError(f"{file}: unknown ending '{Path(file).suffix}', expected one of {', '.join(readers)}")
    found = reader(str(file), read_bytes(file))
    if not found.configs.size:
        lost = "".join(f"; {count} shots dropped: {why}" for why, count in found.dropped.items())
        raise ConfigError(f"{file}: holds no configuration{lost}")
    return found


def site_positions(file: str | Path) -> NDArray[np.float64]:
    """Positions (N, 2) of a file, see `qsr.hparams.positions.read_positions`.

    Raises:
        ConfigError: for a file that has none.
    """
    read_bytes(file)
    try:
        return np.array(read_positions(file))
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from None


# --- text ---------------------------------------------------------------------------------------------------------------


def _of_table(file: str, data: bytes) -> Measured:
    delimiter = "\t" if file.lower().endswith(".tsv") else ","
    try:
        rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig")), delimiter=delimiter))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{file}: not a table of text ({error})") from None
    numbered = [(number, [cell.strip() for cell in row]) for number, row in enumerate(rows, start=1) if row]
    if numbered and not re.fullmatch("[01]+", numbered[0][1][0]):
        numbered = numbered[1:]  # names of columns
    return _of_rows(file, numbered)


def _of_text(file: str, data: bytes) -> Measured:
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not a text ({error})") from None
    words = ((number, re.split(r"[\s,:]+", line.partition("#")[0].strip())) for number, line in enumerate(lines, start=1))
    return _of_rows(file, [(number, row) for number, row in words if row != [""]])


def _of_rows(file: str, rows: Sequence[tuple[int, list[str]]]) -> Measured:
    """Lines with a bit string, alone or before its count, or with 0 and 1 in columns."""
    counted: list[Counted] = []
    for number, row in rows:
        if len(row) <= 2 and re.fullmatch(r"\w{2,}", row[0]):
            count = row[1] if len(row) == 2 else "1"
            if not re.fullmatch("[0-9]{1,18}", count):
                raise ConfigError(f"{file}: line {number}: expected a count after the bit string, found {count[:40]!r}")
            counted.append((row[0], int(count)))
        elif all(len(cell) == 1 for cell in row):
            counted.append(("".join(row), 1))
        else:
            raise ConfigError(
                f"{file}: line {number}: expected a bit string (and a count), or 0 and 1 in columns, found {row[:4]}"
            )
    return _of_strings(file, counted, [f"line {number}" for number, _ in rows])


def _of_strings(file: str, counted: Sequence[Counted], where: Sequence[str]) -> Measured:
    for (bits, _), place in zip(counted, where, strict=True):
        if not re.fullmatch("[01]+", bits):
            raise ConfigError(f"{file}: {place}: expected 0 and 1, found {bits[:40]!r}")
        if len(bits) != len(counted[0][0]):
            raise ConfigError(f"{file}: {place}: {len(bits)} sites, expected {len(counted[0][0])} as before")
    if not counted:
        return Measured(np.empty((0, 0), dtype=np.uint8))
    shots, sites = sum(count for _, count in counted), len(counted[0][0])
    if shots * sites > MOST_COUNTED:
        raise ConfigError(f"{file}: its counts are of {shots} shots of {sites} sites; at most {MOST_COUNTED} numbers are made")
    distinct = np.array([list(bits.encode()) for bits, _ in counted], dtype=np.uint8) - ord("0")
    return Measured(np.repeat(distinct, [count for _, count in counted], axis=0).astype(np.uint8))


# --- arrays -------------------------------------------------------------------------------------------------------------


def _of_array(file: str, data: bytes) -> Measured:
    with parsing(file, "not an array of numbers"):
        arrays = npz_arrays(data) if data.startswith(b"PK") else {"configs": npy_array(data)}
    name = "configs" if "configs" in arrays else next(iter(arrays)) if len(arrays) == 1 else None
    if name is None:
        raise ConfigError(f"{file}: expected an array 'configs', or one alone; found {', '.join(arrays) or 'none'}")
    positions = _checked(file, arrays["positions"]) if "positions" in arrays else None
    return Measured(_occupations(file, name, arrays[name]), positions)


def _of_netcdf(file: str, data: bytes) -> Measured:
    configs, positions = read_netcdf(file, data)
    return Measured(_occupations(file, "configs", configs), None if positions is None else _checked(file, positions))


def _occupations(file: str, name: str, values: NDArray[Any]) -> NDArray[np.uint8]:
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        raise ConfigError(f"{file}: {name}: expected numbers (snapshots, sites), found {values.dtype} {values.shape}")
    wrong = values[(values != 0) & (values != 1)]
    if len(wrong):
        raise ConfigError(f"{file}: {name}: expected 0 (ground) and 1 (excited), found {wrong[0]}")
    return values.astype(np.uint8)


# --- JSON ---------------------------------------------------------------------------------------------------------------


def _json(file: str, data: bytes) -> Any:
    try:
        return parse_json(data)
    except ValueError as error:
        raise ConfigError(f"{file}: not JSON ({reason(error)})") from None


def _of_json(file: str, data: bytes) -> Measured:
    """Counts {"0110": 12} (1 = excited, as in Pulser), a list of bit strings, a task result of Braket or a batch of Bloqade."""
    tree = _json(file, data)
    if isinstance(tree, Mapping) and isinstance(tree.get("measurements"), list):
        return _of_shots(file, tree.get("additionalMetadata"), [_shot_of_braket(shot) for shot in tree["measurements"]])
    results = _results_of_bloqade(tree)
    if len(results) == 1:
        return _of_shots(file, tree, [_shot_of_bloqade(shot) for shot in results[0]])
    if results:
        raise ConfigError(f"{file}: has the results of {len(results)} tasks, expected those of one in each file")
    if isinstance(tree, Mapping) and tree and all(isinstance(count, int) and count >= 0 for count in tree.values()):
        return _of_strings(file, list(tree.items()), [f"{bits!r}" for bits in tree])
    if isinstance(tree, list) and tree and all(isinstance(bits, str) for bits in tree):
        return _of_strings(file, [(bits, 1) for bits in tree], [f"entry {number}" for number in range(len(tree))])
    raise ConfigError(
        f'{file}: expected counts such as {{"0110": 12}}, a list of bit strings, a task result of Braket with '
        "'measurements', or a batch of Bloqade with results"
    )


def _shot_of_braket(shot: Any) -> Shot | None:
    """A shot of braket.task_result.analog_hamiltonian_simulation_task_result, version 1; None: it is none."""
    try:
        result, status = shot["shotResult"], shot["shotMetadata"]["shotStatus"]
        return ("" if status == "Success" else f"shotStatus {status}"), result.get("preSequence"), result.get("postSequence")
    except (KeyError, TypeError, AttributeError):
        return None


def _shot_of_bloqade(shot: Any) -> Shot | None:
    """A shot as `bloqade.analog.save` writes it; None: it is none."""
    try:
        status = shot["shot_status"]
        return ("" if status == "Completed" else f"shot_status {status}"), shot["pre_sequence"], shot["post_sequence"]
    except (KeyError, TypeError):
        return None


def _results_of_bloqade(tree: Any) -> list[list[Any]]:
    """The shots of every task in a batch of Bloqade."""
    if isinstance(tree, Mapping) and isinstance(tree.get("shot_outputs"), list):
        return [tree["shot_outputs"]]
    parts = tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, list) else ()
    return [shots for part in parts if isinstance(part, (Mapping, list)) for shots in _results_of_bloqade(part)]


def _of_shots(file: str, program: Any, shots: Sequence[Shot | None]) -> Measured:
    """Shots of Aquila, or of an emulator of it, with the register of their program.

    The first sequence is 1 where an atom was loaded; the second 1 where one is left, which is then in its ground state: excited
    atoms are lost. Sites that the register leaves empty are left out; shots in which another one was empty are dropped.
    """
    try:
        found = registers(program)
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from None
    sites, filled = found[0] if found else (None, None)
    kept: list[NDArray[np.int64]] = []
    dropped: dict[str, int] = {}
    for number, shot in enumerate(shots):
        if shot is None:
            raise ConfigError(f"{file}: measurement {number}: expected its status and its two sequences")
        failed, pre, post = shot
        if failed or not pre or not post:
            why = failed or "no sequence"
            dropped[why] = dropped.get(why, 0) + 1
            continue
        loaded, left = _numbers(pre), _numbers(post)
        if filled is None:
            filled = np.ones(len(loaded), dtype=bool)
        if loaded.shape != filled.shape or left.shape != filled.shape or not np.isin([loaded, left], (0, 1)).all():
            raise ConfigError(f"{file}: measurement {number}: expected two sequences of {len(filled)} zeros and ones")
        if not loaded[filled].all():
            dropped["not all atoms loaded"] = dropped.get("not all atoms loaded", 0) + 1
            continue
        kept.append(1 - left[filled])
    configs = np.array(kept, dtype=np.uint8) if kept else np.empty((0, 0), dtype=np.uint8)
    return Measured(configs, None if sites is None else sites[filled], dropped)


def _numbers(sequence: Any) -> NDArray[Any]:
    """A sequence of whole numbers; empty where it is something else."""
    listed = isinstance(sequence, list) and all(type(entry) is int and abs(entry) < 256 for entry in sequence)
    return np.array(sequence if listed else [])


def _checked(file: str, positions: Any) -> NDArray[np.float64]:
    try:
        found = np.array(positions, dtype=float)
    except (TypeError, ValueError, OverflowError):
        found = np.empty(0)
    if found.ndim != 2 or found.shape[1] != 2 or not np.isfinite(found).all():
        raise ConfigError(f"{file}: positions: expected rows of x and y")
    return found
