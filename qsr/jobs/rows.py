"""New rows of a table for a run of `--hsm`: values or classes, and how well they fit where the table knows them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from qsr.hsm.model import HilbertSpaceModel
from qsr.hsm.predictions import Predictions, predict
from qsr.jobs.features import feature_names, features_of
from qsr.jobs.reports import PREDICTIONS_FILE, as_csv, metric_lines
from qsr.runs import StoredRun, write_atomically
from qsr.training import DataLoaderHparams, Supervised
from qsr.training.columns import Columns
from qsr.training.rows import TensorRows
from qsr.training.supervised import DatasetSource
from qsr.training.table import TableHparams


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

    files: ClassVar[tuple[str, ...]] = (PREDICTIONS_FILE,)

    def write(self, directory: Path) -> None:
        """Write predictions.csv."""
        write_atomically(directory / PREDICTIONS_FILE, as_csv(self.columns))

    def lines(self) -> list[str]:
        """For the terminal: the metrics, and how many predictions there are."""
        count = len(self.predictions.energy)
        of = "" if self.known in (0, count) else f", metrics of the {self.known} rows with a target that training knew"
        return metric_lines(f"{count} predictions{of}", self.metrics)


def predict_rows(stored: StoredRun, model: HilbertSpaceModel, data: Any) -> PredictionReport:
    """Predictions of a Hilbert-space model for the rows of a table."""
    names = feature_names(model)
    x, columns, _ = features_of(data, names)
    described = stored.settings.data
    targets = described.targets if isinstance(described, TableHparams) else ()
    targets = targets or tuple(f"y{index}" for index in range(model.num_outputs))
    found = predict(model, x, names)
    y = _targets(model, columns, targets)
    known = np.isfinite(y).all(axis=1)
    metrics = _metrics(model, x[known], y[known]) if known.any() else {}
    return PredictionReport(found, found.columns(targets), metrics, int(known.sum()))


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
