"""`qsr snapshots import` and `export`: measured configurations from other programs' files, and snapshots as tables and arrays."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qsr.hparams import ConfigError
from qsr.jobs.foreign import read_measured, site_positions
from qsr.jobs.netcdf import write_netcdf
from qsr.jobs.reports import as_csv
from qsr.jobs.run import check_writable
from qsr.lattice import Lattice
from qsr.runs import replacing, write_atomically
from qsr.snapshots import Snapshots, read_snapshots, write_snapshots

MISPLACED = 0.05  # of the spacing: how far an atom may be from its place on a grid


@dataclass(frozen=True, eq=False)
class ImportReport:
    """What was taken from a file.

    Attributes:
        snapshots: with their positions.
        dropped: shots that are no configuration, by the reason.
    """

    snapshots: Snapshots
    dropped: dict[str, int]

    def lines(self) -> list[str]:
        """For the terminal."""
        count, sites = self.snapshots.configs.shape
        density = f"{count} snapshots of {sites} sites, mean density {self.snapshots.configs.mean():.4f}"
        return [density, *(f"{number} shots dropped: {why}" for why, number in self.dropped.items())]


def import_snapshots(
    source: str | Path, file: str | Path | None = None, *, positions: str | Path | None = None, lattice: str | None = None
) -> ImportReport:
    """Snapshots of measured configurations: csv, tsv, txt, npy, npz, nc, or json of Pulser (counts), Braket (task result) or
    Bloqade (batch with results).

    Args:
        source: see `qsr.jobs.foreign.read_measured`.
        file: where to write them (schema `qsr-snapshots/1`).
        positions: of the sites, in the order of the bits, where `source` has none: see `site_positions`.
        lattice: '4x4', Lx x Ly. Sites with positions are put into its order, i = x*Ly + y; without, they must be in it.

    Raises:
        ConfigError: for files that cannot be read or contradict each other, and positions that are not those of the lattice.
    """
    measured = read_measured(source)
    if file is not None:
        if Path(file).suffix.lower() not in (".h5", ".hdf5"):
            raise ConfigError(f"{file}: snapshots are written as HDF5; expected a name that ends in .h5")
        check_writable(Path(file).resolve().parent, "OUT")
    sites = measured.configs.shape[1]
    places = measured.positions if positions is None else site_positions(positions)
    if places is not None and len(places) != sites:
        raise ConfigError(f"{positions or source}: positions of {len(places)} sites, but the snapshots have {sites}")
    configs, attributes = measured.configs, {}
    if lattice is not None:
        grid = _lattice(lattice)
        if grid.num_sites != sites:
            raise ConfigError(f"--lattice {lattice}: has {grid.num_sites} sites, but the snapshots have {sites}")
        configs = configs if places is None else configs[:, lattice_order(places, grid, str(positions or source))]
        places, attributes = grid.positions, {"Lx": grid.Lx, "Ly": grid.Ly, "boundary": grid.boundary}
    if places is None:
        raise ConfigError(f"{source}: says nothing of where the sites are; give --positions FILE or --lattice LxxLy")
    snapshots = Snapshots(configs, places, attributes={**attributes, "source": Path(source).name})
    if file is not None:
        with replacing(file) as temporary:
            write_snapshots(temporary, snapshots)
    return ImportReport(snapshots, measured.dropped)


def _lattice(text: str) -> Lattice:
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if found is None:
        raise ConfigError(f"--lattice {text}: expected Lx x Ly, such as 4x4")
    return Lattice(int(found[1]), int(found[2]))


def lattice_order(positions: NDArray[np.float64], lattice: Lattice, source: str) -> NDArray[np.int64]:
    """(N,) which of the given sites is number i of the lattice, for a grid along the axes with any spacing.

    Raises:
        ConfigError: if they are no such grid.
    """
    spans = positions.max(axis=0) - positions.min(axis=0)
    steps = [span / (size - 1) for span, size in zip(spans, lattice.shape, strict=True) if size > 1]
    spacing = float(np.mean(steps)) if steps else 1.0
    places = (positions - positions.min(axis=0)) / max(spacing, 1e-300)
    rounded = np.rint(places).astype(np.int64)
    order = np.lexsort((rounded[:, 1], rounded[:, 0]))
    if np.abs(places - rounded).max() > MISPLACED or not np.array_equal(rounded[order], lattice.positions):
        raise ConfigError(f"{source}: its positions are not those of a square lattice {lattice.Lx}x{lattice.Ly} along x and y")
    return order


def export_snapshots(source: str | Path, file: str | Path) -> int:
    """Write a snapshot file as npz (arrays under the names of the schema, attributes as JSON), csv (a column for each site) or nc
    (netCDF, see `qsr.jobs.netcdf.write_netcdf`).

    Returns:
        How many snapshots there are.

    Raises:
        ConfigError: for a file that is none of snapshots, another ending, and what netCDF cannot hold.
    """
    ending = Path(file).suffix.lower()
    if ending not in (".npz", ".csv", ".nc"):
        raise ConfigError(f"{file}: unknown ending '{ending}', expected .npz, .csv or .nc")
    snapshots = read_snapshots(source)
    check_writable(Path(file).resolve().parent, "OUT")
    if ending == ".csv":
        occupations = {f"n{site}": values for site, values in enumerate(snapshots.configs.T)}
        write_atomically(file, as_csv({**snapshots.params, **snapshots.columns, **occupations}))
    elif ending == ".nc":
        write_netcdf(file, snapshots)
    else:
        arrays = {"configs": snapshots.configs, "positions": snapshots.positions, **snapshots.columns}
        arrays |= {f"params/{name}": values for name, values in snapshots.params.items()}
        text = json.dumps(snapshots.attributes, default=lambda value: value.tolist())
        with replacing(file) as temporary:
            np.savez_compressed(temporary, **{"attributes": np.array(text), **arrays})  # type: ignore[arg-type]
    return len(snapshots.configs)
