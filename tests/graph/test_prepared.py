"""Graphs that are prepared and kept: side by side, with the functions of a user and the processes of a machine."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

from qsr.graph import GraphDataset, Trainer
from qsr.hparams import ConfigError
from tests.graph.graph_files import snapshots, with_density
from tests.graph.rings import config


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return snapshots(tmp_path_factory.mktemp("data") / "s.h5")


def test_files_of_a_user_stay_where_they_are(file: Path, tmp_path: Path) -> None:
    own = tmp_path / "processed" / "results" / "table.csv"
    own.parent.mkdir(parents=True)
    own.write_text("all that I have")
    (tmp_path / "processed" / "meta.json").write_text("mine, too")
    dataset = GraphDataset({"files": [str(file)], "pre_transform": with_density, "output": str(tmp_path)})
    assert len(dataset) == 60 and own.read_text() == "all that I have"
    assert (tmp_path / "processed" / "meta.json").read_text() == "mine, too"


def test_an_output_that_is_a_file_is_named(file: Path, tmp_path: Path) -> None:
    for place in ("table.csv", "processed"):
        (tmp_path / place).write_text("")
        output = tmp_path if place == "processed" else tmp_path / place
        with pytest.raises(ConfigError, match=rf"data\.output={output}: .*; expected a folder, or none yet"):
            GraphDataset({"files": [str(file)], "pre_transform": with_density, "output": str(output)})


@pytest.mark.slow
def test_three_data_sets_share_an_output(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every one of them is prepared once, and read by workers of its own, also by those that are started anew."""
    settings = config("<NONE>")
    for seed, name in enumerate(("training", "validation", "testing")):
        file = snapshots(tmp_path / f"{name}.h5", shots=2 + seed, seed=seed)
        settings[name]["data"] = {"files": [str(file)], "pre_transform": with_density, "output": str(tmp_path / "out")}
        settings[name] |= {"num_workers": 1, "shuffle": False}
    loaders = Trainer.from_config(settings).prepare_dataloaders()
    for loader in loaders:
        loader.multiprocessing_context = "spawn"
        here = list(loader.dataset)
        there = [graph for batch in loader for graph in batch.to_data_list()]
        assert [graph.noise.tolist() for graph in there] == [graph.noise.tolist() for graph in here]
    assert [len(loader.dataset) for loader in loaders] == [12, 18, 24]
    with caplog.at_level("INFO", logger="qsr"):
        Trainer.from_config(settings).prepare_dataloaders()
    assert "preparing" not in caplog.text


def test_a_worker_never_reads_other_graphs_than_those_of_its_data_set(file: Path, tmp_path: Path) -> None:
    settings = {"files": [str(file)], "output": str(tmp_path)}
    one, other = (GraphDataset({**settings, "pre_transform": found}) for found in (with_density, with_noise))
    assert one.chunks is not None and other.chunks is not None and one.chunks.folder != other.chunks.folder
    shutil.rmtree(one.chunks.folder)
    shutil.copytree(other.chunks.folder, one.chunks.folder)
    loader = DataLoader(one, num_workers=1, multiprocessing_context="spawn")
    with pytest.raises(ConfigError, match=r"data\.output: .* holds other graphs than when the data set was made"):
        next(iter(loader))


def with_noise(graph: Data) -> Data:
    """Numbers of three libraries."""
    graph.noise = torch.tensor([float(torch.rand(())), np.random.rand(), random.random()], dtype=torch.float64)
    return graph


def noisy_filter(graph: Data) -> bool:
    return np.random.rand() < 0.5


def test_numbers_of_any_library_follow_the_seed_whatever_the_processes(file: Path, tmp_path: Path) -> None:
    settings = {"files": [str(file)], "pre_filter": noisy_filter, "pre_transform": with_noise, "chunksize": 7}
    before = random.getstate(), np.random.get_state()[1].tolist()
    found = [
        [graph.noise.tolist() for graph in GraphDataset({**settings, "output": str(tmp_path / name), "n_processes": count}, seed)]
        for name, count, seed in (("a", 1, 3), ("b", 1, 3), ("c", 2, 3), ("d", 1, 4))
    ]
    assert found[0] == found[1] == found[2] != found[3] and 0 < len(found[0]) < 60
    assert len(np.unique(np.array(found[0]), axis=0)) == len(found[0]), "each sample has its own"
    assert before == (random.getstate(), np.random.get_state()[1].tolist())


class Counted:
    """A preparation that knows how often it was sent away."""

    sent: ClassVar[list[int]] = []

    def __call__(self, graph: Data) -> Data:
        return graph

    def __reduce__(self) -> Any:
        self.sent.append(1)
        return Counted, ()


@pytest.mark.slow
def test_what_processes_need_is_sent_to_each_once(file: Path, tmp_path: Path) -> None:
    Counted.sent.clear()
    settings = {"files": [str(file)], "pre_transform": Counted(), "output": str(tmp_path), "chunksize": 1, "n_processes": 2}
    assert len(GraphDataset(settings)) == 60 and len(Counted.sent) < 10


SCRIPT = """
from qsr.graph import GraphDataset
from tests.graph.graph_files import with_density

dataset = GraphDataset({"files": [%r], "output": %r, "pre_transform": with_density, "n_processes": 2, "chunksize": 20})
print(len(dataset))
"""


def test_a_script_without_a_guard_is_told_so(file: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT % (str(file), str(tmp_path / "out")))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    result = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    last = result.stderr.rstrip().splitlines()[-1]
    assert result.returncode == 1 and last.startswith("qsr.hparams.base.ConfigError: data.n_processes=2: a process ended"), last
    assert '`if __name__ == "__main__":`' in last
    guarded = SCRIPT.replace("dataset =", 'if __name__ == "__main__":\n    dataset =').replace("print", "    print")
    script.write_text(guarded % (str(file), str(tmp_path / "out")))
    result = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    assert result.stdout == "60\n" and not result.stderr
