"""Networks on quantum embeddings from the command line, as a user types it: train, evaluate, predict, resume."""

import csv
import subprocess
from pathlib import Path

import numpy as np
import pytest

from qsr import Lattice
from qsr.snapshots import Snapshots, read_snapshots, write_snapshots
from tests.cli.killed import check_killed_and_resumed
from tests.commands import run_qsr

SHAPE = (3, 4)


def run(line: str, *words: str) -> subprocess.CompletedProcess[str]:
    return run_qsr(*line.split(), *words)


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def metric(result: subprocess.CompletedProcess[str], name: str) -> float:
    return float(next(line for line in result.stdout.splitlines() if line.startswith(f"{name} ")).split()[1])


def snapshots(file: Path, count: int, seed: int) -> Path:
    """Checkerboards with errors (label 1) and independent sites (label 0)."""
    generator = np.random.default_rng(seed)
    sites = SHAPE[0] * SHAPE[1]
    pattern = np.add(*np.divmod(np.arange(sites), SHAPE[1])) % 2
    labels = np.arange(count) % 2
    ordered = (generator.integers(2, size=(count, 1)) + pattern) % 2 ^ (generator.random((count, sites)) < 0.1)
    configs = np.where(labels[:, None] == 1, ordered, generator.random((count, sites)) < 0.4).astype(np.uint8)
    params = {"delta": generator.normal(size=count)}
    attributes = {"Lx": SHAPE[0], "Ly": SHAPE[1], "boundary": "open"}
    write_snapshots(file, Snapshots(configs, Lattice(*SHAPE).positions, {"labels": labels}, params, attributes))
    return file


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return snapshots(tmp_path_factory.mktemp("data") / "snapshots.h5", 600, seed=0)


def test_train_load_and_predict_phases(file: Path, tmp_path: Path) -> None:
    sections = (
        f"task=classify patch=3x1 superposition_schedule=linear uncertainty_regularization=0.1 K=2 --data {file} batch_size=32"
    )
    result = run(f"train --qembed {sections} --train max_epochs=8 lr=0.005 dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    path = tmp_path / "qembed" / "classify" / "0"
    assert f"qsr load {path} --data FILE" in result.stdout
    assert "classify: 4 patches of 3x4 sites, 10 tokens, 2 classes; 480 sequences to train on, 60 to validate" in result.stderr
    tested = run(f"load {path}")
    assert tested.returncode == 0 and tested.stdout.startswith("60 samples of the test data"), tested.stderr
    assert metric(tested, "test/accuracy") > 0.8
    new = snapshots(tmp_path / "new.h5", 200, seed=1)
    predicted = run(f"load {path} --data {new} --output {tmp_path / 'out'}")
    assert predicted.returncode == 0 and predicted.stdout.startswith("200 predictions\n"), predicted.stderr
    assert metric(predicted, "test/accuracy") > 0.8 and f"written: {tmp_path / 'out'}/predictions.csv" in predicted.stdout
    found = rows_of(tmp_path / "out" / "predictions.csv")
    expected = ["label", "p_0", "p_1", "total_entropy", "aleatoric", "mutual_information", "uncertainty"]
    assert list(found[0]) == expected and len(found) == 200
    assert all(abs(float(row["p_0"]) + float(row["p_1"]) - 1) < 1e-6 and 0 <= float(row["uncertainty"]) <= 1 for row in found)
    assert run(f"plot {path}").returncode == 0 and (path / "plot.png").stat().st_size > 10_000


def test_clean_snapshots_and_fill_in_masked_words(file: Path, tmp_path: Path) -> None:
    result = run(f"train --qembed task=denoise patch=3x1 --data {file} e10=0.2 e01=0.1 --train max_epochs=2 dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    path = tmp_path / "qembed" / "denoise" / "0"
    predicted = run(f"load {path} --data {file}")
    assert predicted.returncode == 0 and "% of the sites changed" in predicted.stdout, predicted.stderr
    assert predicted.stdout.endswith(f"written: {path}/cleaned.h5\n")
    assert read_snapshots(path / "cleaned.h5").configs.shape == (600, 12)
    lines = tmp_path / "lines.txt"
    lines.write_text("the cat sat\nthe dog ran\n" * 20, encoding="utf-8")
    result = run(f"train --qembed task=mlm embedding_dim=8 --data {lines} --train max_epochs=2 dir={tmp_path}")
    assert result.returncode == 0 and "mlm: 9 tokens; 32 sequences to train on" in result.stderr, result.stderr
    predicted = run(f"load {tmp_path / 'qembed' / 'mlm' / '0'} --data {lines}")
    assert predicted.returncode == 0 and metric(predicted, "test/nll") > 0, predicted.stderr
    assert list(rows_of(tmp_path / "qembed" / "mlm" / "0" / "predictions.csv")[0]) == ["nll", "nll_0", "nll_1", "nll_2"]


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(file: Path, tmp_path: Path) -> None:
    """With collapses, masks and dropout that are drawn; ended by SIGKILL."""
    words = (
        f"train --qembed task=mlm patch=3x1 dropout=0.1 entanglement=bell_state --data {file} batch_size=16 "
        "--checkpoint every_n_steps=7 --train max_epochs=6 dir="
    )
    check_killed_and_resumed(words, tmp_path, "qembed/mlm/0", "epoch 2/6")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--qembed patch=2x2 --data nothing.h5", "nothing.h5: no such file"),
        ("--qembed --data {file}", "qembed.patch: missing; snapshots are read in patches"),
        ("--qembed patch=2x2 --data {file}", "qembed.patch=2x2: does not tile the 3x4 lattice"),
        ("--qembed patch=3x1 --data {file} target=delta", "is no class, and a measured quantity has none"),
        ("--qembed task=denoise patch=3x1 --data {file}", "data.e10: give the readout errors"),
        ("--qembed task=clasify patch=3x1 --data {file}", "qembed.task=clasify"),
        ("--qembed patch=3x1 superposition_schedule=quadratic --data {file}", "superposition_schedule"),
        ("--qembed patch=3x1", "data.file: missing; name snapshots or text (--data file=snapshots.h5)"),
        ("--qembed patch=3x1 --rydberg Lx=4 Ly=4 --data {file}", "hamiltonian: qembed is trained on data"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words: str, message: str, file: Path, tmp_path: Path) -> None:
    result = run(f"train {words.format(file=file)} --train dir={tmp_path / 'runs'}")
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and message in result.stderr
    assert not (tmp_path / "runs").exists()
