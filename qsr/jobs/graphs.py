"""New snapshots for a run of `--graph`: phases, or a parameter, read off each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsr.graph.lattice_data import GraphsHparams, LatticeGraphs, target_values
from qsr.graph.lattice_model import LatticeModel
from qsr.hparams import ConfigError
from qsr.jobs.phase_diagram import PICTURE_FILE, draw_phase_diagram, varying
from qsr.jobs.reports import PREDICTIONS_FILE, as_csv, metric_lines
from qsr.runs import StoredRun, write_atomically
from qsr.snapshots import Snapshots, read_snapshots
from qsr.training.files import read_bytes
from qsr.training.rows import class_numbers


@dataclass(frozen=True)
class GraphReport:
    """Predictions for S snapshots.

    Attributes:
        columns: of predictions.csv, each (S,): `state_id`, the parameters that vary and the target, as far as they are known;
            `predicted`; of classes `p_` of each.
        metrics: of the snapshots whose target is known; else empty.
        errors: their standard errors.
        summary: a line about the whole.
        params: (S,) each, the parameters of the snapshots.
        parameter: which of them the predictions are of; None: they are classes.
    """

    columns: dict[str, NDArray[Any]]
    summary: str
    metrics: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    params: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    parameter: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files that `write` makes: a table, and a picture where a parameter varies."""
        return (PREDICTIONS_FILE, *((PICTURE_FILE,) if varying(self.params) else ()))

    def lines(self) -> list[str]:
        """For the terminal."""
        return metric_lines(self.summary, self.metrics, self.errors)

    def write(self, directory: Path) -> None:
        """Write the files."""
        write_atomically(directory / PREDICTIONS_FILE, as_csv(self.columns))
        drawn = {name: values for name, values in self.columns.items() if name.startswith("p_")}
        draw_phase_diagram(
            self.params, drawn or {"predicted": self.columns["predicted"]}, directory / PICTURE_FILE, self.parameter
        )


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
    columns: dict[str, NDArray[Any]] = {key: known[key] for key in (*varying(data.params), "state_id", name) if key in known}
    about: dict[str, Any] = {"columns": columns, "params": data.params}
    if settings.task == "regress":
        columns["predicted"], told = found.numpy(), ~np.isnan(truth)
        metrics, errors = means({"test/mse": (columns["predicted"] - truth)[told] ** 2})
        of = "" if told.all() or not told.any() else f", metrics of the {told.sum()} snapshots whose {name} is known"
        return GraphReport(summary=f"{len(graphs)} predictions{of}", metrics=metrics, errors=errors, parameter=name, **about)
    classes = described.classes or tuple(range(found.shape[1]))
    columns["predicted"] = np.array(classes)[found.argmax(dim=1).numpy()]
    columns |= {f"p_{value}": found[:, number].numpy() for number, value in enumerate(classes)}
    numbers = class_numbers(truth, classes)
    seen = numbers >= 0
    right = (found[seen].argmax(dim=1) == numbers[seen]).double()
    metrics, errors = means({"test/accuracy": right.numpy(), "test/nll": -found[seen, numbers[seen]].log().numpy()})
    of = "" if len(right) in (0, len(graphs)) else f", metrics of the {len(right)} snapshots with a class that training knew"
    rules = described.label_rule, data.attributes.get("label_rule")
    if name == "labels" and metrics and None not in rules and rules[0] != rules[1]:
        of += f"; its labels are {rules[1]}, those of the training were {rules[0]}"
    return GraphReport(summary=f"{len(graphs)} predictions{of}", metrics=metrics, errors=errors, **about)


def means(values: Mapping[str, NDArray[np.float64]]) -> tuple[dict[str, float], dict[str, float]]:
    """Means of arrays, and their standard errors; without those that are empty."""
    found = {name: array for name, array in values.items() if len(array)}
    errors = {name: float(array.std(ddof=1) / np.sqrt(len(array))) for name, array in found.items() if len(array) > 1}
    return {name: float(array.mean()) for name, array in found.items()}, errors
