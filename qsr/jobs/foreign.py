"""Measured configurations in other programs' files: bit strings, arrays, results of Aquila, counts and registers of Pulser."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsr.hparams import ConfigError
from qsr.hparams.types import read_positions
from qsr.training.files import read_bytes

METRES = 1e6  # Braket writes metres; a micrometre is the unit of everyone else
Counted = tuple[str, int]  # a bit string, how often


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
    """Configurations of a file, by its ending: csv, tsv, txt, npy, npz or json.

    Raises:
        ConfigError: for a file that cannot be read, holds something else than 0 and 1, or no configuration.
    """
    readers: dict[str, Callable[[str, bytes], Measured]] = {
        **{".csv": _of_table, ".tsv": _of_table, ".txt": _of_text},
        **{".npy": _of_array, ".npz": _of_array, ".json": _of_json},
    }
    reader = readers.get(Path(file).suffix.lower())
    if reader is None:
        raise ConfigError(f"{file}: unknown ending '{Path(file).suffix}', expected one of {', '.join(readers)}")
    found = reader(str(file), read_bytes(file))
    if not found.configs.size:
        lost = "".join(f"; {count} shots dropped: {why}" for why, count in found.dropped.items())
        raise ConfigError(f"{file}: holds no configuration{lost}")
    return found


def read_register(file: str | Path) -> NDArray[np.float64]:
    """Positions (N, 2) of a Pulser register or sequence (abstract representation, JSON), of the filled sites of a Braket program
    (JSON; in micrometres), or of a text or npy file of x and y.

    Raises:
        ConfigError: for anything else.
    """
    if Path(file).suffix.lower() != ".json":
        read_bytes(file)
        try:
            return np.array(read_positions(file))
        except ValueError as error:
            raise ConfigError(f"{file}: {error}") from None
    tree = _json(str(file), read_bytes(file))
    atoms = tree.get("register") if isinstance(tree, Mapping) else None
    if isinstance(atoms, list):
        try:
            return _checked(str(file), [[atom["x"], atom["y"]] for atom in atoms])
        except (KeyError, TypeError):
            raise ConfigError(f"{file}: register: expected atoms with x and y (a two-dimensional register of Pulser)") from None
    sites, filled = _sites(str(file), tree)
    if sites is None:
        raise ConfigError(f"{file}: no register: expected Pulser's 'register' or Braket's 'ahs_register' with 'sites'")
    return sites[filled]


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
            if not count.isdigit():
                raise ConfigError(f"{file}: line {number}: expected a count after the bit string, found {count!r}")
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
    distinct = np.array([list(bits.encode()) for bits, _ in counted], dtype=np.uint8) - ord("0")
    return Measured(np.repeat(distinct, [count for _, count in counted], axis=0).astype(np.uint8))


# --- arrays -------------------------------------------------------------------------------------------------------------


def _of_array(file: str, data: bytes) -> Measured:
    try:
        loaded = np.load(io.BytesIO(data), allow_pickle=False)
        arrays = {"configs": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{file}: not an array of numbers ({str(error).splitlines()[0]})") from None
    name = "configs" if "configs" in arrays else next(iter(arrays)) if len(arrays) == 1 else None
    if name is None:
        raise ConfigError(f"{file}: expected an array 'configs', or one alone; found {', '.join(arrays) or 'none'}")
    values = arrays[name]
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        raise ConfigError(f"{file}: {name}: expected numbers (snapshots, sites), found {values.dtype} {values.shape}")
    wrong = values[(values != 0) & (values != 1)]
    if len(wrong):
        raise ConfigError(f"{file}: {name}: expected 0 (ground) and 1 (excited), found {wrong[0]}")
    positions = _checked(file, arrays["positions"]) if "positions" in arrays else None
    return Measured(values.astype(np.uint8), positions)


# --- JSON ---------------------------------------------------------------------------------------------------------------


def _json(file: str, data: bytes) -> Any:
    try:
        return json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{file}: not JSON ({error})") from None


def _of_json(file: str, data: bytes) -> Measured:
    """Counts {"0110": 12} (1 = excited, as Pulser has it), a list of bit strings, or a task result of Braket."""
    tree = _json(file, data)
    if isinstance(tree, Mapping) and isinstance(tree.get("measurements"), list):
        return _of_aquila(file, tree)
    if isinstance(tree, Mapping) and tree and all(isinstance(count, int) and count >= 0 for count in tree.values()):
        return _of_strings(file, list(tree.items()), [f"{bits!r}" for bits in tree])
    if isinstance(tree, list) and tree and all(isinstance(bits, str) for bits in tree):
        return _of_strings(file, [(bits, 1) for bits in tree], [f"entry {number}" for number in range(len(tree))])
    raise ConfigError(
        f"{file}: expected counts such as {{\"0110\": 12}}, a list of bit strings, or a task result of Braket with 'measurements'"
    )


def _of_aquila(file: str, tree: Mapping[str, Any]) -> Measured:
    """A result of braket.task_result.analog_hamiltonian_simulation_task_result, version 1.

    preSequence is 1 where an atom was loaded; postSequence 1 where one is left, which is then in its ground state: excited atoms
    are lost. Sites that the register leaves empty are left out; shots in which another one was empty are dropped.
    """
    sites, filled = _sites(file, tree.get("additionalMetadata"))
    kept: list[NDArray[np.int64]] = []
    dropped: dict[str, int] = {}
    for number, shot in enumerate(tree["measurements"]):
        try:
            pre, post = (shot["shotResult"].get(name) for name in ("preSequence", "postSequence"))
            status = shot["shotMetadata"]["shotStatus"]
        except (KeyError, TypeError, AttributeError):
            raise ConfigError(f"{file}: measurement {number}: expected shotMetadata.shotStatus and shotResult") from None
        if status != "Success" or not pre or not post:
            why = f"shotStatus {status}" if status != "Success" else "no sequence"
            dropped[why] = dropped.get(why, 0) + 1
            continue
        loaded, left = np.array(pre), np.array(post)
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


def _sites(file: str, tree: Any) -> tuple[NDArray[np.float64] | None, Any]:
    """Positions (sites, 2) in micrometres and which sites hold atoms, from wherever a Braket program stands in JSON."""
    for name in ("action", "setup", "ahs_register"):
        tree = tree[name] if isinstance(tree, Mapping) and name in tree else tree
    if not isinstance(tree, Mapping) or "sites" not in tree:
        return None, None
    sites = METRES * _checked(file, tree["sites"])
    filled = np.array(tree.get("filling") or [1] * len(sites)) == 1
    if filled.shape != (len(sites),):
        raise ConfigError(f"{file}: ahs_register: {len(sites)} sites, but filling has {filled.size} entries")
    return sites, filled


def _checked(file: str, positions: Any) -> NDArray[np.float64]:
    try:
        found = np.array(positions, dtype=float)
    except (TypeError, ValueError):
        found = np.empty(0)
    if found.ndim != 2 or found.shape[1] != 2 or not np.isfinite(found).all():
        raise ConfigError(f"{file}: positions: expected rows of x and y")
    return found
