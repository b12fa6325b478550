"""The configuration of the graph trainer: its sections, and the house's settings of a run that they mean."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, model_validator
from torch import Tensor

from qsr.graph.constructor import Named, naming, section_or_constructor
from qsr.graph.data import GraphDataHparams
from qsr.hparams import ConfigError, Hparam, Hparams
from qsr.training import DataLoaderHparams, OptimizerHparams, SchedulerHparams
from qsr.training.default_early_stopping import DefaultEarlyStoppingHparams, StoppingTask
from qsr.training.monitors import EvaluatorTask
from qsr.training.optimizers import NamedHparams
from qsr.training.settings import DeviceName


def _folder_name(name: str) -> str:
    if not re.fullmatch(r"[\w.=+\-]*\w[\w.=+\-]*", name):
        raise ValueError("names a folder; letters, digits and . = + - _ are allowed")
    return name


def _level(value: int | str) -> int | str:
    if isinstance(value, str) and not isinstance(logging.getLevelName(value.upper()), int):
        raise ValueError("must be a level of logging, such as INFO")
    return value.upper() if isinstance(value, str) else value


def _no_class(criterion: Any) -> Any:
    if isinstance(criterion, type):
        raise ValueError(f"is the class {criterion.__name__}; expected a function (outputs, data) -> the loss")
    return criterion


Criterion = Annotated[Named, AfterValidator(_no_class)]


class GraphLoaderHparams(DataLoaderHparams):
    """How batches are made of graphs (torch_geometric.loader.DataLoader)."""

    batch_size: int = Hparam(ge=1, help="graphs per batch")
    pin_memory: bool = Hparam(True, help="put batches into page-locked memory; only where the device is a GPU")
    prefetch_factor: int | None = Hparam(None, ge=2, help="batches that each worker has ready; needs num_workers")

    @model_validator(mode="after")
    def _with_workers(self) -> Any:
        for name in ("prefetch_factor", "persistent_workers"):
            if self[name] and not self.num_workers:
                raise ConfigError(f"{self.label(name)}={self[name]}: needs num_workers of at least 1")
        return self


class TrainingHparams(GraphLoaderHparams):
    """Epochs, optimizer, device, and the batches that are trained on."""

    section = "training"

    seed: int = Hparam(0, ge=0, lt=2**63, help="of the initial weights, the split and every draw")
    device: DeviceName = Hparam("auto", help="cpu, cuda, cuda:1, or auto (the first CUDA device, if there is one)")
    path: str = Hparam("runs", min_length=1, help="run directories are made below it, <path>/<name>/<number>")
    num_epochs: int = Hparam(ge=1, help="passes over the training data")
    optimizer_type: Named = Hparam(torch.optim.Adam, help="class of the optimizer")
    optimizer_args: tuple[Any, ...] = Hparam((), help="its arguments after the parameters")
    optimizer_kwargs: dict[str, Any] = Hparam(default_factory=dict, help="its keyword arguments")
    lr_scheduler_type: Named | None = Hparam(None, help="class of the learning-rate scheduler; None: there is none")
    lr_scheduler_args: tuple[Any, ...] = Hparam((), help="its arguments after the optimizer")
    lr_scheduler_kwargs: dict[str, Any] = Hparam(default_factory=dict, help="its keyword arguments")
    lr_scheduler_interval: Literal["epoch", "step"] = Hparam("epoch", help="what it is stepped by")
    lr_scheduler_monitor: str = Hparam("loss_avg", help="column of the validator that ReduceLROnPlateau looks at")
    checkpoint_at: int | None = Hparam(
        None, ge=1, help="epochs between checkpoints to resume from, at most one a second; None: one at the end"
    )
    shuffle: bool = Hparam(True, help="another order of the training data in every epoch")
    data: GraphDataHparams | None = Hparam(None, help="of training alone; then validation and testing have theirs, too")

    @model_validator(mode="after")
    def _with_a_scheduler(self) -> Any:
        for name in ("lr_scheduler_args", "lr_scheduler_kwargs"):
            if self[name] and self.lr_scheduler_type is None:
                raise ConfigError(f"{self.label(name)}={self[name]}: there is no lr_scheduler_type that it could be for")
        return self

    def optimizer(self) -> OptimizerHparams | None:
        """The optimizer as the house calls it; None for one of a user's own."""
        found = _named(OptimizerHparams, self.optimizer_type, self.optimizer_args, self.optimizer_kwargs)
        rate = 0.0 if found is None else found["kwargs"].get("lr", 0.0)
        if isinstance(rate, bool) or not isinstance(rate, (int, float, Tensor)):
            raise ConfigError(f"training.optimizer_kwargs.lr={rate!r}: must be a number")
        with naming("training.optimizer_kwargs"):
            return None if found is None else OptimizerHparams(**found)

    def scheduler(self, monitor: str) -> SchedulerHparams:
        """The scheduler as the house calls it; `none` also for one of a user's own, with its interval and monitor."""
        when: dict[str, Any] = {"interval": self.lr_scheduler_interval, "monitor": monitor}
        if self.lr_scheduler_type is None:
            return SchedulerHparams(name="none", **when)
        found = _named(SchedulerHparams, self.lr_scheduler_type, self.lr_scheduler_args, self.lr_scheduler_kwargs)
        with naming("training.lr_scheduler_kwargs"):
            return SchedulerHparams(**(found or {"name": "none"}), **when)


