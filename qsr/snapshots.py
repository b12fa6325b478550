"""The one file format for sampled or measured configurations: HDF5, schema `qsr-snapshots/1`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsr.hparams.base import ConfigError
from qsr.hparams.bounded import parse_json, reason
from qsr.hparams.hdf5 import attributes as attributes_of
from qsr.hparams.hdf5 import member, members, opened_hdf5, read_array, written_hdf5

SCHEMA = "qsr-snapshots/1"
OPTIONAL_COLUMNS = {"labels": np.int64, "state_id": np.int64, "log_prob": np.float64, "local_energy": np.float64}


@dataclass(frozen=True)
class Snapshots:
    """Configurations with what is known of each of them.

    Attributes:
        configs: (S, N) uint8, 0 ground and 1 excited; site i = x*Ly + y.
        positions: (N, 2) in lattice constants.
        columns: any of labels, state_id (int64), log_prob, local_energy (float64), each (S,).
        params: Hamiltonian parameters of each configuration (delta, Omega, V, ...), each (S,) float64.
        attributes: Lx, Ly, boundary, and `hamiltonian` as a JSON-ready mapping.
    """

    configs: NDArray[np.uint8]
    positions: NDArray[np.float64]
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    params: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)


def write_snapshots(path: str | Path, snapshots: Snapshots) -> None:
    """Write to `path` (callers that must not leave half a file write beside it and rename)."""
    count = len(snapshots.configs)
    with written_hdf5(path) as file:
        file.attrs["schema"] = SCHEMA
        file.attrs["basis"] = "0 = ground, 1 = excited"
        file.attrs["site_order"] = "site i = x*Ly + y"
        for name, value in snapshots.attributes.items():
            file.attrs[name] = json.dumps(value) if isinstance(value, dict) else value
        file.create_dataset("configs", data=snapshots.configs.astype(np.uint8), compression="gzip", compression_opts=1)
        file.create_dataset("positions", data=snapshots.positions)
        for name, values in snapshots.columns.items():
            file.create_dataset(name, data=np.asarray(values, dtype=OPTIONAL_COLUMNS[name]), shape=(count,))
        for name, values in snapshots.params.items():
            file.create_dataset(f"params/{name}", data=values, shape=(count,))


def read_snapshots(path: str | Path) -> Snapshots:
    """Read a snapshot file.

    Raises:
        ConfigError: for a missing file, one that is not HDF5 or of another schema, and arrays that contradict each other.
    """
    try:
        with opened_hdf5(path, "not a snapshot file") as file:
            about = attributes_of(file, path)
            schema = about.get("schema")
            if not isinstance(schema, str) or schema != SCHEMA:
                raise ConfigError(f"{path}: schema {schema!r:.60}, expected {SCHEMA!r}")
            attributes = {name: value for name, value in about.items() if name not in ("schema", "basis", "site_order")}
            if "hamiltonian" in attributes:
                attributes["hamiltonian"] = parse_json(attributes["hamiltonian"])
            names = list(file)
            params = member(file, "params", path) if "params" in names else None
            found = Snapshots(
                read_array(file, "configs", path),
                read_array(file, "positions", path),
                {name: read_array(file, name, path) for name in OPTIONAL_COLUMNS if name in names},
                {} if params is None else {name: read_array(params, name, path) for name in members(params, path)},
                attributes,
            )
    except OSError as error:
        raise ConfigError(f"{path}: not a snapshot file ({reason(error)})") from None
    _check(found, path)
    return found


def _check(snapshots: Snapshots, path: str | Path) -> None:
    """Whether the arrays of a file belong together; raises ConfigError."""
    configs = snapshots.configs
    if configs.ndim != 2 or configs.dtype.kind not in "biu":
        raise ConfigError(f"{path}: configs must be whole numbers (snapshots, sites), found {configs.dtype} {configs.shape}")
    wrong = configs[(configs != 0) & (configs != 1)]
    if len(wrong):
        raise ConfigError(f"{path}: configs must hold 0 (ground) and 1 (excited), found {wrong[0]}")
    count, sites = configs.shape
    if snapshots.positions.shape != (sites, 2):
        raise ConfigError(
            f"{path}: positions must be ({sites}, 2), as configs have {sites} sites; found {snapshots.positions.shape}"
        )
    for name, values in {**snapshots.columns, **snapshots.params}.items():
        if values.shape != (count,) or values.dtype.kind not in "biuf":
            shape = f"{values.dtype} {values.shape}"
            raise ConfigError(f"{path}: {name} must be one number for each of the {count} snapshots, found {shape}")
