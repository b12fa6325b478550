"""What the graph trainer leaves on disk, and runs that are cut short: they go on bit for bit, without a row twice."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from qsr.graph import Trainer
from qsr.hparams import ConfigError
from qsr.runs import RunDirectory, same_history
from qsr.training import Callback, Interrupted, RunFailed, trainer
from tests.graph.rings import STOPPING, compute_loss, config, rings, same_weights, trained, weights_of


@pytest.fixture(autouse=True)
def checkpoints_whenever_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of such small networks there would be none in the first second."""
    monkeypatch.setattr(trainer, "SECONDS_BETWEEN_EPOCH_CHECKPOINTS", -1.0)


def test_what_a_run_leaves(tmp_path: Path) -> None:
    settings = config(tmp_path, early_stopping=STOPPING)
    found, _, _ = trained(settings)
    assert found.data_path is not None and found.checkpoint_path is not None
    stored = json.loads((found.data_path / "settings.json").read_text())
    assert stored["train"]["max_epochs"] == 4 and stored["train"]["lr"] == 1e-2 and stored["optimizer"]["name"] == "Adam"
    assert stored["model"]["config"]["criterion"] == "!pyobject tests.graph.rings.compute_loss"
    assert stored["checkpoint"]["every_n_epochs"] == 1
    assert {path.name for path in found.checkpoint_path.iterdir()} == {"18", "24"}
    assert "Validation results: loss_avg=" in (found.data_path / "output.txt").read_text()
    assert len(RunDirectory(found.data_path).history.read("epochs")["validation_loss"]) == 4
    torch.rand(3)
    second, _, _ = trained(settings)
    assert second.data_path == tmp_path / "rings" / "1"
    assert same_weights(weights_of(found), weights_of(second)), "the seed decides everything"


def test_the_configuration_is_read_back(tmp_path: Path) -> None:
    found, training, validation = trained(config(tmp_path, early_stopping=STOPPING))
    assert found.data_path is not None
    again = Trainer.load_checkpoint(found.data_path)
    assert again.epoch == 4 and same_weights(weights_of(again), weights_of(found))
    loaders = again.prepare_dataloaders(rings(60))
    tables = again.run_training(*loaders[:2])
    assert [table.rows for table in tables] == [training.rows, validation.rows], "nothing is left to do"
    assert again.run_test(loaders[2]).rows == found.run_test(loaders[2]).rows


def test_a_configuration_with_nameless_objects_needs_itself(tmp_path: Path) -> None:
    settings = config(tmp_path, criterion=lambda outputs, data: compute_loss(outputs, data))
    found, _, _ = trained(settings)
    assert found.data_path is not None and not (found.data_path / "config.yaml").exists()
    with pytest.raises(ConfigError, match=r"has no config.yaml.*pass config"):
        Trainer.load_checkpoint(found.data_path)
    assert Trainer.load_checkpoint(found.data_path, settings).epoch == 4


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    found, _, _ = trained(config(tmp_path))
    assert found.data_path is not None
    with pytest.raises(ConfigError, match=r"the run has training.num_epochs=4, not 5"):
        Trainer.load_checkpoint(found.data_path, config(tmp_path, {"num_epochs": 5}))
    again = Trainer.load_checkpoint(found.data_path, config(tmp_path / "elsewhere"))
    with pytest.raises(ConfigError, match="train_loader: has 12 batches"):
        again.run_training(*map(list, again.prepare_dataloaders(rings(120))[:2]))
    with pytest.raises(ConfigError, match="train_loader: other samples than those that the run was begun with"):
        again.run_training(*again.prepare_dataloaders(rings(60, seed=99))[:2])