class EvaluatorHparams(Hparams):
    """What an evaluation computes."""

    section = "evaluator"

    device: DeviceName | None = Hparam(None, help="None: training.device; no other can be used, the model is there")
    criterion: Criterion | None = Hparam(None, help="(outputs, data) -> the loss; None: that of the training")
    evaluator_tasks: tuple[EvaluatorTask, ...] = Hparam((), help="further columns, each with a name and a monitor")
    apply_model: Named | None = Hparam(None, help="(model, data) -> outputs; None: that of the training")


ValidatorField = Annotated[Any, section_or_constructor(EvaluatorHparams, "validation.validator")]
TesterField = Annotated[Any, section_or_constructor(EvaluatorHparams, "testing.tester")]
StoppingField = Annotated[Any, section_or_constructor(DefaultEarlyStoppingHparams, "early_stopping")]


class ValidationHparams(GraphLoaderHparams):
    """Batches and evaluator of the validation data."""

    section = "validation"

    validator: ValidatorField = Hparam(None, help="what is computed of them after each epoch; None: the loss alone")
    data: GraphDataHparams | None = Hparam(None, help="of validation alone, where training has data of its own")


class TestingHparams(GraphLoaderHparams):
    """Batches and evaluator of the test data."""

    section = "testing"

    tester: TesterField = Hparam(None, help="what is computed of them; None: nothing is tested")
    data: GraphDataHparams | None = Hparam(None, help="of testing alone")


class GraphConfig(Hparams):
    """All that `Trainer.from_config` takes."""

    section = "config"

    name: Annotated[str, AfterValidator(_folder_name)] = Hparam("run", help="folder of the runs below training.path")
    log_level: Annotated[int | str, AfterValidator(_level)] = Hparam("INFO", help="what output.txt of the run is to have")
    training: TrainingHparams
    data: GraphDataHparams | None = None
    model: dict[str, Any] = Hparam(help="type, args and kwargs of a model, or the parts of a GNNModel")
    validation: ValidationHparams
    testing: TestingHparams
    early_stopping: StoppingField = Hparam(None, help="tasks, mode and patience; None: all epochs are done")
    criterion: Criterion = Hparam(help="(outputs, data) -> the loss; a third argument is the trainer")
    apply_model: Named | None = Hparam(None, help="(model, data) -> outputs; None: model(x, edge_index, batch)")
    extra: dict[str, Any] = Hparam(default_factory=dict, help="free keys")

    @model_validator(mode="after")
    def _one_layout_of_data(self) -> Any:
        own = {name: self[name].data is not None for name in ("training", "validation", "testing")}
        parts = [name for name, there in own.items() if there]
        shares = 0 if self.data is None else len(self.data.split)
        if (shares, parts) not in ((0, []), (0, list(own)), (3, []), (2, ["testing"])):
            where = [*([f"data with a split in {shares}"] if shares else []), *(f"{name}.data" for name in parts)]
            raise ConfigError(
                f"data: Unsupported data config: found {', '.join(where)}; expected data with a split in three, data with a "
                "split in two and testing.data, or training.data, validation.data and testing.data"
            )
        return self


def config_sections() -> dict[str, type[Hparams]]:
    """The classes of the sections of a configuration, by where they stand."""
    from qsr.graph.settings import GNNModelHparams

    return {
        "training": TrainingHparams,
        "data": GraphDataHparams,
        "model": GNNModelHparams,
        "validation": ValidationHparams,
        "validation.validator, testing.tester": EvaluatorHparams,
        "evaluator_tasks, each": EvaluatorTask,
        "testing": TestingHparams,
        "early_stopping": DefaultEarlyStoppingHparams,
        "early_stopping.tasks, each": StoppingTask,
    }


def _named(schema: type[NamedHparams], kind: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Name and keyword arguments of a class of torch; None for another, and for arguments that the house sets elsewhere."""
    name = getattr(kind, "__name__", "")
    if name not in schema.choices() or schema.target(name) is not kind or any(key in schema.reserved for key in kwargs):
        return None
    names = list(schema.keyword_defaults(name))
    if len(args) > len(names):
        raise ConfigError(f"training.{schema.section}: {name} takes at most {len(names)} arguments, found {len(args)}")
    return {"name": name, "kwargs": {**dict(zip(names, args, strict=False)), **kwargs}}
