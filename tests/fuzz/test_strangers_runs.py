"""Commands on the run directories of strangers: one line for what is wrong, nothing outside the directory is touched."""

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import qsr
from qsr.hparams import ConfigError
from qsr.hparams.hdf5 import check_heaps
from qsr.jobs.drawing import plain
from qsr.runs import RunDirectory
from qsr.training.loggers import CsvLogger
from qsr.training.settings import CheckpointHparams
from qsr.training.stopping import BestWeights, weights_name
from tests.commands import run_line
from tests.fuzz.readers import READERS, small_run
from tests.fuzz.run_readers import cut_run

STATE = "checkpoint/2/state.pt"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that was killed after three of four steps, and something precious beside it."""
    (tmp_path / "home" / "1").mkdir(parents=True)
    (tmp_path / "home" / "precious").write_text("precious")
    return laid_out(tmp_path / "run", cut_run())


def laid_out(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def refused(line: str, status: int = 2) -> str:
    """The one line that a command says, after what it logs of the run that it goes on with."""
    result = run_line(line)
    assert result.returncode == status and "Traceback" not in result.stderr, result.stderr
    lines = [line for line in result.stderr.splitlines() if not line.startswith("resuming ")]
    assert len(lines) == 1 and lines[0].startswith("Error: "), result.stderr
    return lines[0]


def edited(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    tree = json.loads((run / "settings.json").read_text())
    change(tree)
    (run / "settings.json").write_text(json.dumps(tree))


def restated(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    state = torch.load(run / STATE, weights_only=True)
    change(state)
    torch.save(state, run / STATE)


def test_the_run_itself_goes_on(run: Path) -> None:
    result = run_line(f"qsr train --resume {run}")
    assert result.returncode == 0 and "resuming" in result.stderr, result.stderr
    assert (run / "weights.safetensors").is_file()


@pytest.mark.parametrize("name", ["output.txt", "history.journal", ".lock", "checkpoint"])
def test_links_out_of_a_run_are_not_written_through(run: Path, name: str) -> None:
    home = run.parent / "home"
    shutil.rmtree(run / name) if name == "checkpoint" else (run / name).unlink()
    (run / name).symlink_to(home if name == "checkpoint" else home / "precious")
    kind = "folder" if name == "checkpoint" else "file"
    assert f"run/{name}: is a link, expected a {kind} of the run itself" in refused(f"qsr train --resume {run}")
    assert (home / "precious").read_text() == "precious" and sorted(os.listdir(home)) == ["1", "precious"]


def test_pipes_and_folders_in_a_run_are_not_waited_for(run: Path) -> None:
    (run / "output.txt").unlink()
    os.mkfifo(run / "output.txt")
    assert "output.txt: is a pipe or a device, expected a file" in refused(f"qsr train --resume {run}")
    (run / "output.txt").unlink()
    (run / "output.txt").mkdir()
    assert "output.txt: is a folder, expected a file" in refused(f"qsr train --resume {run}")
    (run / "settings.json").unlink()
    os.mkfifo(run / "settings.json")
    assert "a pipe or a device" in refused(f"qsr info {run}")


def test_only_checkpoints_are_removed_from_their_folder(run: Path) -> None:
    (run / "checkpoint" / "notes").mkdir()
    (run / "checkpoint" / "notes.txt").write_text("mine")
    (run / "checkpoint" / "1").symlink_to(run.parent / "home")
    (run / ".settings.0123abcd.tmp.json").mkdir()
    result = run_line(f"qsr train --resume {run}")
    assert result.returncode == 0, result.stderr
    assert sorted(os.listdir(run / "checkpoint")) == ["2", "4", "notes", "notes.txt"]
    assert (run.parent / "home" / "precious").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("update_rule"), "checkpoint 2: no state of a run, it has no update_rule"),
        (lambda state: state.update(step=3), "step=3: expected 2, the name of its folder"),
        (lambda state: state.update(rewinds=-(2**62)), "rewinds=-4611686018427387904: must be a whole number, at least 0"),
        (lambda state: state.update(stage=7), "stage=7: the run has 1"),
        (lambda state: state.update(callbacks=[]), "callbacks: expected a mapping, found list of 0"),
        (lambda state: state["update_rule"].update(rate_factor="x"), "update_rule.rate_factor: expected a number, found str"),
        (lambda state: state["objective"].update(num_flips=2**40), "flips=1099511627776"),
        (lambda state: state["callbacks"]["HistoryWriter"].update(steps=[1]), "HistoryWriter.steps: expected a number"),
        (lambda state: state["update_rule"]["optimizer"]["state"][0].pop("exp_avg"), "cannot be gone on from (KeyError"),
        (
            lambda state: state["update_rule"]["optimizer"]["state"].update({0: {"step": torch.ones(())}}),
            "cannot be gone on from",
        ),
        (lambda state: state["update_rule"]["scheduler"].update(total_steps=9), "the checkpoint has total_steps=9"),
    ],
)
def test_states_that_are_not_those_of_the_run(run: Path, change: Callable[[dict[str, Any]], Any], said: str) -> None:
    restated(run, change)
    assert said in refused(f"qsr train --resume {run}").replace("  ", " ")


def test_settings_whose_steps_were_changed(run: Path) -> None:
    edited(run, lambda tree: tree["train"].update(steps=40))
    assert "a run keeps the steps that it was begun with" in refused(f"qsr train --resume {run}")


@pytest.mark.parametrize("command", ["train --resume", "finetune", "load"])
def test_settings_of_a_far_larger_model_than_the_weights(run: Path, command: str) -> None:
    edited(run, lambda tree: tree["model"].update(Nh=2**15, num_layers=1000))
    assert "its settings are of a far larger model" in refused(f"qsr {command} {run}")


def test_weights_of_another_model_in_a_checkpoint(run: Path) -> None:
    edited(run, lambda tree: tree["model"].update(Nh=8))
    assert "checkpoint 2: the weights do not fit the model" in refused(f"qsr train --resume {run}")


def test_files_of_other_folders_are_not_removed_with_old_weights(tmp_path: Path) -> None:
    keeper = BestWeights(CheckpointHparams())
    keeper.load_state_dict({"kept": [[1.0, "0003.safetensors"]]})
    for name in ("../../precious", "/etc/passwd", "a/b.safetensors", "precious"):
        with pytest.raises(ConfigError, match="must be the name of a safetensors file"):
            keeper.load_state_dict({"kept": [[1.0, name]]})
    with pytest.raises(ConfigError, match="longer than files have"):
        weights_name("{epoch:09999999999d}", 1, 1, {})


@pytest.mark.parametrize("text", ["step,energy\n1\n", "energy\n1\n", "step\nx\n", "step\n1\n\xff", "step\n" + "9" * 5000 + "\n"])
def test_a_metrics_file_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.csv").write_bytes(text.encode("latin1"))
    with pytest.raises(ConfigError, match=r"metrics\.csv"):
        CsvLogger(tmp_path / "metrics.csv", resume=True)


def test_control_characters_and_markup_of_a_run(tmp_path: Path) -> None:
    run = laid_out(tmp_path / "run", small_run())
    odd = "\x1b]0;title\x07<script>alert(1)</script>$\\frac{"
    edited(run, lambda tree: tree.update(versions={odd: odd, "number": 3}, extra={odd: odd}))
    edited(run, lambda tree: tree["train"].update(dir=odd))
    said = run_line(f"qsr info {run}").stdout
    assert "<script>" in said and all(line.isprintable() for line in said.splitlines())
    assert run_line(f"qsr report {run} --samples 16").returncode == 0
    page = (run / "report.html").read_text()
    assert "&lt;script&gt;" in page and "<script" not in page and "\x1b" not in page
    assert plain(odd) == r" ]0;title <script>alert(1)</script>\$\frac{"


def test_couplings_that_cannot_be_diagonalised(run: Path) -> None:
    edited(run, lambda tree: tree["hamiltonian"].update(V=1e308))
    assert "hamiltonian: cannot be diagonalised" in refused(f"qsr plot {run}")


def test_a_history_that_pictures_cannot_show(run: Path) -> None:
    def column(name: str, values: Any) -> None:
        with h5py.File(run / "history.h5", "r+") as file:
            if name in file["steps"]:
                del file[f"steps/{name}"]
            if values is not None:
                file[f"steps/{name}"] = np.array(values)
                file[f"steps/{name}"].attrs["unit"] = ""

    (run / "history.journal").unlink()
    column("energy", [np.nan, np.inf])
    assert run_line(f"qsr plot {run}").returncode == 0
    column("variance", None)
    assert "steps: has no column 'variance'" in refused(f"qsr plot {run}")
    assert "steps: has no column 'variance'" in refused(f"qsr info {run}")


class _Payload:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("place", ["compressor", "filters"])
def test_a_zarr_store_whose_codec_would_run_code(tmp_path: Path, place: str) -> None:
    codec = {"id": "pickle", "protocol": 5}
    array = {"zarr_format": 2, "shape": [6, 4], "chunks": [6, 4], "dtype": "|u1", "fill_value": 0, "order": "C"}
    array |= {"compressor": None, "filters": None, place: codec if place == "compressor" else [codec]}
    files = {
        ".zgroup": b'{"zarr_format": 2}',
        ".zattrs": json.dumps({"schema": "qsr-snapshots/1"}).encode(),
        "configs/.zarray": json.dumps(array).encode(),
        "configs/0.0": pickle.dumps(_Payload(tmp_path / "ran")),
    }
    store = laid_out(tmp_path / "s.zarr", files)
    with pytest.raises(ConfigError, match=r"configs/\.zarray: has the codec 'pickle'"):
        READERS["graph_store"].read(store)
    assert not (tmp_path / "ran").exists()


def test_a_zarr_store_with_a_pipe_a_link_or_many_chunks(tmp_path: Path) -> None:
    reader = READERS["zarr_array"]
    file = reader.lay_out(tmp_path)
    os.mkfifo(file)
    with pytest.raises(ConfigError, match="is a link, a pipe or a device"):
        reader.read(file)
    file.unlink()
    file.symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="is a link, a pipe or a device"):
        reader.read(file)
    tree = json.loads(reader.seeds()[0])
    file.unlink()
    file.write_text(json.dumps({**tree, "shape": [10**6, 4]}))
    with pytest.raises(ConfigError, match="claims 166667 chunks"):
        reader.read(file)
    file.write_text(json.dumps({**tree, "shape": [2**40, 4]}))
    with pytest.raises(ConfigError, match="claims 4398046511104 bytes"):
        reader.read(file)


@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_text_of_an_hdf5_file_that_claims_gigabytes(tmp_path: Path, version: str) -> None:
    """libhdf5 would take the memory before it looks where the text lies."""
    path = tmp_path / "t.h5"
    with h5py.File(path, "w", libver=version) as file:
        file["x"] = np.arange(5.0)
        file.attrs["schema"] = "a text"
    check_heaps(path)
    raw = bytearray(path.read_bytes())
    reference = raw.index(struct.pack("<IQI", len("a text"), raw.index(b"GCOL"), 1))
    raw[reference : reference + 4] = struct.pack("<I", 2**32 - 1)
    path.write_bytes(raw)
    with pytest.raises(ConfigError, match="its texts claim 4294967295 bytes"):
        check_heaps(path)
    with h5py.File(path, "w", libver=version) as file:
        file.create_dataset("name", data=["a", "b"], dtype=h5py.string_dtype())
        place = file["name"].id.get_offset()
    READERS["columns_h5"].read(path)
    raw = bytearray(path.read_bytes())
    raw[place : place + 12] = struct.pack("<IQ", 2**32 - 1, 2**60)
    path.write_bytes(raw)
    with pytest.raises(ConfigError, match="its texts claim 4294967296 bytes"):
        READERS["columns_h5"].read(path)


def test_a_section_with_numbers_for_names() -> None:
    from qsr.graph.config import GraphConfig

    with pytest.raises(ConfigError, match=r"config\.training: has the key 2; names of settings are text"):
        GraphConfig(training={"batch_size": 4, 2: None}, model={}, validation={}, testing={}, criterion=len)


def test_a_directory_is_read_by_its_own_lock(run: Path) -> None:
    """Two writers are still kept apart: what is new here must not have broken it."""
    with RunDirectory(run).lock():
        assert "is being written by another process" in refused(f"qsr train --resume {run}")
    assert qsr.info(run).state.startswith("interrupted")
