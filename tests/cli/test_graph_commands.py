"""Graph networks from the command line, as a user types it: make snapshots, train, evaluate, predict, resume."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from qsr.runs import RunDirectory, same_history
from tests.commands import run_qsr


def run(line: str, *words: str) -> subprocess.CompletedProcess[str]:
    return run_qsr(*line.split(), *words)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "phases.h5"
    result = run(f"snapshots make {path} --rydberg Lx=3 Ly=3 delta=0,0.5,2.5,3 --shots 200", "--labels", "delta>1")
    assert result.returncode == 0, result.stderr
    return path


def test_train_load_predict_and_plot(file: Path, tmp_path: Path) -> None:
    result = run(f"train --graph width=16 --data {file} batch_size=64 --train max_epochs=4 dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    path = tmp_path / "graph" / "classify" / "0"
    assert f"qsr load {path} --data FILE" in result.stdout
    assert "classify: 2 classes; 640 snapshots to train on, 80 to validate" in (path / "output.txt").read_text()
    evaluated = run(f"load {path}")
    assert "80 samples of the test data" in evaluated.stdout and "test/accuracy" in evaluated.stdout
    predicted = run(f"load {path} --data {file}")
    assert predicted.returncode == 0 and predicted.stdout.startswith("800 predictions\n"), predicted.stderr
    assert f"written: {path}/predictions.csv, phase_diagram.png" in predicted.stdout
    assert (path / "phase_diagram.png").stat().st_size > 5_000
    with (path / "predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 800 and list(rows[0]) == ["delta", "state_id", "labels", "predicted", "p_0", "p_1"]
    assert [row["labels"] for row in rows] == ["0"] * 400 + ["1"] * 400
    right = sum(row["labels"] == row["predicted"] for row in rows)
    assert right > 640 and f"test/accuracy  {right / 800:.6g} +- " in predicted.stdout
    assert run(f"plot {path}").returncode == 0 and (path / "plot.png").stat().st_size > 5_000


def test_a_killed_run_goes_on_as_if_nothing_had_happened(file: Path, tmp_path: Path) -> None:
    line = f"train --graph task=regress width=8 --data {file} --checkpoint every_n_epochs=1 --train max_epochs=40 seed=3"
    whole, cut = (tmp_path / name / "graph" / "regress" / "0" for name in ("whole", "cut"))
    assert run(f"{line} dir={tmp_path / 'whole'}").returncode == 0
    words = [sys.executable, "-m", "qsr", *line.split(), f"dir={tmp_path / 'cut'}"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    next(text for text in process.stderr if text.startswith("epoch 3/40"))
    process.kill()
    process.communicate()
    assert len(RunDirectory(cut).history.read("epochs")["epoch"]) < 40, "it was killed too late"
    resumed = run(f"train --resume {cut}")
    assert resumed.returncode == 0, resumed.stderr
    assert same_history(RunDirectory(whole).history, RunDirectory(cut).history)
    assert (whole / "weights.safetensors").read_bytes() == (cut / "weights.safetensors").read_bytes()
    assert "test/mse" in run(f"load {cut}").stdout


def test_bad_input_exits_with_2(file: Path, tmp_path: Path) -> None:
    for words, said in (
        (f"--graph widht=8 --data {file}", "did you mean 'width'"),
        (f"--graph --data {file} target=delta", "classes are whole numbers"),
        (f"--graph --data {tmp_path}/missing.h5", "no such file"),
        (f"--data {file}", "--data: for which model? add one of --hsm (tables), --qembed, --graph and samplers"),
        ("--graph", "data.file: missing; name snapshots (--data file=snapshots.h5)"),
    ):
        result = run(f"train {words} --train max_epochs=1 dir={tmp_path}")
        assert result.returncode == 2 and said in result.stderr, result.stderr
    assert not list(tmp_path.iterdir())
