"""Runs of `qsr.graph.Trainer` as jobs: `qsr graph train CONFIG.yaml`, and going on with one or testing it from its directory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from qsr.graph.config import GraphLoaderHparams
from qsr.graph.data import GraphDataset
from qsr.graph.learner import GraphLearner
from qsr.graph.loading import loader
from qsr.graph.naming import in_names
from qsr.graph.prediction import outputs_of
from qsr.graph.trainer import CONFIG_FILE, Trainer
from qsr.hparams import ConfigError
from qsr.hparams.sweeps import ConfigHandler, NodePath, dotted, nodes, value_at
from qsr.hparams.tags import load_yaml, resolve_pyobject_tags
from qsr.jobs.reports import PREDICTIONS_FILE, aligned, as_csv
from qsr.jobs.run import Run
from qsr.runs import restore_model, write_atomically
from qsr.runs.load import StoredRun
from qsr.training import Callback
from qsr.training.metric_table import last_row


@dataclass(frozen=True)
class GraphRun:
    """A run of a configuration, trained and tested.

    Attributes:
        config: the configuration.
        path: its directory; None: there is none (`training.path` is <NONE>).
        settings: what the configuration means as settings of a run.
        test: the tester's metrics by their columns; empty without a tester.
    """

    config: Mapping[str, Any]
    path: Path | None
    settings: Any
    test: dict[str, float]

    def lines(self) -> list[str]:
        """For the terminal."""
        return [f"{column:<20}{value:.6g}" for column, value in self.test.items()]


def graph_configs(file: str | Path, allow_import: Iterable[str] = ()) -> tuple[list[dict[str, Any]], list[NodePath]]:
    """The configurations of a YAML file, one or one for every combination of its sweeps, and the paths at which they differ.

    Raises:
        ConfigError: as `qsr.hparams.load_yaml` and `ConfigHandler`; for ranges, which are for a search.
    """
    tree = load_yaml(file, allow_import)
    found = dict(nodes(tree))
    for path, node in found.items():
        if node["type"] in ("range", "random_uniform"):
            raise ConfigError(
                f"{file}: {dotted(path)} is a !{node['type']}, from which only a search draws (qsr.hparams.search); "
                "here several values are a !sweep"
            )
    swept = [path for path, node in found.items() if node["type"] in ("sweep", "coupled-sweep")]
    return (ConfigHandler(tree).run_configs if found else [tree]), swept


def train_graphs(config: Mapping[str, Any], *, progress: bool = False, callbacks: Sequence[Callback] = ()) -> GraphRun:
    """Train as a configuration says, on the data that it names, and test.

    Raises:
        ConfigError: for a configuration that cannot be run, before any work.
        RunFailed: if the loss stays non-finite.
        Interrupted: on a signal, or when `max_time` has passed, with everything saved.
    """
    trainer = Trainer.from_config(config)
    loaders = trainer.prepare_dataloaders()
    trainer.run_training(*loaders[:2], callbacks=callbacks, progress=progress)
    return GraphRun(config, trainer.data_path, trainer.settings, _tested(trainer, loaders[2]))


def sweep_table(paths: Sequence[NodePath], runs: Sequence[GraphRun]) -> list[str]:
    """Runs with their values at the paths of the sweeps and their test metrics, one a line under their names."""
    names = list(dict.fromkeys(name for run in runs for name in run.test))
    rows = [["run", *map(dotted, paths), *names]]
    for run in runs:
        values = [str(in_names(value_at(run.config, path))) for path in paths]
        rows.append([str(run.settings.model.name), *values, *(f"{run.test[name]:.6g}" for name in names)])
    return aligned(rows)


def resume_graphs(path: Path, data: Any = None, progress: bool = False, callbacks: Sequence[Callback] = ()) -> Run:
    """Go on with a run whose configuration stands in its directory.

    Args:
        data: a data set; None: that of the configuration.

    Raises:
        ConfigError: as `Trainer.load_checkpoint` and `Trainer.prepare_dataloaders`.
    """
    trainer = Trainer.load_checkpoint(path)
    trainer.run_training(*trainer.prepare_dataloaders(data)[:2], callbacks=callbacks, progress=progress)
    assert trainer.directory is not None
    stored = StoredRun(trainer.settings, trainer.directory.read_weights(), path)
    return Run(path, trainer.settings, restore_model(stored, trainer.device))


def evaluate_graphs(path: Path, data: Any = None, device: str = "auto") -> tuple[dict[str, float], int]:
    """The tester's metrics of a run on its test data, with the weights of its best epoch; and how many graphs these are.

    Args:
        data: a data set; None: that of the configuration.
        device: auto: that of the configuration.

    Raises:
        ConfigError: as `resume_graphs`; without a tester.
    """
    trainer = Trainer.load_checkpoint(path, None if device == "auto" else _moved(load_yaml(path / CONFIG_FILE), device))
    if trainer.tester is None:
        raise ConfigError(f"{path / CONFIG_FILE}: testing.tester is missing; there is nothing to test with")
    loader = trainer.prepare_dataloaders(data)[2]
    return _tested(trainer, loader), len(loader.dataset)


@dataclass(frozen=True)
class OutputReport:
    """Outputs of a network for S graphs.

    Attributes:
        columns: of predictions.csv, each (S,): `y`, if the graphs have one; of task 0 `task0`, or `task0_0`, `task0_1`, ... of
            several outputs, and so on.
    """

    columns: dict[str, NDArray[Any]]

    files: ClassVar[tuple[str, ...]] = (PREDICTIONS_FILE,)

    def lines(self) -> list[str]:
        """For the terminal."""
        return [f"outputs for {len(next(iter(self.columns.values())))} graphs"]

    def write(self, directory: Path) -> None:
        """Write predictions.csv."""
        write_atomically(directory / PREDICTIONS_FILE, as_csv(self.columns))


def predict_graph_run(stored: StoredRun, model: GraphLearner, data: Any) -> OutputReport:
    """Outputs of a run's network for the graphs of a file, read as the configuration says.

    Raises:
        ConfigError: for a run whose configuration names no data, for a file that cannot be read, and for graphs whose outputs
            are not rows of numbers.
    """
    config = stored.settings.model.config
    found = next((part for part in (config["data"], config["testing"].get("data")) if part), None)
    if found is None:
        raise ConfigError(
            f"{stored.path}: has seen data in memory; qsr.graph.Trainer.load_checkpoint(...).predict(loader) takes others"
        )
    settings = {**resolve_pyobject_tags(found, "data"), "files": [str(data)], "subset": None, "shuffle": False}
    dataset = GraphDataset(settings, stored.settings.train.seed)
    batches = loader(
        dataset, GraphLoaderHparams(batch_size=config["testing"]["batch_size"]), next(model.parameters()).device, False, 0
    )
    columns: dict[str, NDArray[Any]] = {}
    targets: list[Any] = [getattr(batch, "y", None) for batch in batches]
    if all(y is not None and y.dim() == 1 for y in targets):
        columns["y"] = torch.cat(targets).numpy()
    for task, values in outputs_of(model, batches).items():
        rows = values.reshape(len(values), -1)
        if len(rows) != len(dataset):
            raise ConfigError(
                f"task {task}: has outputs {tuple(values.shape)} for {len(dataset)} graphs; expected a row for each"
            )
        names = [f"task{task}"] if rows.shape[1] == 1 else [f"task{task}_{index}" for index in range(rows.shape[1])]
        columns |= {name: rows[:, index].numpy() for index, name in enumerate(names)}
    return OutputReport(columns)


def _tested(trainer: Trainer, loader: Any) -> dict[str, float]:
    table = trainer.run_test(loader)
    if not len(table):
        return {}
    return {name: float(value) for name, value in last_row(table).items() if np.ndim(value) == 0}


def _moved(config: dict[str, Any], device: str) -> dict[str, Any]:
    """The configuration with everything on another device."""
    places = [config["training"], config["validation"].get("validator"), config["testing"].get("tester")]
    for place in places:
        if isinstance(place, dict) and "device" in place:
            place["device"] = device
    return config
