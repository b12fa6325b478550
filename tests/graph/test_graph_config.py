"""Configurations that cannot be run are refused before anything is written, by names that say what to change."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from qsr.graph import Trainer
from qsr.graph.config import GraphConfig
from qsr.hparams import ConfigError
from tests.graph.rings import STOPPING, Net, compute_loss, config


def changed(settings: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with another value at a dotted path; `...` takes it out."""
    name, _, rest = path.partition(".")
    if rest:
        return {**settings, name: changed(settings[name], rest, value)}
    return {key: found for key, found in {**settings, name: value}.items() if found is not ...}


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("validation", ..., "validation: this setting is required"),
        ("testing", ..., "testing: this setting is required"),
        ("training", ..., "training: this setting is required"),
        ("criterion", ..., "criterion: this setting is required"),
        ("model", ..., "model: this setting is required"),
        ("training.num_epochs", ..., "training.num_epochs: this setting is required"),
        ("validation.batch_size", ..., "validation.batch_size: this setting is required"),
        ("training.num_epoch", 3, "training.num_epoch: unknown setting; did you mean 'num_epochs'"),
        ("validaton", {}, "config.validaton: unknown setting; did you mean 'validation'"),
        (
            "validation.validator.criterium",
            compute_loss,
            "validation.validator: .*criterium: unknown setting; did you mean 'criterion'",
        ),
        ("training.num_epochs", 0, "training.num_epochs=0: must be at least 1"),
        ("training.batch_size", 0, "training.batch_size=0: must be at least 1"),
        ("training.seed", -1, "training.seed=-1: must be at least 0"),
        ("training.checkpoint_at", 0, "training.checkpoint_at=0: must be at least 1"),
        ("training.device", "tpu", "training.device=tpu: must be auto, cpu, cuda or cuda:N"),
        ("training.prefetch_factor", 2, "training.prefetch_factor=2: needs num_workers"),
        (
            "training.optimizer_kwargs",
            {"lrate": 1},
            "training.optimizer_kwargs: optimizer.lrate: Adam has no such argument; did you mean 'lr'",
        ),
        ("training.optimizer_kwargs", {"betas": (2.0, 0.9)}, "training.optimizer_type=Adam: Invalid beta"),
        ("training.optimizer_kwargs", {"lr": "abc"}, "training.optimizer_kwargs.lr='abc': must be a number"),
        ("training.optimizer_type", 3, "training.optimizer_type=3"),
        ("training.optimizer_type", lambda *_, **__: nn.ReLU(), "must make torch's Optimizer, found ReLU"),
        ("training.lr_scheduler_type", lambda *_, **__: nn.ReLU(), "must make torch's LRScheduler, found ReLU"),
        ("training.lr_scheduler_kwargs", {"step": 1}, "there is no"),
        (
            "training.optimizer_kwargs.lr",
            {"type": "sweep", "values": [1]},
            r"lr is a !sweep; ConfigHandler\(config\).run_configs",
        ),
        ("training.lr_scheduler_type", torch.optim.lr_scheduler.StepLR, "training.lr_scheduler_type=StepLR: .*step_size"),
        ("training.lr_scheduler_monitor", "f1", "training.lr_scheduler_monitor=f1: no such column"),
        ("name", "a/b", "config.name=a/b: names a folder"),
        ("log_level", "LOUD", "config.log_level=LOUD: must be a level of logging"),
        ("model", {"encoder": 1}, "model: expected a type, or an encoder_type"),
        ("model", {"type": dict}, "model.type: must make a torch.nn.Module, found dict"),
        ("model", {"type": nn.Identity}, "has no parameters to train"),
        ("criterion", 3, "config.criterion=3"),
        ("criterion", nn.CrossEntropyLoss, "is the class CrossEntropyLoss; expected a function"),
        ("validation.validator", [], r"validation.validator=\[\]: must be a mapping"),
        ("validation.validator", {"type": dict}, "validation.validator.type: must make an object with validate"),
        ("validation.validator.evaluator_tasks", [{"name": "a", "monitor": "f2"}], "unknown score"),
        ("early_stopping", {**STOPPING, "patience": -1}, "early_stopping.patience=-1"),
        ("early_stopping", {"type": int}, "early_stopping.type: must make a function of the validator's table, found int"),
        ("early_stopping", {"tasks": STOPPING["tasks"]}, "early_stopping.mode: this setting is required"),
        ("data", {"files": ["a"], "pre_filter": len}, "data.output: missing"),
        ("data", {"files": ["a"], "output": "b", "reader": len, "split": [0.5, 0.2, 0.2]}, "Split ratios must sum to 1.0"),
        ("data", {"files": [], "output": "b", "reader": len}, "data.files"),
    ],
)
def test_what_is_refused(tmp_path: Path, path: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Trainer.from_config(changed(config(tmp_path / "runs"), path, value))
    assert not (tmp_path / "runs").exists(), "nothing is written before the configuration is known to be good"


def test_early_stopping_needs_a_column_of_a_validator(tmp_path: Path) -> None:
    task = {**STOPPING["tasks"][0], "metric": "loss_av"}  # type: ignore[index]
    with pytest.raises(ConfigError, match="loss_av: no such column; did you mean 'loss_avg'"):
        Trainer.from_config(config(tmp_path, early_stopping={**STOPPING, "tasks": {0: task}}))
    with pytest.raises(ConfigError, match=r"early_stopping: needs validation.validator"):
        Trainer.from_config(config(tmp_path, validation={"batch_size": 8}, early_stopping=STOPPING))
    trainer = Trainer.from_config(config(tmp_path, early_stopping=STOPPING))
    with pytest.raises(ConfigError, match="early_stopping: needs validation data"):
        trainer.run_training([1])
    with pytest.raises(ConfigError, match="train_loader: has no batches"):
        trainer.run_training([])


def test_a_missing_gpu_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"training.device=cuda: this machine has no CUDA device.*expected auto or cpu"):
        Trainer.from_config(changed(config(tmp_path), "training.device", "cuda"))


def test_settings_of_the_house(tmp_path: Path) -> None:
    training = {
        "optimizer_type": torch.optim.SGD,
        "optimizer_args": [0.05, 0.9],
        "optimizer_kwargs": {},
        "lr_scheduler_type": torch.optim.lr_scheduler.StepLR,
        "lr_scheduler_kwargs": {"step_size": 2},
    }
    settings = Trainer.from_config(config(tmp_path, training)).settings
    assert settings.optimizer.name == "SGD" and settings.optimizer.kwargs == {"momentum": 0.9} and settings.train.lr == 0.05
    assert settings.scheduler.name == "StepLR" and settings.scheduler.kwargs == {"step_size": 2}
    assert settings.scheduler.monitor == "validation/loss" and settings.scheduler.interval == "epoch"
    assert not {"optimizer_type", "seed", "path", "lr_scheduler_type"} & settings.model.config["training"].keys()


def test_a_finished_configuration_can_be_given_in_parts() -> None:
    """Everything but the required has its default."""
    least = {"training": {"num_epochs": 1, "batch_size": 2}, "model": {"type": Net}, "criterion": compute_loss}
    checked = GraphConfig(**least, validation={"batch_size": 2}, testing={"batch_size": 2})
    assert checked.name == "run" and checked.training.shuffle and not checked.validation.shuffle
    assert checked.training.optimizer_type is torch.optim.Adam and checked.training.checkpoint_at is None
    assert Trainer.schema is GraphConfig
