"""`qsr hsm geometry`: the surface that a trained Hilbert-space model sees in data, and its dimension."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qsr.hparams import ConfigError, RunSettings
from qsr.hparams.hdf5 import written_hdf5
from qsr.hsm.geometry import DENSE_LAPLACIAN, FLOOR, Geometry, laplacian_spectrum, matrix_geometry
from qsr.hsm.model import HilbertSpaceModel
from qsr.hsm.overlaps import unscaled
from qsr.hsm.start import gathered
from qsr.jobs.drawing import sheet, write_picture
from qsr.jobs.features import feature_names, features_of
from qsr.jobs.fit import data_of
from qsr.jobs.run import Run, check_writable
from qsr.runs import StoredRun, read_run, replacing, restore_model
from qsr.training.data import DataLoaderHparams, PyTorchData
from qsr.training.device import find_device
from qsr.training.fitting import source
from qsr.training.random import generator_for

SCHEMA = "qsr-geometry/1"
DATA_FILE, PICTURE_FILE = "geometry.h5", "geometry.png"
MOST_POINTS = 5000
NAMED = 8  # how many eigenvalues and votes a table shows
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class GeometryReport:
    """The matrix geometry of a run at points of some data.

    Attributes:
        geometry: of the points, in the scale of the standardised features.
        features: their names.
        points, cloud: (S, K) the points and their cloud, in the units of the features.
        rows: (S,) which rows of the data they are.
        laplacian: (d^2,) spectrum of the matrix Laplacian; None where d is too large for it.
        source: where the data come from.
    """

    geometry: Geometry
    features: tuple[str, ...]
    points: NDArray[np.float64]
    cloud: NDArray[np.float64]
    rows: NDArray[np.int64]
    laplacian: NDArray[np.float64] | None
    source: str

    def lines(self) -> list[str]:
        """A table for the terminal."""
        found = self.geometry
        spectrum, votes = found.mean_spectrum, found.votes
        most = [int(index) for index in votes.argsort(descending=True, stable=True) if votes[index] > 0][:NAMED]
        more = " ..." if len(spectrum) > NAMED else ""
        rows = [
            ("points", f"{len(self.points)} of {self.source}, {len(self.features)} features, d={found.levels}"),
            ("intrinsic dimension", f"{found.dimension}{self._bound()}"),
            ("votes of points", ", ".join(f"{index}: {float(votes[index]):.1%}" for index in sorted(most))),
            ("eigenvalues over 1/2", f"{found.tangents:.2f}"),
            ("metric eigenvalues", " ".join(f"{float(value):.3g}" for value in spectrum[:NAMED]) + more),
            ("gap", f"{float(found.gap.mean()):.4g}"),
            ("bias", f"{float(found.bias.mean()):.4g}"),
            ("fluctuation", f"{float(found.fluctuation.mean()):.4g}"),
            ("Berry curvature", f"{float(found.curvature.mean()):.4g}"),
            ("degenerate", f"{float(found.degenerate.double().mean()):.2%}"),
        ]
        return [f"{name:<22}{value}" for name, value in rows]

    def _bound(self) -> str:
        """What to say of an answer that could not have been larger."""
        highest = min(len(self.features), 2 * self.geometry.levels - 2) - 1
        if self.geometry.dimension < highest or highest < 1:
            return ""
        why = f"{len(self.features)} features" if len(self.features) <= highest + 1 else f"d={self.geometry.levels}"
        return f" or more ({why} can show no more)"


def hsm_geometry(
    run: StoredRun | str | Path | Run,
    data: Any = None,
    *,
    points: int = MOST_POINTS,
    seed: int = 0,
    device: str = "auto",
    output: str | Path | None = None,
    write: bool = False,
) -> GeometryReport:
    """Point cloud, quantum metric, curvature and intrinsic dimension of a trained Hilbert-space model.

    Args:
        run: a run directory, or the result of `fit`.
        data: a file, a frame, a mapping of columns or an array with the features of the run by name (an array: in their order),
            or a `PyTorchData`, of which the training data are taken; default: those of the run.
        points: at most so many rows, drawn by the seed.
        output: directory for `geometry.h5` and `geometry.png`; default the run's own.
        write: whether to write them.

    Raises:
        ConfigError: for a run of another model or of thermal states, for data without the features, and for an output that
            cannot be written.
    """
    if points < 1:
        raise ConfigError(f"points={points}: must be at least 1")
    settings, model, path = _opened(run, device)
    target = Path(output) if output is not None else path
    if write and target is None:
        raise ConfigError("output: this run has no directory; say where to write")
    if write and target is not None:
        check_writable(target)
    names = feature_names(model)
    x, where = _features(settings, model, names, data)
    generator = generator_for("cpu", seed, "geometry")
    rows = torch.randperm(len(x), generator=generator)[:points].sort().values if points < len(x) else torch.arange(len(x))
    found = matrix_geometry(model, x[rows])
    with torch.no_grad():
        operators = model.operators().inputs
    small = operators.shape[-1] <= DENSE_LAPLACIAN
    result = GeometryReport(
        geometry=found,
        features=names,
        points=x[rows].numpy(),
        cloud=unscaled(model, found.cloud).numpy(),
        rows=rows.numpy(),
        laplacian=laplacian_spectrum(operators.to(torch.promote_types(operators.dtype, torch.float64))).cpu().numpy()
        if small
        else None,
        source=where,
    )
    if write and target is not None:
        try:
            with replacing(target / DATA_FILE) as temporary:
                _write(temporary, result)
            draw_geometry(result, target / PICTURE_FILE)
        except OSError as error:
            raise ConfigError(f"{target}: cannot write the results there ({error.strerror}); choose another --output") from None
    return result


# ---- what goes in ----------------------------------------------------------------------------------------------------


def _opened(run: StoredRun | str | Path | Run, device: str) -> tuple[RunSettings, HilbertSpaceModel, Path | None]:
    """Settings, model and directory of a run.

    Raises:
        ConfigError: for the run of another model.
    """
    stored = run if isinstance(run, (StoredRun, Run)) else read_run(run)
    section = stored.settings.model
    if section.section != "hsm":
        raise ConfigError(f"{stored.path}: is a run of --{section.section}; matrix geometry is of a Hilbert-space model (--hsm)")
    model = stored.model if isinstance(stored, Run) else restore_model(stored, find_device(device, "device"))
    return stored.settings, model, stored.path


def _features(settings: RunSettings, model: HilbertSpaceModel, names: tuple[str, ...], data: Any) -> tuple[Tensor, str]:
    """(S, K) float64 on the CPU, and what to call them."""
    if data is None:
        data = data_of(settings)
    if isinstance(data, PyTorchData):
        loader = data.thparams.loader or DataLoaderHparams()
        return gathered(source(data.train, loader, 0, training=False).batches(0, 0))[0], "the training data"
    x, _, where = features_of(data, names)
    return torch.from_numpy(x), where


# ---- what comes out --------------------------------------------------------------------------------------------------


def _write(file: Path, found: GeometryReport) -> None:
    geometry = found.geometry
    columns: dict[str, Any] = {
        "points": found.points,
        "cloud": found.cloud,
        "row": found.rows,
        "metric_eigenvalues": geometry.spectrum,
        "dimension": geometry.dimensions,
        "votes": geometry.votes,
        "curvature": geometry.curvature,
        "gap": geometry.gap,
        "bias": geometry.bias,
        "fluctuation": geometry.fluctuation,
        "degenerate": geometry.degenerate,
    }
    if found.laplacian is not None:
        columns["laplacian_eigenvalues"] = found.laplacian
    with written_hdf5(file) as store:
        for name, values in columns.items():
            store[name] = np.asarray(values)
        for name in ("points", "cloud"):
            store[name].attrs["units"] = "those of the features"
        store.attrs.update(schema=SCHEMA, features=list(found.features), source=found.source, levels=geometry.levels, floor=FLOOR)
        store.attrs.update(dimension=geometry.dimension, mean_metric_eigenvalues=geometry.mean_spectrum.numpy())


def draw_geometry(found: GeometryReport, target: Path) -> None:
    """Three panels as a PNG: the cloud in its leading axes, the spectrum of the metric with its gap, the votes."""
    figure = sheet(15, 4.6)
    _draw_cloud(figure, found)
    _draw_spectrum(figure.add_subplot(1, 3, 2), found.geometry)
    _draw_votes(figure.add_subplot(1, 3, 3), found.geometry)
    figure.suptitle(
        f"matrix geometry: intrinsic dimension {found.geometry.dimension}; {found.lines()[0].split(maxsplit=1)[1]}", fontsize=10
    )
    write_picture(figure, target)


def leading_axes(cloud: Tensor, count: int = 3) -> NDArray[np.float64]:
    """(S, count) principal components of a cloud (S, K); zeros where it has fewer."""
    centred = cloud - cloud.mean(dim=0)
    turned = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:count].T
    result: NDArray[np.float64] = torch.nn.functional.pad(turned, (0, count - turned.shape[1])).numpy()
    return result


def _draw_cloud(figure: Any, found: GeometryReport) -> None:
    """Coloured by how far the states have moved each point: noise that is taken away, or shape that is lost."""
    distance = (len(found.features) * found.geometry.bias).sqrt().numpy()
    spatial = len(found.features) > 2
    axis = figure.add_subplot(1, 3, 1, projection="3d" if spatial else None)
    axes = leading_axes(found.geometry.cloud, 3 if spatial else 2)
    drawn = axis.scatter(*axes.T, c=distance, s=4, cmap="viridis")
    figure.colorbar(drawn, ax=axis, shrink=0.7, pad=0.18, label="distance |y(x) - x| (standardised)")
    axis.set(xlabel="first", ylabel="second", title="point cloud, principal axes")
    if spatial:
        axis.set_zlabel("third")


def _draw_spectrum(axis: Any, geometry: Geometry) -> None:
    shown = geometry.spectrum[:, : 2 * geometry.levels].numpy()
    quantiles = np.quantile(shown, QUANTILES, axis=0)
    number = np.arange(1, shown.shape[1] + 1)
    for low, high, alpha in ((quantiles[0], quantiles[-1], 0.2), (quantiles[1], quantiles[-2], 0.4)):
        axis.fill_between(number, low, high, color="C0", alpha=alpha, lw=0, step="mid" if len(number) == 1 else None)
    axis.plot(number, shown.mean(axis=0), "o-", ms=4, lw=1, color="C0", label="mean (bands: half, and 90 % of the points)")
    if 0 < geometry.dimension < len(number):
        axis.axvline(geometry.dimension + 0.5, color="C3", ls="--", lw=1, label=f"largest drop: after {geometry.dimension}")
    axis.set(xlabel="number", ylabel="eigenvalue of the quantum metric", title="metric at the cloud", ylim=(0, None))
    axis.locator_params(axis="x", integer=True)
    axis.legend(fontsize=8)


def _draw_votes(axis: Any, geometry: Geometry) -> None:
    votes = geometry.votes[: 2 * geometry.levels].numpy()
    colours = ["C3" if index == geometry.dimension else "C0" for index in range(len(votes))]
    axis.bar(range(len(votes)), votes, color=colours)
    axis.set(xlabel="intrinsic dimension", ylabel="share of the points", title="votes of single points", ylim=(0, 1))
    axis.locator_params(axis="x", integer=True)
