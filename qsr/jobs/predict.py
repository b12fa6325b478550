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
from qsr.jobs.run import Run, path_of
from qsr.runs import StoredRun, read_run, restore_model, write_atomically
from qsr.training import DataLoaderHparams, Supervised
from qsr.training.columns import Columns, columns_of, numbers_in, read_columns
from qsr.training.data import TensorRows
from qsr.training.device import find_device
from qsr.training.supervised import DatasetSource

PREDICTIONS_FILE = "predictions.csv"


@dataclass(frozen=True)
class PredictionReport:
    """Predictions for the rows of a table.

    Attributes:
        predictions: of the model.
        columns: the same as a table.
        metrics: of the predictions, where the table has the targets, too; else empty.
    """

    predictions: Predictions
    columns: dict[str, NDArray[Any]]
    metrics: dict[str, float]

    def lines(self) -> list[str]:
        """For the terminal: the metrics, and how many predictions there are."""
        width = max((len(name) for name in self.metrics), default=0)
        count = len(self.predictions.energy)
        return [f"{count} predictions", *(f"{name:<{width}}  {value:.6g}" for name, value in self.metrics.items())]


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
    model: HilbertSpaceModel = restore_model(stored, find_device(device))
    from_file = isinstance(data, (str, Path))
    columns = read_columns(data) if from_file else columns_of(data)
    where = str(data) if from_file else "data"
    names = stored.settings.data and stored.settings.data.input_features
    if not names:  # trained on arrays
        names = tuple(f"x{index}" for index in range(model.num_features))
    x = numbers_in(columns, names, where)
    targets = tuple(stored.settings.data.targets) if stored.settings.data is not None else ()
    targets = targets or tuple(f"y{index}" for index in range(model.num_outputs))
    found = predict(model, x, names)
    table = found.columns(targets)
    metrics = _metrics(model, x, _targets(model, columns, targets, where))
    if write:
        directory = Path(output or stored.path)
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(directory / PREDICTIONS_FILE, as_csv(table))
    return PredictionReport(found, table, metrics)


def _targets(model: HilbertSpaceModel, columns: Columns, targets: tuple[str, ...], where: str) -> NDArray[np.float64] | None:
    """(S, T) if the table has them."""
    if any(name not in columns for name in targets):
        return None
    classes = model.thparams.classes
    if classes is None or not isinstance(classes[0], str):
        return numbers_in(columns, targets, where)
    numbers = {str(name): number for number, name in enumerate(classes)}
    values = columns[targets[0]].tolist()
    unknown = [value for value in values if str(value) not in numbers]
    if unknown:
        known = ", ".join(numbers)
        raise ConfigError(f"{where}: {unknown[0]!r} in column '{targets[0]}' is no class of the training data: {known}")
    return np.array([[numbers[str(value)]] for value in values], dtype=np.float64)


def _metrics(model: HilbertSpaceModel, x: NDArray[np.float64], y: NDArray[np.float64] | None) -> dict[str, float]:
    if y is None or not np.isfinite(y).all():
        return {}
    dataset = TensorRows(torch.from_numpy(x), torch.from_numpy(y))
    rows = DatasetSource(dataset, DataLoaderHparams(batch_size=256), 0, training=False)
    return Supervised(rows, None, 0).evaluate(model, rows, "test")
