"""Metrics beside history.h5, and models under Lightning's Trainer: with the real packages."""

import csv
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import qsr
from qsr.hparams import ConfigError
from qsr.runs import RunDirectory
from qsr.training import Model, ModelHparams
from qsr.training.lightning import as_lightning
from qsr.training.loggers import CsvLogger, TensorBoardLogger


class Slope(Model[ModelHparams]):
    """y = a x."""

    def __init__(self, hparams: Any) -> None:
        super().__init__(hparams)
        self.layer = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.layer.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)

    def compute_metrics(self, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (outputs - targets).square().mean()}


def loaders() -> tuple[DataLoader[Any], DataLoader[Any]]:
    x = torch.linspace(-1, 1, 40)[:, None]
    return DataLoader(TensorDataset(x, 2 * x), batch_size=10), DataLoader(TensorDataset(x, 2 * x), batch_size=20)


def fit(folder: Path, **logger: Any) -> qsr.Run:
    return qsr.fit(Slope({}), loaders(), {"dir": str(folder), "max_epochs": 5, "lr": 0.1}, logger=logger)


def test_csv_has_the_rows_of_the_history(tmp_path: Path) -> None:
    run = fit(tmp_path, kind="csv")
    assert run.path is not None
    with (run.path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    epochs = RunDirectory(run.path).history.read("epochs")
    assert [int(row["step"]) for row in rows] == [4, 8, 12, 16, 20]
    assert [float(row["validation/loss"]) for row in rows] == epochs["validation_loss"].tolist()


def energies_in(folder: Path) -> list[tuple[int, float]]:
    """Steps and energies of TensorBoard's events."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return [(event.step, event.value) for event in EventAccumulator(str(folder)).Reload().Scalars("energy")]


@pytest.mark.parametrize("kind", ["csv", "tensorboard"])
def test_all_stages_of_a_curriculum_are_logged(kind: str, tmp_path: Path) -> None:
    train = {"curriculum": "2x2:3,4x4:3", "K": 8, "dir": str(tmp_path / "runs")}
    run = qsr.train(None, qsr.RNN(patch=1, Nh=4), train, logger={"kind": kind, "save_dir": str(tmp_path / "logs")})
    assert run.path is not None
    if kind == "csv":
        (written,) = (tmp_path / "logs").rglob("metrics.csv")
        with written.open(newline="") as file:
            steps = [int(row["step"]) for row in csv.DictReader(file)]
    else:
        (folder,) = {path.parent for path in (tmp_path / "logs").rglob("events.*")}
        steps = [step for step, _ in energies_in(folder)]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_step_that_is_logged_again_replaces_the_first(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    for step, value in ((1, 1.0), (2, 2.0), (3, 3.0), (3, 30.0), (4, 4.0)):  # back by one to a checkpoint at step 2
        logger.log({"energy": value}, step)
    logger.close(None)
    assert energies_in(tmp_path) == [(1, 1.0), (2, 2.0), (3, 30.0), (4, 4.0)]


def test_csv_of_a_sampler(tmp_path: Path) -> None:
    run = qsr.train(
        model={"type": "rnn", "Nh": 4},
        train={"L": 16, "K": 8, "steps": 130, "dir": str(tmp_path)},
        logger={"kind": "csv", "save_dir": str(tmp_path / "logs")},
    )
    (written,) = (tmp_path / "logs").rglob("metrics.csv")
    with written.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert run.path is not None and len(rows) == 130 and not (run.path / "metrics.csv").exists()
    assert [float(row["energy"]) for row in rows] == RunDirectory(run.path).history.read("steps")["energy"].tolist()


def test_runs_that_share_a_place_keep_their_own(tmp_path: Path) -> None:
    for epochs in (6, 3):
        train = {"dir": str(tmp_path / "runs"), "max_epochs": epochs}
        qsr.fit(Slope({}), loaders(), train, logger={"kind": "csv", "save_dir": str(tmp_path / "logs")})
    assert sorted(len(file.read_text().splitlines()) for file in (tmp_path / "logs").rglob("metrics.csv")) == [4, 7]
    with pytest.raises(ConfigError, match=r"logger\.save_dir=.*metrics\.csv of another run"):
        for _ in range(2):
            qsr.fit(Slope({}), loaders(), {"dir": "<NONE>"}, logger={"kind": "csv", "save_dir": str(tmp_path / "one")})


def test_a_csv_goes_back_with_its_run(tmp_path: Path) -> None:
    written = CsvLogger(tmp_path / "metrics.csv", resume=False)
    for step, value in ((1, 1.0), (2, 2.0), (3, 3.0), (2, 4.0), (3, 5.0)):
        written.log({"a": value}, step)
    written.close(None)
    assert (tmp_path / "metrics.csv").read_text().split() == ["step,a", "1,1.0", "2,4.0", "3,5.0"]


def test_a_csv_goes_back_after_it_was_saved(tmp_path: Path) -> None:
    written = CsvLogger(tmp_path / "metrics.csv", resume=False)
    for step in (1, 2, 3):
        written.log({"a": float(step)}, step)
    written.save()
    written.log({"a": 2.5}, 2)
    written.log({"a": 3.5}, 3)
    written.close(None)
    assert (tmp_path / "metrics.csv").read_text().split() == ["step,a", "1,1.0", "2,2.5", "3,3.5"]


def test_a_csv_that_was_torn_goes_on_after_its_last_whole_row(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    file.write_text("step,a\n1,1.0\n2,2.0\n3,3.")
    (tmp_path / ".metrics.0123abcd.tmp.csv").touch()  # of a writer that was killed
    written = CsvLogger(file, resume=True)
    written.log({"a": 3.5, "b": 1.0}, 3)
    written.save()
    assert file.read_text().split() == ["step,a,b", "1,1.0,", "2,2.0,", "3,3.5,1.0"]
    written.log({"b": 2.0}, 4)
    written.close(None)
    assert file.read_text().split()[-1] == "4,,2.0" and [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


@pytest.mark.parametrize("text", ["step\nx\n", "a\n1\n", "step\n1,2\n", "step\n\udcff\n"])
def test_a_csv_of_something_else_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(text, errors="surrogateescape")
    with pytest.raises(ConfigError, match=r"metrics\.csv: no metrics of a run"):
        CsvLogger(tmp_path / "metrics.csv", resume=True)


def test_a_resumed_csv_has_every_step_once(tmp_path: Path) -> None:
    settings = {"L": 4, "K": 8, "steps": 40, "dir": str(tmp_path)}
    run = qsr.train(model={"type": "rnn", "Nh": 4}, train=settings, logger={"kind": "csv"}, checkpoint={"every_n_steps": 10})
    assert run.path is not None
    for folder in (run.path / "checkpoint").iterdir():
        if folder.name == "40":
            folder.rename(tmp_path / "gone")
    qsr.resume(run.path)
    with (run.path / "metrics.csv").open(newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(1, 41))


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    """Steps and values of a metric, as TensorBoard reads them; empty as long as there are none."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)] if name in events.Tags()["scalars"] else []


def same_as_history(folder: Path) -> bool:
    """Whether every step of a sampler's history is in its events, once, with its energy."""
    history = RunDirectory(folder).history.read("steps")
    steps, energies = zip(*scalars(folder, "energy"), strict=True)
    return list(steps) == history["step"].tolist() and np.allclose(energies, history["energy"], rtol=1e-6)


def test_tensorboard(tmp_path: Path) -> None:
    run = fit(tmp_path, kind="tensorboard")
    assert run.path is not None
    found = scalars(run.path, "validation/loss")
    expected = RunDirectory(run.path).history.read("epochs")["validation_loss"]
    assert [step for step, _ in found] == [4, 8, 12, 16, 20]
    assert max(abs(value - wanted) for (_, value), wanted in zip(found, expected, strict=True)) < 1e-6


def test_tensorboard_goes_back_with_its_run(tmp_path: Path) -> None:
    written = TensorBoardLogger(tmp_path / "tensorboard")
    for step, value in ((1, 1.0), (2, 2.0), (3, 3.0), (2, 4.0), (3, 5.0)):
        written.log({"a": value}, step)
    written.close(None)
    assert scalars(tmp_path, "a") == [(1, 1.0), (2, 4.0), (3, 5.0)]


def test_a_resumed_run_has_every_step_once_in_tensorboard(tmp_path: Path) -> None:
    settings = {"L": 4, "K": 8, "steps": 40, "dir": str(tmp_path)}
    run = qsr.train(
        model={"type": "rnn", "Nh": 4}, train=settings, logger={"kind": "tensorboard"}, checkpoint={"every_n_steps": 10}
    )
    assert run.path is not None
    shutil.rmtree(run.path / "checkpoint" / "40")
    qsr.resume(run.path)
    assert len(scalars(run.path, "energy")) == 40 and same_as_history(run.path)


@pytest.mark.slow
def test_events_are_read_while_a_run_goes_on_and_after_a_kill(tmp_path: Path) -> None:
    words = "--train K=256 steps=400 --ptf patch=2x2 Nh=16 nhead=2 --rydberg Lx=4 Ly=4 --logger kind=tensorboard"
    command = [sys.executable, "-m", "qsr", "train", *words.split(), "--checkpoint", "every_n_steps=20"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    path = tmp_path / "runs" / "rydberg" / "16-B=256-K=256" / "0"
    try:
        while len(during := scalars(path, "energy") if (path / "tensorboard").is_dir() else []) < 30:
            assert process.poll() is None, "the run is over, and there were no events"
            time.sleep(0.2)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    after = scalars(path, "energy")
    assert after[: len(during)] == during and len(after) < 400
    subprocess.run([sys.executable, "-m", "qsr", "train", "--resume", str(path)], check=True, capture_output=True, cwd=tmp_path)
    assert len(scalars(path, "energy")) == 400 and same_as_history(path)


def test_wandb_stays_on_this_machine(tmp_path: Path) -> None:
    run = fit(tmp_path, kind="wandb", project="test", log_model=False)
    assert run.path is not None
    assert list((run.path / "wandb").glob("offline-run-*/*.wandb"))


def test_a_logger_needs_a_place() -> None:
    with pytest.raises(ConfigError, match=r"logger\.kind=csv: give logger\.save_dir"):
        qsr.fit(Slope({}), loaders(), {"dir": "<NONE>"}, logger={"kind": "csv"})


def test_a_model_trains_under_lightning(tmp_path: Path) -> None:
    import lightning

    scheduler = {"name": "ReduceLROnPlateau", "kwargs": {"patience": 0}}
    model = Slope({"optimizer": {"name": "SGD", "kwargs": {"lr": 0.5}}, "scheduler": scheduler})
    trainer = lightning.Trainer(
        max_epochs=20,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(tmp_path),
    )
    trainer.fit(as_lightning(model), *loaders())
    assert abs(model.layer.weight.item() - 2) < 1e-3
    assert trainer.callback_metrics["validation/loss"] < 1e-6
    ours = Slope({"optimizer": {"name": "SGD", "kwargs": {"lr": 0.5}}, "scheduler": scheduler})
    qsr.fit(ours, loaders(), {"dir": "<NONE>", "max_epochs": 20})
    assert abs(ours.layer.weight.item() - model.layer.weight.item()) < 1e-6


def test_optional_packages_are_imported_when_used() -> None:
    code = (
        "import sys, qsr\n"
        "qsr.RNN(Nh=4)\n"
        "heavy = ('hydra', 'lightning', 'wandb', 'tensorboard', 'pandas', 'sklearn', 'matplotlib.pyplot', 'omegaconf')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", ["tensorboard", "wandb"])
def test_a_package_that_is_missing_is_told_before_there_is_a_run(kind: str, tmp_path: Path) -> None:
    """In a process of its own, where the package cannot be imported."""
    code = f"import sys; sys.modules[{kind!r}] = None; import qsr.cli.main as cli; sys.argv[0] = 'qsr'; cli.main()"
    words = f"train --train steps=2 K=4 --rnn patch=1 Nh=4 --rydberg Lx=2 Ly=2 --logger kind={kind}"
    found = subprocess.run([sys.executable, "-c", code, *words.split()], cwd=tmp_path, capture_output=True, text=True)
    said = f"Error: logger.kind={kind}: the package {kind} is not installed; pip install 'qsr[{kind}]'\n"
    assert (found.returncode, found.stdout, found.stderr) == (2, "", said)
    assert list(tmp_path.iterdir()) == []