class Stop(Callback):
    """Ends the process as a power cut does for whoever reads the files: at a step, without a word."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: Any, metrics: Any) -> None:
        if trainer.step == self.step:
            raise OSError("the power is off")


# The first epoch is the best, and the training ends after the fourth: what early stopping has seen decides.
FULL = {
    "training": {
        "num_epochs": 6,
        "lr_scheduler_type": torch.optim.lr_scheduler.ReduceLROnPlateau,
        "lr_scheduler_kwargs": {"factor": 0.5, "patience": 0},
    },
    "validator": {"evaluator_tasks": [{"name": "f1", "monitor": "f1"}]},
    "early_stopping": {
        "tasks": {0: {"metric": "loss_avg", "delta": 0.0, "grace_period": 1, "init_best_score": -1.0, "mode": "max"}},
        "mode": "any",
        "patience": 3,
    },
}


@pytest.mark.parametrize("step", [1, 6, 20])
def test_a_cut_run_goes_on_as_if_nothing_had_been(tmp_path: Path, step: int) -> None:
    whole, training, validation = trained(config(tmp_path / "whole", **FULL))  # type: ignore[arg-type]
    assert len(training) == len(validation) == 4
    cut = Trainer.from_config(config(tmp_path / "cut", **FULL))  # type: ignore[arg-type]
    loaders = cut.prepare_dataloaders(rings(60))
    with pytest.raises(RunFailed, match="power is off; when that is mended"):
        cut.run_training(*loaders[:2], callbacks=[Stop(step)])
    assert cut.data_path is not None and whole.data_path is not None
    again = Trainer.load_checkpoint(cut.data_path)
    assert again.epoch == max(step - 1, 0) // 6
    _assert_same_run(again, whole, training, validation)
    # The trainer that was cut may go on, too.
    assert [table.rows for table in cut.run_training(*loaders[:2])] == [training.rows, validation.rows]


def _assert_same_run(again: Trainer, whole: Trainer, training: Any, validation: Any) -> None:
    loaders = again.prepare_dataloaders(rings(60))
    tables = again.run_training(*loaders[:2])
    assert [table.rows for table in tables] == [training.rows, validation.rows]
    assert same_weights(weights_of(again), weights_of(whole))
    assert again.run_test(loaders[2]).rows == whole.run_test(whole.prepare_dataloaders(rings(60))[2]).rows
    assert again.data_path is not None and whole.data_path is not None
    assert same_history(RunDirectory(again.data_path).history, RunDirectory(whole.data_path).history)
    best = [RunDirectory(run.data_path).path / "best" / "best.safetensors" for run in (again, whole)]  # type: ignore[arg-type]
    assert best[0].read_bytes() == best[1].read_bytes()


def test_a_step_that_blows_up_is_taken_back(tmp_path: Path) -> None:
    """The ninth loss of the training is infinite once: the second epoch begins anew, with half the rate."""
    calls: list[bool] = []

    def criterion(outputs: Any, data: Any) -> Tensor:
        calls.append(torch.is_grad_enabled())
        return compute_loss(outputs, data) * (torch.inf if calls[-1] and sum(calls) == 9 else 1.0)

    found, training, validation = trained(config(tmp_path, criterion=criterion))
    assert list(training["epoch"]) == [0, 1, 2, 3] and len(validation) == 4
    assert sum(calls) == 4 * 6 + 3, "the third step of an epoch blew up"
    assert found.data_path is not None
    rates = RunDirectory(found.data_path).history.read("steps")["lr"]
    assert rates.tolist() == [1e-2] * 6 + [5e-3] * 18


PROGRAM = """
import os, signal, sys
from qsr.training import Callback, Interrupted, trainer
from tests.graph.rings import config, rings
from tests.graph.test_graph_resume import FULL
from qsr.graph import Trainer

trainer.SECONDS_BETWEEN_EPOCH_CHECKPOINTS = -1.0
class Kill(Callback):
    def on_step_end(self, trainer, metrics):
        if trainer.step == 20:
            os.kill(os.getpid(), getattr(signal, sys.argv[2]))
found = Trainer.from_config(config(sys.argv[1], **FULL))
found.run_training(*found.prepare_dataloaders(rings(60))[:2], callbacks=[Kill()])
"""


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_a_killed_process_is_resumed_in_another_one(tmp_path: Path, name: str) -> None:
    whole, training, validation = trained(config(tmp_path / "whole", **FULL))  # type: ignore[arg-type]
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "cut"), name]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    died = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if name == "SIGKILL":
        assert died.returncode == -signal.SIGKILL, died.stderr
    else:
        assert "saved in" in died.stderr and "go on with Trainer.load_checkpoint" in died.stderr
    again = Trainer.load_checkpoint(tmp_path / "cut" / "rings" / "0", config(tmp_path / "cut", **FULL))  # type: ignore[arg-type]
    assert again.epoch == 3
    _assert_same_run(again, whole, training, validation)


class Shaken(Dataset):
    """Rings with noise from the generators of torch, NumPy and Python, whenever they are asked for."""

    def __init__(self) -> None:
        self.rings = rings(60)

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> Any:
        graph = self.rings[index].clone()
        graph.x = graph.x + torch.rand(4, 1) + np.random.rand() + random.random()
        return graph


class EndAt(Callback):
    """Ends the training by a signal, which leaves a checkpoint."""

    def on_step_end(self, trainer: Any, metrics: Any) -> None:
        if trainer.step == 9:
            os.kill(os.getpid(), signal.SIGTERM)


def test_random_transforms_of_any_library_go_on_bit_for_bit_within_an_epoch(tmp_path: Path) -> None:
    def run(trainer: Trainer, *callbacks: Callback) -> Any:
        np.random.rand(), random.random()  # what was drawn before does not matter
        return trainer.run_training(*trainer.prepare_dataloaders(Shaken())[:2], callbacks=callbacks)

    whole, again = (Trainer.from_config(config(tmp_path / name)) for name in ("whole", "again"))
    tables = run(whole)
    assert [table.rows for table in run(again)] == [table.rows for table in tables]
    cut = Trainer.from_config(config(tmp_path / "cut"))
    with pytest.raises(Interrupted):
        run(cut, EndAt())
    assert cut.data_path is not None
    resumed = Trainer.load_checkpoint(cut.data_path)
    assert [table.rows for table in run(resumed)] == [table.rows for table in tables]
    assert same_weights(weights_of(resumed), weights_of(whole))


def test_a_run_without_output(tmp_path: Path) -> None:
    found, _, _ = trained(config("<NONE>", early_stopping=STOPPING))
    assert found.data_path is None and found.checkpoint_path is None
    loaders = found.prepare_dataloaders(rings(60))
    assert len(found.run_test(loaders[2])) == 1
    with pytest.raises(ConfigError, match="trains once"):
        found.run_training(*loaders[:2])
