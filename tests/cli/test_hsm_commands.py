"""Hilbert-space models from the command line, as a user types it: train, evaluate, predict, resume."""

import csv
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import qsr
from tests.cli.killed import check_killed_and_resumed
from tests.commands import run_qsr


def run(line: str, *words: str) -> subprocess.CompletedProcess[str]:
    return run_qsr(*line.split(), *words)


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two moons of points with names, a number to predict, and a column of text that means nothing."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(300, 3))
    file = tmp_path_factory.mktemp("data") / "table.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["a", "b", "c", "y", "kind", "note"])
        for row in x:
            kind = "up" if row[0] + row[1] ** 2 > 0.5 else "down"
            writer.writerow([*row, 10 + row[0] + row[1] ** 2, kind, "text"])
    return file


def test_train_load_and_predict_a_number(table: Path, tmp_path: Path) -> None:
    sections = f"--data file={table} targets=y input_features=a,b,c --train max_epochs=30 lr=0.02 dir={tmp_path}"
    result = run(f"train --hsm hsm_model=general hilbert_space_dims=6 --optimizer name=AdamW {sections}")
    assert result.returncode == 0, result.stderr
    path = tmp_path / "hsm" / "general" / "0"
    assert f"qsr load {path} --data FILE" in result.stdout and "--allow-import" not in result.stdout
    tested = run(f"load {path}")
    assert tested.returncode == 0 and tested.stdout.startswith("60 samples of the test data")
    r2 = float(next(line for line in tested.stdout.splitlines() if line.startswith("test/r2")).split()[1])
    assert r2 > 0.7
    new = tmp_path / "new.csv"  # other columns, in another order, and no target
    rows = rows_of(table)
    with new.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["note", "c", "a", "b"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    predicted = run(f"load {path} --data {new} --output {tmp_path / 'out'}")
    assert predicted.returncode == 0 and predicted.stdout.startswith("300 predictions\nwritten:"), predicted.stderr
    found = rows_of(tmp_path / "out" / "predictions.csv")
    assert list(found[0]) == ["y", "y_std", "energy"] and len(found) == 300
    model = qsr.load_model(path)
    x = torch.tensor([[float(row[name]) for name in "abc"] for row in rows], dtype=torch.float64)
    assert np.allclose([float(row["y"]) for row in found], model(x)[:, 0].detach().numpy(), rtol=0, atol=1e-5)
    assert run(f"plot {path}").returncode == 0 and (path / "plot.png").stat().st_size > 10_000


def test_train_and_predict_a_class(table: Path, tmp_path: Path) -> None:
    sections = f"--data {table} targets=kind input_features=a,b --train max_epochs=15 lr=0.05 dir={tmp_path}"
    result = run(f"train --hsm hsm_model=pauli qubits_count=2 --loss name=CrossEntropyLoss label_smoothing=0.05 {sections}")
    assert result.returncode == 0, result.stderr
    path = tmp_path / "hsm" / "pauli" / "0"
    predicted = run(f"load {path} --data {table}")
    assert predicted.returncode == 0, predicted.stderr
    accuracy = float(next(line for line in predicted.stdout.splitlines() if line.startswith("test/accuracy")).split()[1])
    assert accuracy > 0.9
    found = rows_of(path / "predictions.csv")
    assert list(found[0]) == ["kind", "p_down", "p_up", "energy"]
    actual = [row["kind"] for row in rows_of(table)]
    assert np.mean([row["kind"] == kind for row, kind in zip(found, actual, strict=True)]) == pytest.approx(accuracy, abs=1e-5)
    assert all(float(row["p_up"]) + float(row["p_down"]) == pytest.approx(1) for row in found)


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(table: Path, tmp_path: Path) -> None:
    """With a scheduler that watches and early stopping in the middle of its patience; ended by SIGKILL."""
    words = (
        f"train --hsm hilbert_space_dims=12 --data file={table} targets=y input_features=a,b,c batch_size=8 "
        "--scheduler name=ReduceLROnPlateau patience=1 factor=0.7 --early_stopping patience=40 restore_best_weights=True "
        "--checkpoint every_n_steps=7 --train max_epochs=12 lr=0.05 dir="
    )
    check_killed_and_resumed(words, tmp_path, "hsm/general/0", "epoch 4/12", later=0.05)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--hsm --data nothing.csv targets=y", "nothing.csv: no such file"),
        ("--hsm --data {table} targets=z", "no column 'z'"),
        ("--hsm --data {table} targets=y", "column 'kind' is not of numbers, row 1 has 'down'"),
        ("--hsm --data targets=y", "data.file: missing; name a table (--data file=table.csv)"),
        ("--hsm", "data.file: missing; name a table (--data file=table.csv)"),
        ("--hsm --data {table}", "At least one target must be specified."),
        ("--hsm hsm_model=pauli --data {table} targets=y", "hsm.qubits_count: missing"),
        ("--hsm dims=3 --data {table} targets=y", "hsm.dims: unknown setting"),
        (
            "--hsm --data {table} targets=kind input_features=a --loss name=MSELos",
            "loss.name=MSELos: unknown loss; did you mean 'MSELoss'",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words: str, message: str, table: Path, tmp_path: Path) -> None:
    result = run(f"train {words.format(table=table)} --train dir={tmp_path / 'runs'}")
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and message in result.stderr
    assert not (tmp_path / "runs").exists()
