"""Every reader of files: what it is called with, valid files to begin from, and what it must do with any other."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
import torch

import qsr
from qsr.hparams.files import read_yaml
from qsr.hparams.overrides import read_tree_of
from qsr.hparams.tags import load_yaml
from qsr.jobs.foreign import read_measured
from qsr.jobs.netcdf import write_netcdf
from qsr.qembed.text import TextSource
from qsr.qembed.trainer_file import read_trainer_file, write_trainer_file
from qsr.runs import RunDirectory, read_archive
from qsr.runs.history import JOURNAL_FILE, History
from qsr.runs.load import read_run, restore_model
from qsr.snapshots import SCHEMA, read_snapshots, write_snapshots
from qsr.training.columns import is_snapshot_file, read_columns
from qsr.training.files import read_bytes
from tests.fuzz.reader import ROOT as ROOT
from tests.fuzz.reader import Reader as Reader
from tests.fuzz.reader import outcome as outcome
from tests.fuzz.reader import snapshots_of as snapshots_of
from tests.fuzz.reader import written
from tests.fuzz.run_readers import RUN_READERS

# --- valid files --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def small_run() -> dict[str, bytes]:
    """The files of a run of two steps on 2 x 2 sites."""
    with TemporaryDirectory() as folder:
        run = qsr.train(
            hamiltonian=qsr.Rydberg(Lx=2, Ly=2),
            model=qsr.PTF(patch="2x1", Nh=4, nhead=2, num_layers=1),
            train={"K": 8, "steps": 2, "dir": folder},
        )
        files = [file for file in Path(run.path).rglob("*") if file.is_file()]
        # Where it was made is nobody's business: what is found is kept in tests/fuzz/corpus.
        return {str(file.relative_to(run.path)): file.read_bytes().replace(folder.encode(), b"runs") for file in files}


def _run_file(name: str) -> bytes:
    return small_run()[name]


def _state() -> str:
    return next(name for name in small_run() if name.endswith("state.pt"))


def _settings() -> list[bytes]:
    demo = (ROOT / "demos/RNN/settings.json").read_bytes()
    originals = [folder / "settings.json" for folder in sorted((ROOT / "tests/data/nnqsr").iterdir())]
    return [_run_file("settings.json"), demo, *(file.read_bytes() for file in originals if file.is_file())]


def _small_history() -> list[bytes]:
    def write(path: Path) -> None:
        history = History(path.parent)
        for step in range(3):
            history.append("steps", {"step": step, "energy": -1.0})
        history.append("epochs", {"epoch": 0, "loss": 1.0})
        history.flush()

    return [written(write, "history.h5")]


def _journal() -> list[bytes]:
    def write(path: Path) -> None:
        history = History(path.parent)
        for step in range(3):
            history.append("steps", {"step": step, "energy": -1.0 + step})
        history.close()

    return [written(write, JOURNAL_FILE)]


def _snapshots() -> list[bytes]:
    return [written(lambda path: write_snapshots(path, snapshots_of()), "s.h5")]


def _table_h5() -> list[bytes]:
    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file["x"] = np.linspace(0, 1, 5)
            file["name"] = np.array(["a", "b", "c", "d", "e"], dtype=h5py.string_dtype())

    return [written(write, "t.h5"), *_snapshots()]


def _npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _npz() -> list[bytes]:
    stream = io.BytesIO()
    np.savez_compressed(stream, configs=snapshots_of().configs, positions=snapshots_of().positions)
    return [stream.getvalue()]


def _archive() -> list[bytes]:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = torch.nn.Linear(2, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.lin(x)  # type: ignore[no-any-return]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [written(lambda path: torch.jit.script(Net()).save(str(path)), "T")]


def _trainer_file() -> list[bytes]:
    state = {"weights": {"a": torch.ones(3)}, "step": 3, "names": ["x", ("y", 1.5)], "flag": None}
    return [written(lambda path: write_trainer_file(path, state), "t.pt")]


def _linear() -> list[bytes]:
    from qsr.graph.blocks import LinearSequential

    return [written(lambda path: LinearSequential([[2, 3], [3, 1]], [torch.nn.ReLU, torch.nn.ReLU]).save(path), "l.safetensors")]


def _measured(*names: str) -> list[bytes]:
    return [(ROOT / "tests/data/measured" / name).read_bytes() for name in names]


def _parquet() -> list[bytes]:
    from pyarrow import parquet, table

    columns = {"x": np.linspace(0, 1, 5), "name": ["a", "b", None, "d", "e"], "many": [[1], [2, 3], [], None, [4]]}
    return [written(partial(parquet.write_table, table({name: columns[name]})), "t.parquet") for name in columns]


@lru_cache(maxsize=1)
def _zarr() -> dict[str, bytes]:
    """The files of a zarr store of snapshots."""
    import zarr

    with TemporaryDirectory() as folder:
        group = zarr.open_group(folder, mode="w")
        group.attrs.update({"schema": SCHEMA, "Lx": 2, "Ly": 2})
        group.create_array("configs", data=snapshots_of().configs)
        group.create_array("positions", data=snapshots_of().positions)
        return {str(file.relative_to(folder)): file.read_bytes() for file in Path(folder).rglob("*") if file.is_file()}


@lru_cache(maxsize=1)
def _cache() -> dict[str, bytes]:
    """A chunk of prepared graphs, and what is recorded of it."""
    from torch_geometric.data import Data

    from qsr.graph.cache import write_chunk, write_meta

    with TemporaryDirectory() as folder:
        write_chunk(Path(folder, "chunk-000000.safetensors"), [Data(x=torch.ones(2, 1), name="a")] * 2, [0, 1])
        write_meta(Path(folder), {"schema": "x"})
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


# --- readers ------------------------------------------------------------------------------------------------------------


def _load_run(file: Path) -> Any:
    return restore_model(read_run(file.parent)).sample(2, torch.Generator().manual_seed(0))


def _read_history(file: Path) -> None:
    for group in ("steps", "epochs"):
        History(file.parent).read(group)


def _graph_store(file: Path) -> None:
    from qsr.graph.data import GraphDataHparams, GraphDataset

    data = GraphDataset(GraphDataHparams(files=(str(file),)), 0)
    if len(data):
        data[0]
        data[len(data) - 1]
    if data.has_column("delta"):
        data.column("delta")


def _zarr_store(file: Path) -> None:
    _graph_store(next(parent for parent in file.parents if parent.name == "s.zarr"))


def _graph_cache(file: Path) -> Any:
    from qsr.graph.cache import Chunks

    chunks = Chunks(file.parent, {"schema": "x"})
    return [chunks[number] for number in range(len(chunks.index))]


def _in_zarr() -> dict[str, bytes]:
    return {f"s.zarr/{name}": content for name, content in _zarr().items()}


def _sweeps(file: Path) -> Any:
    from qsr.jobs.graph_runs import graph_configs

    return graph_configs(file, ["torch.nn.functional"])


def _search(file: Path) -> Any:
    import optuna

    from qsr.hparams.search import build_search_space

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return build_search_space(file, optuna.create_study().ask())


@lru_cache(maxsize=1)
def _original_run() -> dict[str, bytes]:
    folder = ROOT / "tests/data/nnqsr/rnn_elman_4x4_patch1"
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def _graph_config(file: Path) -> Any:
    from qsr.graph.config import GraphConfig

    return GraphConfig(**load_yaml(file, allow_import=["torch.nn.functional"]))


def _linear_sequential(file: Path) -> Any:
    from qsr.graph.blocks import LinearSequential

    return LinearSequential.load(file)


def _run_config(file: Path) -> Any:
    return qsr.hparams.RunSettings.from_tree(read_tree_of(file.name, file.parent, []))


def _positions(file: Path) -> Any:
    return qsr.Rydberg(positions=str(file), V=7.0)


YAML = b"""train: {L: 16, K: 32, lr: 1e-3}
model: {type: ptf, patch: 2x2, Nh: 8, nhead: 2}
extra: {x: &b {z: 1}, <<: *b, y: '${train.L}'}
"""
TAGS = b"""a: !sweep {values: [1, 2]}
b: !range {start: 0, stop: 3, step: 1}
c: !pyobject torch.nn.ReLU
d: !random_uniform {start: 0.1, stop: 1, log: true}
e: !reference {target: a}
"""
GRAPH = b"""name: a
training: {batch_size: 4, num_epochs: 2, optimizer_type: !pyobject torch.optim.Adam, optimizer_kwargs: {lr: 0.01}}
data: {files: [x.h5], split: [0.6, 0.2, 0.2]}
model: {type: !pyobject torch.nn.Linear, args: [2, 3]}
validation: {batch_size: 4}
testing: {batch_size: 4}
criterion: !pyobject torch.nn.functional.mse_loss
"""
PAULI = [b"0.5 X0 Z3 + 1.2 Y1 Y2\n", b"XIZI 0.5\nZZII -1e-3 # a comment\n", b"0.5 [X0 Z3] +\n(0.25+0j) [Y1 Y2]\n"]
CSV = [b"x,y,label\n1,2.5,a\n3,,b\n", b"text,label\na b c,1\nd e,2\n"]


def _foreign(suffix: str, kind: str, seeds: Callable[[], list[bytes]]) -> Reader:
    return Reader(f"m.{suffix}", kind, read_measured, seeds)


READERS: dict[str, Reader] = {
    "settings": Reader("settings.json", "json", lambda file: RunDirectory(file.parent).read_settings(), _settings),
    "original_settings": Reader("settings.json", "json", lambda file: read_run(file.parent).settings, _settings, small_run),
    "run": Reader("settings.json", "json", _load_run, lambda: [_run_file("settings.json")], small_run, heavy=True),
    "weights": Reader(
        "weights.safetensors", "safetensors", _load_run, lambda: [_run_file("weights.safetensors")], small_run, heavy=True
    ),
    "archive": Reader("T", "zip", read_archive, _archive),
    "state": Reader(
        "checkpoint/1/state.pt",
        "zip",
        lambda file: RunDirectory(file.parents[2]).latest_checkpoint(),
        lambda: [_run_file(_state())],
        lambda: {"checkpoint/1/weights.safetensors": _run_file("weights.safetensors")},
    ),
    "history": Reader("history.h5", "hdf5", _read_history, _small_history),
    "journal": Reader(JOURNAL_FILE, "bytes", _read_history, _journal),
    "snapshots": Reader("s.h5", "hdf5", read_snapshots, _snapshots),
    "columns_h5": Reader("t.h5", "hdf5", lambda file: (read_columns(file), is_snapshot_file(file)), _table_h5),
    "parquet": Reader("t.parquet", "bytes", read_columns, _parquet),
    "zarr": Reader("s.zarr/zarr.json", "json", _zarr_store, lambda: [_zarr()["zarr.json"]], _in_zarr, heavy=True),
    "zarr_array": Reader(
        "s.zarr/configs/zarr.json", "json", _zarr_store, lambda: [_zarr()["configs/zarr.json"]], _in_zarr, heavy=True
    ),
    "graph_cache": Reader(
        "chunk-000000.safetensors", "safetensors", _graph_cache, lambda: [_cache()["chunk-000000.safetensors"]], _cache
    ),
    "original_weights": Reader(
        "weights.safetensors",
        "safetensors",
        _load_run,
        lambda: [_original_run()["weights.safetensors"]],
        _original_run,
        heavy=True,
    ),
    "sweeps": Reader("g.yaml", "yaml", _sweeps, lambda: [GRAPH.replace(b"0.01", b"!sweep {values: [1, 2]}"), GRAPH]),
    "search": Reader("c.yaml", "yaml", _search, lambda: [TAGS]),
    "columns_csv": Reader("t.csv", "text", read_columns, lambda: CSV),
    "graph_store": Reader("s.h5", "hdf5", _graph_store, _snapshots, heavy=True),
    "graph_config": Reader("g.yaml", "yaml", _graph_config, lambda: [GRAPH]),
    "linear": Reader("l.safetensors", "safetensors", _linear_sequential, _linear),
    "csv": _foreign("csv", "text", lambda: [b"a,b\n0,1\n1,1\n", b"0110,12\n1111,3\n"]),
    "txt": _foreign("txt", "text", lambda: [b"0110 12\n1111 3\n", b"0 1 1\n1 1 0\n"]),
    "npy": _foreign("npy", "npy", lambda: [_npy(snapshots_of().configs), _npy(snapshots_of().configs.astype(float))]),
    "npz": _foreign("npz", "zip", _npz),
    "netcdf": _foreign("nc", "bytes", lambda: [written(lambda path: write_netcdf(path, snapshots_of()), "s.nc")]),
    "json": _foreign("json", "json", lambda: _measured("pulser_counts.json", "aquila.json", "bloqade_emulated.json")),
    "positions_json": Reader("p.json", "json", _positions, lambda: _measured("pulser_register.json", "ahs_program.json")),
    "positions_npy": Reader("p.npy", "npy", _positions, lambda: [_npy(snapshots_of().positions)]),
    "positions_txt": Reader("p.txt", "text", _positions, lambda: [b"0 0\n0 1.5\n1 0\n"]),
    "site_values": Reader(
        "v.txt", "text", lambda file: qsr.Rydberg(Lx=1, Ly=3, delta=str(file)), lambda: [b"0.5 1 2e-1\n", b"1,2,3"]
    ),
    "pauli": Reader("h.txt", "text", lambda file: qsr.Pauli(file=str(file)).shape, lambda: PAULI),
    "yaml": Reader("c.yaml", "yaml", read_yaml, lambda: [YAML]),
    "run_config": Reader("c.yaml", "yaml", _run_config, lambda: [YAML]),
    "tags": Reader("c.yaml", "yaml", load_yaml, lambda: [TAGS]),
    "trainer_file": Reader("t.pt", "zip", read_trainer_file, _trainer_file),
    "text": Reader("t.txt", "text", lambda file: TextSource(str(file), read_bytes(file)), lambda: [b"a b c\nd e\n"]),
    "text_csv": Reader("t.csv", "text", lambda file: TextSource(str(file), read_bytes(file)), lambda: CSV),
}
READERS |= RUN_READERS
