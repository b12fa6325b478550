"""Snapshots as netCDF: named dimensions and coordinates, as xarray opens them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import netcdf_file

from qsr.hparams import ConfigError
from qsr.hparams.bounded import parsing
from qsr.runs import replacing
from qsr.snapshots import Snapshots

SAMPLE, SITE = "sample", "site"
LARGEST = 2**31 - 1  # of a whole number
MOST_BYTES = 2**32 - 4  # of an array
ABOUT = {
    "configs": "occupation of the site: 0 ground, 1 excited",
    "x": "x of the site",
    "y": "y of the site",
    "labels": "class of the snapshot",
    "state_id": "number of the state that it was drawn from",
    "log_prob": "log-probability of the configuration",
    "local_energy": "local energy of the configuration",
}


def write_netcdf(file: str | Path, snapshots: Snapshots) -> None:
    """Write snapshots in the classic format of netCDF with 64-bit offsets, which scipy writes and every reader knows.

    configs (sample, site); x, y (site) and the parameters (sample) as coordinates; labels, state_id, log_prob and local_energy
    (sample); the attributes of the file, the Hamiltonian as JSON. The format has no unsigned bytes and no 64-bit whole numbers:
    configurations are int8, labels int32 (NetCDF Users Guide, "The NetCDF Classic Format Specification").

    Raises:
        ConfigError: for what the format cannot hold: larger labels, arrays above 4 GiB.
    """
    per_sample = {**snapshots.params, **snapshots.columns}
    values: dict[str, NDArray[Any]] = {
        "configs": snapshots.configs.astype(np.int8),
        "x": snapshots.positions[:, 0],
        "y": snapshots.positions[:, 1],
        **{name: _fitting(file, name, np.asarray(column)) for name, column in per_sample.items()},
    }
    if values["configs"].nbytes > MOST_BYTES:
        raise ConfigError(f"{file}: {len(snapshots.configs)} snapshots are too many for an array in netCDF; choose .npz")
    with replacing(file) as temporary, netcdf_file(temporary, "w", version=2) as written:
        for dimension, size in zip((SAMPLE, SITE), snapshots.configs.shape, strict=True):
            written.createDimension(dimension, size)
        for name, array in values.items():
            dimensions = (SAMPLE, SITE) if name == "configs" else (SITE,) if name in ("x", "y") else (SAMPLE,)
            variable = written.createVariable(name, array.dtype, dimensions)
            variable[:] = array
            variable.long_name = ABOUT.get(name, f"{name} of the Hamiltonian").encode()
        # CF conventions 1.11, section 5: which variables are coordinates stands on those that have them.
        written.variables["configs"].coordinates = " ".join(["x", "y", *snapshots.params]).encode()
        for name, attribute in snapshots.attributes.items():
            if hasattr(written, name):  # scipy keeps attributes beside its own names
                raise ConfigError(f"{file}: attribute {name!r} cannot be written as netCDF; choose .npz")
            setattr(written, name, _plain(attribute))


def read_netcdf(file: str, data: bytes) -> tuple[NDArray[Any], NDArray[np.float64] | None]:
    """Configurations (S, N), and positions (N, 2) where there are x and y.

    Raises:
        ConfigError: for a file that is not netCDF of the classic format, or has no `configs`.
    """
    with (
        parsing(file, "not a netCDF file of the classic format (xarray: format='NETCDF3_64BIT')"),
        netcdf_file(io.BytesIO(data), "r", mmap=False) as read,
    ):
        arrays = {name: variable[:].copy() for name, variable in read.variables.items() if variable.shape}
    if "configs" not in arrays:
        raise ConfigError(f"{file}: expected an array 'configs', found {', '.join(arrays) or 'none'}")
    if not {"x", "y"} <= set(arrays):
        return arrays["configs"], None
    if arrays["x"].ndim != 1 or arrays["x"].shape != arrays["y"].shape:
        raise ConfigError(f"{file}: x and y: expected one of each for a site, found {arrays['x'].shape} and {arrays['y'].shape}")
    places = np.stack([arrays["x"], arrays["y"]], axis=1)
    return arrays["configs"], places


def _fitting(file: str | Path, name: str, values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype.kind not in "iu":
        return values
    if len(values) and np.abs(values).max() > LARGEST:
        raise ConfigError(f"{file}: {name}: netCDF has no whole numbers above {LARGEST}, found {values.max()}")
    return values.astype(np.int32)


def _plain(value: Any) -> Any:
    """An attribute as the format has it: text as bytes, a number or a row of them."""
    if isinstance(value, (str, bytes)):
        return value.encode() if isinstance(value, str) else value
    numbers = np.asarray(value)
    if isinstance(value, dict) or numbers.dtype.kind not in "biuf":
        return json.dumps(numbers.tolist()).encode()
    if numbers.dtype.kind == "f":
        return numbers.ravel().astype(np.float64)
    return str(value).encode() if np.abs(numbers).max(initial=0) > LARGEST else numbers.ravel().astype(np.int32)
