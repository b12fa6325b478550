"""New snapshots for a run of `--graph`: phases, or a parameter, read off each of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from qsr.graph.lattice_data import GraphsHparams, LatticeGraphs, target_values
from qsr.graph.lattice_model import LatticeModel
from qsr.hparams import ConfigError
from qsr.jobs.reports import PREDICTIONS_FILE, as_csv, metric_lines
from qsr.runs import StoredRun, write_atomically
from qsr.snapshots import Snapshots, read_snapshots
from qsr.training.files import read_bytes
from qsr.training.rows import class_numbers


@dataclass(frozen=True)
class GraphReport:
    """Predictions for S snapshots.

    Attributes:
        columns: of predictions.csv: the class and `p_` of each, or the value; each (S,).
        metrics: of the snapshots whose target is known; else empty.
        summary: a line about the whole.
    """

    columns: dict[str, NDArray[Any]]
    summary: str
    metrics: dict[str, float] = field(default_factory=dict)

    file: ClassVar[str] = PREDICTIONS_FILE

    def lines(self) -> list[str]:
        """For the terminal."""
        return metric_lines(self.summary, self.metrics)

    def write(self, directory: Path) -> None:
        """Write predictions.csv."""
        write_atomically(directory / self.file, as_csv(self.columns))


def predict_graphs(stored: StoredRun, model: LatticeModel, data: Any) -> GraphReport:
    """Predictions of a run's model for snapshots, of a lattice of any size.

    Args:
        data: a file, or `Snapshots`.

    Raises:
        ConfigError: for a file that cannot be read.
    """
    if not isinstance(data, (str, Path, Snapshots)):
        raise ConfigError(f"data: expected a file of snapshots, found {type(data).__name__}")
    where = "data" if isinstance(data, Snapshots) else str(data)
    if not isinstance(data, Snapshots):
        read_bytes(data)  # says what is wrong with the file
        data = read_snapshots(data)
    described = stored.settings.data if isinstance(stored.settings.data, GraphsHparams) else GraphsHparams()
    settings = model.thparams
    graphs = LatticeGraphs.of_snapshots(data, where, settings.cutoff, settings.power)
    found = model.predictions(graphs)
    name = described.updated({"task": settings.task}).target_name
    known = {**data.params, **data.columns}
    # NaN: nobody knows it.
    truth = target_values(data, name, where, unknown=True) if name in known else np.full(len(graphs), np.nan)
    summary = f"{len(graphs)} predictions"
    if settings.task == "regress":
        values, told = found.numpy(), ~np.isnan(truth)
        if not told.any():
            return GraphReport({name: values}, summary)
        of = "" if told.all() else f", metrics of the {told.sum()} snapshots whose {name} is known"
        return GraphReport({name: values}, f"{summary}{of}", {"test/mse": float(((values - truth)[told] ** 2).mean())})
    classes = described.classes or tuple(range(found.shape[1]))
    columns: dict[str, NDArray[Any]] = {name: np.array(classes)[found.argmax(dim=1).numpy()]}
    columns |= {f"p_{value}": found[:, number].numpy() for number, value in enumerate(classes)}
    numbers = class_numbers(truth, classes)
    seen = numbers >= 0
    count = int(seen.sum())
    if not count:
        return GraphReport(columns, summary)
    right = found[seen, numbers[seen]]
    accuracy = float((found[seen].argmax(dim=1) == numbers[seen]).double().mean())
    of = "" if count == len(graphs) else f", metrics of the {count} snapshots with a class that training knew"
    return GraphReport(columns, f"{summary}{of}", {"test/accuracy": accuracy, "test/nll": -float(right.log().mean())})
