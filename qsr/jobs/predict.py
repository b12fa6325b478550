"""Predictions of a run's model for new data: what `qsr load RUN --data FILE` does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qsr.hparams import ConfigError
from qsr.hsm.model import HilbertSpaceModel
from qsr.hsm.predictions import Predictions, as_csv, predict
from qsr.jobs.features import feature_names, features_of
from qsr.jobs.run import Run, check_writable, path_of
from qsr.runs import StoredRun, read_run, restore_model, write_atomically
from qsr.training import DataLoaderHparams, Supervised
from qsr.training.columns import Columns
from qsr.training.data import TensorRows
from qsr.training.device import find_device
from qsr.training.supervised import DatasetSource
from qsr.training.table import TableHparams

PREDICTIONS_FILE = "predictions.csv"


@dataclass(frozen=True)
class PredictionReport:
    """Predictions for the rows of a table.

    Attributes:
        predictions: of the model.
        columns: the same as a table.
        metrics: of the rows whose targets the table has, too; else empty.
        known: how many rows these are.
    """

    predictions: Predictions
    columns: dict[str, NDArray[Any]]
    metrics: dict[str, float]
    known: int

    def lines(self) -> list[str]:
        """For the terminal: the metrics, and how many predictions there are."""
        width = max((len(name) for name in self.metrics), default=0)
        count = len(self.predictions.energy)
        of = "" if self.known in (0, count) else f", metrics of the {self.known} rows with a target that training knew"
        return [f"{count} predictions{of}", *(f"{name:<{width}}  {value:.6g}" for name, value in self.metrics.items())]


def predict_table(
    run: StoredRun | str | Path | Run,
    data: Any,
    *,
    device: str = "auto",
    output: str | Path | None = None,
    write: bool = False,
) -> PredictionReport:
    """Predictions for new data, whose columns are found by the names of the training data; others are left alone.

    Args:
        run: of a Hilbert-space model.
        data: a file, a frame, a mapping of columns, or an array (S, K).
        output: directory for predictions.csv; default the run's own.
        write: whether to write it.

    Raises:
        ConfigError: as `load_model`; for a run of another kind, and for data without the features.
    """
    stored = run if isinstance(run, StoredRun) else read_run(path_of(run))
    kind = stored.settings.model.section
    if kind != "hsm":
        raise ConfigError(f"--data: predictions are for runs of --hsm, and {stored.path} is a run of --{kind}")
    directory = Path(output or stored.path)
    if write:
        check_writable(directory)
    model: HilbertSpaceModel = restore_model(stored, find_device(device, "device"))
    names = feature_names(model)
    x, columns, _ = features_of(data, names)
    described = stored.settings.data
    targets = described.targets if isinstance(described, TableHparams) else ()
    targets = targets or tuple(f"y{index}" for index in range(model.num_outputs))
    found = predict(model, x, names)
    table = found.columns(targets)
    y = _targets(model, columns, targets)
    known = np.isfinite(y).all(axis=1)
    if write:
        write_atomically(directory / PREDICTIONS_FILE, as_csv(table))
    return PredictionReport(found, table, _metrics(model, x[known], y[known]) if known.any() else {}, int(known.sum()))


def _targets(model: HilbertSpaceModel, columns: Columns, targets: tuple[str, ...]) -> NDArray[np.float64]:
    """(S, T) targets as far as the table has them, NaN where it does not, and for classes that training did not see."""
    length = len(next(iter(columns.values())))
    found = np.full((length, len(targets)), np.nan)
    classes = model.thparams.classes
    numbers = {name: float(number if isinstance(name, str) else name) for number, name in enumerate(classes or ())}
    for index, name in enumerate(targets):
        for row, value in enumerate(columns.get(name, ())):
            if classes is not None:
                found[row, index] = numbers.get(value, np.nan)
            elif isinstance(value, float):
                found[row, index] = value
    return found


def _metrics(model: HilbertSpaceModel, x: NDArray[np.float64], y: NDArray[np.float64]) -> dict[str, float]:
    dataset = TensorRows(torch.from_numpy(x), torch.from_numpy(y))
    rows = DatasetSource(dataset, DataLoaderHparams(batch_size=256), 0, training=False)
    return Supervised(rows, None, 0).evaluate(model, rows, "test")
