"""What a configuration of the graph trainer describes: network, evaluators, early stopping, and the settings of the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from qsr.graph.config import EvaluatorHparams, GraphConfig
from qsr.graph.constructor import Constructor
from qsr.graph.learner import GraphLearnerHparams, metric_name
from qsr.graph.model import GNNModel, apply_model
from qsr.graph.naming import in_names
from qsr.hparams import ConfigError, RunSettings, nearest
from qsr.runs import RunDirectory
from qsr.training.default_early_stopping import DefaultEarlyStopping
from qsr.training.device import find_device
from qsr.training.evaluators import Evaluator, as_criterion

# Training settings that other sections of settings.json hold.
_ELSEWHERE = ("seed", "device", "path", "num_epochs", "checkpoint_at", "lr_scheduler_interval", "lr_scheduler_monitor")


def built_network(model: Mapping[str, Any]) -> nn.Module:
    """The network: `type(*args, **kwargs)`, or a GNNModel of the parts that are named.

    Raises:
        ConfigError: for neither, and for a type that makes no module.
    """
    if "type" in model:
        found = Constructor(**model).build("model")
    elif "encoder_type" in model:
        found = GNNModel.from_config(model)
    else:
        raise ConfigError(
            f"model: expected a type, or an encoder_type and the other parts of a GNNModel, found {', '.join(model)}"
        )
    if not isinstance(found, nn.Module):
        raise ConfigError(f"model.type: must make a torch.nn.Module, found {type(found).__name__}")
    return found


def built_evaluator(kind: type[Evaluator], where: str, settings: Any, trainer: Any) -> Any:
    """A validator or a tester; what its settings leave out is as in the training.

    Raises:
        ConfigError: for settings that cannot be used.
    """
    if settings is None:
        return None
    if isinstance(settings, Constructor):
        found = settings.build(where)
        task = "validate" if where.startswith("validation") else "test"
        if not (hasattr(found, task) and hasattr(found, "report")):
            raise ConfigError(f"{where}.type: must make an object with {task} and report, found {type(found).__name__}")
        if getattr(found, "apply_model", apply_model) is None:
            found.apply_model = trainer.apply_model or apply_model
        return found
    assert isinstance(settings, EvaluatorHparams)
    if settings.device is not None and find_device(settings.device, f"{where}.device") != trainer.device:
        raise ConfigError(f"{where}.device={settings.device}: must be that of the model, training.device={trainer.device}")
    criterion = as_criterion(settings.criterion or trainer.criterion, trainer)
    return kind(trainer.device, criterion, settings.evaluator_tasks, settings.apply_model or trainer.apply_model or apply_model)


def built_stopper(settings: Any, validator: Any) -> Any:
    """What decides on early stopping, if anything does.

    Raises:
        ConfigError: without a validator, and for metrics that it does not have.
    """
    if settings is None:
        return None
    if validator is None:
        raise ConfigError("early_stopping: needs validation.validator, whose table it looks at")
    if isinstance(settings, Constructor):
        found = settings.build("early_stopping")
        if not callable(found):
            raise ConfigError(f"early_stopping.type: must make a function of the validator's table, found {type(found).__name__}")
        return found
    tasks = {name: dict(task) for name, task in settings.tasks.items()}
    found = DefaultEarlyStopping(tasks, settings.patience, settings.mode)
    if isinstance(validator, Evaluator):
        found.check_columns(validator.data.columns)
    return found


def run_settings(config: GraphConfig, validator: Any) -> RunSettings:
    """The settings of the run that a configuration means.

    Raises:
        ConfigError: for settings that cannot be run.
    """
    training = config.training
    monitor = _monitored(training.lr_scheduler_monitor, validator)
    optimizer, scheduler = training.optimizer(), training.scheduler(monitor)
    tree = in_names(config)
    own_scheduler = training.lr_scheduler_type is not None and scheduler.name == "none"
    held = [
        *_ELSEWHERE,
        *([] if optimizer is None else ["optimizer_type", "optimizer_args", "optimizer_kwargs"]),
        *([] if own_scheduler else ["lr_scheduler_type", "lr_scheduler_args", "lr_scheduler_kwargs"]),
    ]
    tree["training"] = {name: value for name, value in tree["training"].items() if name not in held}
    name, extra = tree.pop("name"), tree.pop("extra")
    return RunSettings.from_tree(
        {
            "model": {"type": GraphLearnerHparams.section, "name": name, "config": tree},
            "train": {
                "seed": training.seed,
                "device": training.device,
                "dir": training.path,
                "max_epochs": training.num_epochs,
            },
            "optimizer": optimizer,
            "scheduler": scheduler,
            "checkpoint": {"every_n_epochs": training.checkpoint_at, "monitor": None, "save_top_k": 0, "save_last": False},
            "extra": extra,
        }
    )


def _monitored(column: str, validator: Any) -> str:
    """The metric that a column of the validator is."""
    if isinstance(validator, Evaluator) and column not in validator.data:
        raise ConfigError(f"training.lr_scheduler_monitor={column}: no such column{nearest(column, validator.data.columns)}")
    return metric_name(column)


# What settings of the house are called in a configuration.
_NAMES = {("train", "max_epochs"): "training.num_epochs", ("checkpoint", "every_n_epochs"): "training.checkpoint_at"}


def check_same(directory: RunDirectory, settings: RunSettings) -> None:
    """Whether settings are those of a run; its place and its device may be others.

    Raises:
        ConfigError: naming the first that is not.
    """
    stored, own = directory.read_settings().tree(), settings.tree()
    for section in (*own, *(name for name in stored if name not in own)):
        old, new = (tree.get(section, {}) for tree in (stored, own))
        for name in dict.fromkeys((*old, *new)):
            if old.get(name) != new.get(name) and (section, name) not in (("train", "dir"), ("train", "device")):
                called = _NAMES.get((section, name), f"training.{name}" if section == "train" else f"{section}.{name}")
                raise ConfigError(f"{directory.path}: the run has {called}={old.get(name)}, not {new.get(name)}")
