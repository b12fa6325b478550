"""What goes on with whole runs: `qsr train --resume`, `info`, `plot`, finetuning, runs on tables, sequences and graphs."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import qsr
from qsr.hparams import ConfigError, imports_allowed
from qsr.jobs.fit import evaluate_on_data
from qsr.snapshots import write_snapshots
from qsr.training import Callback, RunFailed
from tests.fuzz.reader import Reader, snapshots_of, written


class _Cut(Exception):
    """What ends a run."""


class _Cutting(Callback):
    """Ends a run as a crash does, at its third step; rows of the history go on beyond the checkpoint."""

    def on_step_end(self, trainer: Any, metrics: Any) -> None:
        if trainer.step == 3:
            raise _Cut


class _Begun(Callback):
    """Ends a run that goes on before its next step: how long it then takes is the wish of who goes on with it."""

    def on_fit_start(self, trainer: Any) -> None:
        raise _Cut


def files_of(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@lru_cache(maxsize=1)
def cut_run() -> dict[str, bytes]:
    """The files of a run on 2 x 2 sites that was killed after three of four steps; its last checkpoint is that of step 2."""
    with TemporaryDirectory() as folder, in_folder(folder):
        with suppress(_Cut):
            qsr.train(
                hamiltonian=qsr.Rydberg(Lx=2, Ly=2),
                model=qsr.PTF(patch="2x1", Nh=4, nhead=2, num_layers=1),
                train={"K": 8, "steps": 4, "dir": "runs", "device": "cpu"},
                checkpoint={"every_n_steps": 2},
                logger={"kind": "csv"},
                callbacks=[_Cutting()],
            )
        (path,) = Path("runs").rglob("settings.json")
        return files_of(path.parent)


@lru_cache(maxsize=1)
def table_run() -> dict[str, bytes]:
    """A Hilbert-space model on a table that lies beside it."""
    return _on_data("table.csv", table(), {"type": "hsm", "hilbert_space_dims": 2}, {"targets": "y"})


@lru_cache(maxsize=1)
def sequence_run() -> dict[str, bytes]:
    """A network on a quantum embedding that tells snapshots apart."""
    model = {"type": "qembed", "embedding_dim": 4, "num_states": 2, "patch": "2x1"}
    return _on_data("s.h5", snapshot_file(40), model, {})


@lru_cache(maxsize=1)
def lattice_run() -> dict[str, bytes]:
    """A graph network that tells snapshots apart."""
    return _on_data("s.h5", snapshot_file(40), {"type": "graph", "width": 4, "num_layers": 1}, {})


@lru_cache(maxsize=1)
def likelihood_run() -> dict[str, bytes]:
    """A sampler on snapshots."""
    return _on_data("s.h5", snapshot_file(40), {"type": "ptf", "patch": "2x1", "Nh": 4, "nhead": 2, "num_layers": 1}, {})


@lru_cache(maxsize=1)
def graph_run() -> dict[str, bytes]:
    """A run of the graph Trainer."""
    with TemporaryDirectory() as folder, in_folder(folder):
        Path("s.h5").write_bytes(snapshot_file(40))
        Path("config.yaml").write_text(GRAPH_RUN)
        trainer = qsr.Trainer("config.yaml", allow_import=ALLOWED)
        with suppress(_Cut):
            trainer.run_training(*trainer.prepare_dataloaders()[:2], callbacks=[_Cutting()])
        assert trainer.data_path is not None
        return {**files_of(trainer.data_path), "s.h5": snapshot_file(40)}


def criterion(outputs: Any, data: Any) -> Any:
    return (outputs[0] - data.x.mean()).square().mean()


ALLOWED = ("tests.fuzz.run_readers",)
GRAPH_RUN = """name: a
training: {batch_size: 4, num_epochs: 3, optimizer_type: adam, optimizer_kwargs: {lr: 0.01}, path: runs, device: cpu}
data: {files: [s.h5], split: [0.6, 0.2, 0.2]}
model:
  encoder_type: !pyobject qsr.graph.Sequential
  encoder_kwargs: {layers: [[!pyobject torch.nn.Linear, [1, 3], {}, x]], forward_signature: "x, edge_index, batch"}
  pooling_layers: [[mean_pool]]
  downstream_tasks: [[!pyobject qsr.graph.LinearSequential, null, {dims: [[3, 1]], activations: [!pyobject torch.nn.Identity]}]]
validation: {batch_size: 16}
testing: {batch_size: 16, tester: {}}
criterion: !pyobject tests.fuzz.run_readers.criterion
"""


def _on_data(name: str, content: bytes, model: dict[str, Any], data: dict[str, Any]) -> dict[str, bytes]:
    """Killed after its third step; the data lie beside the run's files and are named without a folder."""
    with TemporaryDirectory() as folder, in_folder(folder):
        Path(name).write_bytes(content)
        of_sampler = model["type"] == "ptf"
        problem = {"type": "rydberg", "Lx": 2, "Ly": 2} if of_sampler else None
        settings = {"K": 8, "steps": 6} if of_sampler else {"max_epochs": 2}
        section = {"file": name, **({} if of_sampler else {"loader": {"batch_size": 16}}), **data}
        with suppress(_Cut):
            settings |= {"dir": "runs", "device": "cpu"}
            qsr.train(problem, model, settings, data=section, checkpoint={"every_n_steps": 2}, callbacks=[_Cutting()])
        (path,) = Path("runs").rglob("settings.json")
        return {**files_of(path.parent), name: content}


