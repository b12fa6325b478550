"""Where atoms are: text and numpy files of x and y, registers of Pulser, and of programs of Braket and Bloqade."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsr.hparams.bounded import npy_array, parse_json, read_bounded, read_text

METRES = 1e6  # Braket and Bloqade write metres; a micrometre is the unit of everyone else
MOST_SITES = 2**14  # of any lattice: couplings and distances are N x N numbers
DECIMALS = 9  # of micrometres: 5.5e-6 m is 5.5 um, and not 5.499999999999999


def read_positions(value: Any) -> list[list[float]]:
    """Site coordinates (N, 2): given as numbers, or read from a .npy file, a .json file (see `read_register`) or a text file with
    two columns.

    Raises:
        ValueError: for what cannot be read, fewer than two sites, two on one point, and numbers that are not finite.
    """
    array = _numbers(_read_file(Path(value)) if isinstance(value, (str, Path)) else value)
    if array.ndim != 2 or array.shape[1] != 2 or array.shape[0] < 2:
        raise ValueError(f"expected at least two rows of x and y, found an array of shape {array.shape}")
    if len(array) > MOST_SITES:
        raise ValueError(f"has {len(array)} sites; at most {MOST_SITES}, whose distances fill 2 GiB")
    if not np.isfinite(array).all():
        raise ValueError("coordinates must be finite")
    distances = np.linalg.norm(array[:, None] - array[None], axis=-1) + np.diag(np.full(len(array), np.inf))
    if distances.min() < 1e-9:
        first, second = np.unravel_index(distances.argmin(), distances.shape)
        raise ValueError(f"sites {first} and {second} lie on the same point")
    return [[float(x), float(y)] for x, y in array]


def read_register(tree: Any) -> NDArray[np.float64]:
    """(N, 2) positions in micrometres from the JSON of a register or sequence of Pulser (abstract representation), or the filled
    sites of a program of Braket or of a batch that Bloqade saved.

    Raises:
        ValueError: for anything else, for a register in three dimensions, and for a batch with several registers.
    """
    atoms = tree.get("register") if isinstance(tree, Mapping) else None
    if isinstance(atoms, list):
        if not all(isinstance(atom, Mapping) and {"x", "y"} <= set(atom) for atom in atoms):
            raise ValueError("register: expected atoms with x and y (of a mappable register, give the qubits' traps)")
        if any("z" in atom for atom in atoms):
            raise ValueError("register: is three-dimensional, expected atoms in a plane")
        return _numbers([[atom["x"], atom["y"]] for atom in atoms])
    found = [sites[filled] for sites, filled in registers(tree)]
    if not found:
        raise ValueError("no register: expected Pulser's 'register', or 'sites' as in programs of Braket and Bloqade")
    if any(not np.array_equal(found[0], other) for other in found):
        raise ValueError(f"has {len(found)} tasks with different registers, expected one")
    return found[0]


def registers(tree: Any) -> list[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    """The registers of neutral-atom programs in JSON, wherever in it they stand: sites (M, 2) in micrometres, and which of them
    hold atoms (M,).

    Raises:
        ValueError: for sites that are no rows of x and y, and a filling of another length.
    """
    if isinstance(tree, Mapping) and isinstance(tree.get("sites"), list):
        sites = np.round(METRES * _numbers(tree["sites"]), DECIMALS)
        if sites.ndim != 2 or sites.shape[1] != 2:
            raise ValueError("sites: expected rows of x and y")
        filled = np.array(tree.get("filling") or [1] * len(sites)) == 1
        if filled.shape != (len(sites),):
            raise ValueError(f"filling: has {filled.size} entries for {len(sites)} sites")
        return [(sites, filled)]
    parts = tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, list) else ()
    return [register for part in parts if isinstance(part, (Mapping, list)) for register in registers(part)]


def _numbers(value: Any) -> NDArray[np.float64]:
    try:
        return np.asarray(value, dtype=float)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("expected rows of x and y") from None


def _read_file(file: Path) -> Any:
    suffix = file.suffix.lower()
    try:
        if suffix == ".npy":
            return npy_array(read_bounded(file))
        text = read_text(file)
        if suffix != ".json":
            return np.loadtxt(text.replace(",", " ").splitlines(), ndmin=2)
        tree = parse_json(text)
    except OSError as error:
        raise ValueError(f"cannot read site positions ({error.strerror})") from None
    except (UnicodeDecodeError, ValueError, EOFError):
        expected = "a register as JSON" if suffix == ".json" else "two numbers, x and y, on each line"
        raise ValueError(f"cannot read site positions: expected {expected}") from None
    return read_register(tree)
