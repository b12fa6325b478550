"""Configurations of the graph trainer from the command line: train, load, resume, sweep, and what is said of mistakes."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import qsr
from qsr.jobs import make_snapshots
from qsr.runs import RunDirectory, same_history
from tests.commands import run_qsr
from tests.pages import Page

FILES = Page("graph_networks.md").files
ALLOW = "--allow-import mymodule"


def run(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    return run_qsr(*line.split(), cwd=folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the page's module and configuration, and snapshots for them."""
    deltas = [0.5, 3.0]
    states = [qsr.Rydberg(Lx=3, Ly=3, V=7, delta=delta) for delta in deltas]
    make_snapshots(states, tmp_path / "phases.h5", shots=500, labels="delta>1")
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def configure(folder: Path, *changes: tuple[str, str]) -> None:
    text = (folder / "config.yaml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "config.yaml").write_text(text)


def test_train_load_and_plot(folder: Path) -> None:
    result = run(folder, f"graph train config.yaml {ALLOW}")
    assert result.returncode == 0, result.stderr
    path = folder / "runs" / "phases" / "0"
    assert f"qsr load runs/phases/0 {ALLOW}" in result.stdout
    tested = {name: float(value) for name, value in (line.split() for line in result.stdout.splitlines()[:4])}
    assert set(tested) == {"loss_avg", "loss_min", "loss_max", "accuracy"}
    assert "Validation results" not in result.stderr and "Validation results" in (path / "output.txt").read_text()
    loaded = run(folder, f"load runs/phases/0 {ALLOW}")
    assert loaded.returncode == 0 and f"test/accuracy  {tested['accuracy']:.6g}" in loaded.stdout, loaded.stderr
    assert "20 samples of the test data" in loaded.stdout
    assert run(folder, "plot runs/phases/0").returncode == 0 and (path / "plot.png").stat().st_size > 5_000
    predicted = run(folder, f"load runs/phases/0 {ALLOW} --data phases.h5")
    assert predicted.returncode == 0 and predicted.stdout.startswith("outputs for 1000 graphs\n"), predicted.stderr
    with (path / "predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["y", "task0_0", "task0_1"] and [row["y"] for row in rows] == ["0"] * 500 + ["1"] * 500
    assert sum((float(row["task0_1"]) > float(row["task0_0"])) == (row["y"] == "1") for row in rows) > 850
    refused = run(folder, "load runs/phases/0")
    assert refused.returncode == 2 and "'mymodule.compute_loss' is not among" in refused.stderr


def test_the_model_of_a_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(folder, f"graph train config.yaml {ALLOW}").returncode == 0
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = folder / "runs" / "phases" / "0"
    try:
        model = qsr.load_model(path, allow_import=["mymodule"])
        again = qsr.Trainer.load_checkpoint(path, allow_import=["mymodule"])
        batch = next(iter(again.prepare_dataloaders()[2]))
        assert np.array_equal(model(batch)[0].detach().numpy(), again.predict([batch])["0"].numpy())
    finally:
        sys.modules.pop("mymodule", None)


def test_a_killed_run_goes_on_as_if_nothing_had_happened(folder: Path) -> None:
    configure(folder, ("num_epochs: 5", "num_epochs: 60"), ("patience: 3", "patience: 60"), ("path: runs", "path: whole"))
    assert run(folder, f"graph train config.yaml {ALLOW}").returncode == 0
    configure(folder, ("path: whole", "path: cut"))
    words = [sys.executable, "-m", "qsr", "graph", "train", "config.yaml", *ALLOW.split()]
    process = subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    next(text for text in process.stderr if text.startswith("epoch 20/60"))
    process.kill()
    process.communicate()
    whole, cut = folder / "whole" / "phases" / "0", folder / "cut" / "phases" / "0"
    assert len(RunDirectory(cut).history.read("epochs")["epoch"]) < 60, "it was killed too late"
    resumed = run(folder, f"train --resume cut/phases/0 {ALLOW}")
    assert resumed.returncode == 0, resumed.stderr
    assert same_history(RunDirectory(whole).history, RunDirectory(cut).history)
    assert (whole / "weights.safetensors").read_bytes() == (cut / "weights.safetensors").read_bytes()


def test_sweeps(folder: Path) -> None:
    configure(folder, ("lr: 3e-3", "lr: !sweep {values: [1e-3, 1e-2]}"), ("num_epochs: 5", "num_epochs: 1"))
    result = run(folder, f"graph train config.yaml {ALLOW}")
    assert result.returncode == 0, result.stderr
    table = [line.split() for line in result.stdout.partition("runs of the sweep:\n")[2].splitlines()]
    assert table[0] == ["run", "training.optimizer_kwargs.lr", "loss_avg", "loss_min", "loss_max", "accuracy"]
    assert [row[:2] for row in table[1:]] == [["phases_0", "0.001"], ["phases_1", "0.01"]]
    assert RunDirectory(folder / "runs" / "phases_1" / "0").read_settings().train.lr == 1e-2


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("mymodule.reader", "os.system", "config.yaml, line 5: 'os.system' is not among the objects that files may name"),
        ("num_epochs: 5", "num_epoch: 5", "training.num_epoch: unknown setting; did you mean 'num_epochs'"),
        ("[1, 32]", "[2, 32]", r"fail on the first batch of training data \(x \(.*shapes cannot be multiplied"),
        ("lr: 3e-3", "lr: !range {start: 1, stop: 2}", "is a !range, from which only a search draws"),
    ],
)
def test_mistakes_exit_with_2_in_one_line(folder: Path, old: str, new: str, said: str) -> None:
    configure(folder, (old, new))
    result = run(folder, f"graph train config.yaml {ALLOW}")
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert result.returncode == 2 and len(lines) == 1 and "Traceback" not in result.stderr, result.stderr
    assert re.search(said, lines[0]), lines[0]


def test_settings_are_listed(tmp_path: Path) -> None:
    text = run(tmp_path, "graph settings").stdout
    assert all(
        word in text for word in ("num_epochs", "downstream_tasks", "evaluator_tasks, each", "init_best_score", "split_by")
    )