@contextmanager
def in_folder(folder: str | Path) -> Iterator[None]:
    """Relative names are meant from here."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def table() -> bytes:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["a", "b", "y"])
    writer.writerows(np.random.default_rng(0).normal(size=(40, 3)).round(3).tolist())
    return stream.getvalue().encode()


def snapshot_file(count: int) -> bytes:
    drawn = replace(snapshots_of(count=count), params={"delta": np.ones(count)})
    return written(lambda path: write_snapshots(path, drawn), "s.h5")


# --- what is done with them ---------------------------------------------------------------------------------------------


def _in_copy(use: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """For readers that write into the run, or name files beside it: each gets a copy of its own, and stands in it."""

    def read(file: Path) -> Any:
        with TemporaryDirectory() as folder:
            root = next(parent for parent in file.parents if (parent / "ROOT").exists())
            shutil.copytree(root, folder, dirs_exist_ok=True)
            with in_folder(folder), suppress(_Cut):
                try:
                    return use(Path("."))
                except RunFailed as error:
                    raise ConfigError(str(error)) from None

    return read


def _resume(run: Path) -> Any:
    with imports_allowed(ALLOWED):
        return qsr.resume(run)


def _begin(run: Path) -> Any:
    with imports_allowed(ALLOWED):
        return qsr.resume(run, callbacks=[_Begun()])


def _look(run: Path) -> Any:
    return qsr.info(run).lines()


def _draw(run: Path) -> Any:
    return qsr.plot(run)


def _evaluate(run: Path) -> Any:
    with imports_allowed(ALLOWED):
        return evaluate_on_data(run).lines()


def _sample(run: Path) -> Any:
    return qsr.evaluate(run, 4, 4, write=True).lines()


def _further(run: Path) -> Any:
    return qsr.finetune(run, {"steps": 1, "dir": "runs", "K": 2})


def _reader(file: str, kind: str, use: Callable[[Path], Any], run: Callable[[], Mapping[str, bytes]], found: str = "") -> Reader:
    """A file of a run mutated, with the others around it; `found`: what it is called in the run that is the seed."""

    def name() -> str:
        return found or next(name for name in sorted(run(), reverse=True) if re.fullmatch(file, name))

    def around() -> dict[str, bytes]:
        """Without other checkpoints, to which a run goes back from a damaged one."""
        step = re.match(r"checkpoint/\d+/", name())
        kept = [file for file in run() if step is None or not file.startswith("checkpoint/") or file.startswith(step[0])]
        return {**{file: run()[file] for file in kept}, "ROOT": b""}

    return Reader(name, kind, _in_copy(use), lambda: [run()[name()]], around, heavy=True)


STATE, WEIGHTS = r"checkpoint/\d+/state.pt", r"checkpoint/\d+/weights.safetensors"
RUN_READERS: dict[str, Reader] = {
    "resume_settings": _reader("settings.json", "json", _begin, cut_run),
    "resume_state": _reader(STATE, "zip", _resume, cut_run),
    "resume_weights": _reader(WEIGHTS, "safetensors", _resume, cut_run),
    "resume_history": _reader("history.h5", "hdf5", _resume, cut_run),
    "resume_journal": _reader("history.journal", "bytes", _resume, cut_run),
    "resume_metrics": _reader("metrics.csv", "text", _resume, cut_run),
    "finetune_settings": _reader("settings.json", "json", _further, cut_run),
    "evaluate_settings": _reader("settings.json", "json", _sample, cut_run),
    "info_settings": _reader("settings.json", "json", _look, cut_run),
    "info_history": _reader("history.h5", "hdf5", _look, cut_run),
    "plot_history": _reader("history.h5", "hdf5", _draw, cut_run),
    "table_settings": _reader("settings.json", "json", _begin, table_run),
    "table_state": _reader(STATE, "zip", _resume, table_run),
    "table_data": _reader("table.csv", "text", _evaluate, table_run),
    "table_plot": _reader("history.h5", "hdf5", _draw, table_run),
    "sequence_settings": _reader("settings.json", "json", _begin, sequence_run),
    "sequence_state": _reader(STATE, "zip", _resume, sequence_run),
    "sequence_data": _reader("s.h5", "hdf5", _evaluate, sequence_run),
    "lattice_settings": _reader("settings.json", "json", _begin, lattice_run),
    "lattice_data": _reader("s.h5", "hdf5", _evaluate, lattice_run),
    "likelihood_settings": _reader("settings.json", "json", _begin, likelihood_run),
    "likelihood_data": _reader("s.h5", "hdf5", _resume, likelihood_run),
    "graph_run_settings": _reader("settings.json", "json", _begin, graph_run),
    "graph_run_config": _reader("config.yaml", "yaml", _begin, graph_run),
    "graph_run_state": _reader(STATE, "zip", _resume, graph_run),
}
