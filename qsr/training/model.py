"""Models of a user's own: a subclass says what it computes and what its loss is, and everything else is here."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, TypeVar

from torch import Tensor, nn

from qsr.hparams import Hparam, Hparams, RunSettings
from qsr.hparams.imports import find_class
from qsr.training.optimizers import OptimizerHparams, SchedulerHparams
from qsr.training.protocols import UpdateRule
from qsr.training.schedule import Stage
from qsr.training.schema import WithHparams
from qsr.training.settings import CheckpointHparams, EarlyStoppingHparams

TModelHparams = TypeVar("TModelHparams", bound="ModelHparams")


class ModelHparams(Hparams):
    """Settings of a model on data: those of its training are here, a subclass adds those of the network."""

    section: ClassVar[str] = "model"
    on_data: ClassVar[bool] = True
    data_section: ClassVar[str] = "data"  # of the data that it takes, if these do not say what they are
    # What a run has that sets neither; a rate for names of optimizers, others have torch's.
    default_rates: ClassVar[Mapping[str, float]] = {}
    default_epochs: ClassVar[int | None] = None

    module_name: str | None = Hparam(None, help="the model's class in full, package.module.Class")
    matmul_precision: Literal["highest", "high", "medium"] = Hparam(
        "highest", help="rounding of float32 matrix products while training (torch.set_float32_matmul_precision)"
    )
    optimizer: OptimizerHparams = Hparam(default_factory=OptimizerHparams, help="as the section optimizer")
    scheduler: SchedulerHparams | None = Hparam(default_factory=SchedulerHparams, help="as the section scheduler")
    checkpoint: CheckpointHparams | None = Hparam(default_factory=CheckpointHparams, help="as the section checkpoint")
    early_stopping: EarlyStoppingHparams | None = Hparam(None, help="as the section early_stopping")

    def agreed(self, data: Any) -> Any:
        """The settings of the data, with what this model needs to know of them.

        Raises:
            ConfigError: for settings that contradict those of the model.
        """
        return data

    def fitted(self, data: Any, batch: Any) -> Any:
        """These settings with what only the data can tell, as the number of features.

        Args:
            data: what the run trains on, a `PyTorchData` or a sequence of data sets or loaders.
            batch: its first batch.

        Raises:
            ConfigError: for data that do not fit the settings.
        """
        return self

    @property
    def label_of_runs(self) -> str:
        """The folder of runs of this model."""
        return (self.module_name or self.section).rpartition(".")[2]

    def own_settings(self) -> dict[str, Any]:
        """Settings that are not of the training."""
        return {name: self[name] for name in self if name not in ModelHparams.model_fields}

    def build(self) -> Any:
        """The model that `module_name` names, with new weights.

        Raises:
            ConfigError: if there is no name, or it may not be imported (see `qsr.hparams.imports`).
        """
        return find_class(str(self.module_name), Model, "model.module_name")(self)


class Model(nn.Module, WithHparams[TModelHparams]):
    """Base class of trainable models: `class MyModel(Model[MyHparams])` with `forward` and `compute_metrics`.

    `compute_metrics` returns a dictionary of metrics with the `loss` that is minimised among them. The names of its arguments
    decide what it gets: `(batch, batch_idx)` the batch as it comes; any others, as `(outputs, targets)`, outputs = self(inputs)
    and the targets, for batches of (inputs, targets) or of an object with targets in `.y`.

    Attributes:
        hparams_schema: the class of the settings, taken from the type parameter; inherited.
        thparams: the settings.
        logged: metrics of the last step, by their full names (`training/loss`).

    Raises:
        TypeError: for a subclass without a type parameter, and for settings of another type.
        ConfigError: for settings out of bounds.
    """

    shown: ClassVar[tuple[str, ...]] = ()  # metrics in the lines of the log and on the bar; none: all

    def __init__(self, hparams: TModelHparams | Mapping[str, Any]) -> None:
        super().__init__()
        self.take_hparams(hparams)
        self.logged: dict[str, float | Tensor] = {}

    def compute_metrics(self, *arguments: Any) -> Mapping[str, Tensor]:
        """The metrics of a batch, `loss` among them: a scalar tensor that the weights are trained on."""
        raise TypeError(f"{type(self).__name__} does not define compute_metrics")

    def prepare_fit(self, batches: Iterable[Any]) -> None:
        """Called once, before a run's first step, with the batches of the training data: to standardise, to start from them."""

    def begin_step(self, epoch: int, step: int, steps: int) -> None:
        """Called before each step of training, the `step`-th of `steps` in an epoch: for what changes along a run.

        Nothing of it needs saving: a run that is resumed begins its next step like any other.
        """

    def describe_data(self, objective: Any) -> list[str]:
        """Lines about what it learns from, for the log."""
        return []

    def finish_metrics(self, means: Mapping[str, float]) -> dict[str, float]:
        """What is reported of an epoch, from the means over samples of what was logged (`training/...`): for ratios and roots.

        Names that begin with an underscore (`training/_squares`) are for here only, and not kept of single steps.
        """
        return dict(means)

    # --- steps ------------------------------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of a batch; metrics are logged as `training/...`."""
        return self._step(batch, batch_idx, "training")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the metrics of a batch as `validation/...`."""
        self._step(batch, batch_idx, "validation")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log the metrics of a batch as `test/...`."""
        self._step(batch, batch_idx, "test")

    def _step(self, batch: Any, batch_idx: int, phase: str) -> Tensor:
        return self._evaluate_metrics(self._metrics(batch, batch_idx), phase)

    def _metrics(self, batch: Any, batch_idx: int) -> Mapping[str, Tensor]:
        names = list(inspect.signature(self.compute_metrics).parameters)[:2]
        if names[:1] == ["batch"] or names[1:] == ["batch_idx"]:
            return self.compute_metrics(batch, batch_idx)
        if hasattr(batch, "y"):
            return self.compute_metrics(self(batch), batch.y)
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            raise ValueError(
                f"{type(self).__name__}.compute_metrics(outputs, targets) needs batches of (inputs, targets), found "
                f"{type(batch).__name__}; define compute_metrics(batch, batch_idx) for others"
            )
        *inputs, targets = batch
        return self.compute_metrics(self(*inputs), targets)

    def _evaluate_metrics(self, metrics: Mapping[str, Tensor] | None, phase: str) -> Tensor:
        if metrics is None:
            raise ValueError("metrics must not be None: compute_metrics has to return a dictionary")
        if "loss" not in metrics:
            raise ValueError(f"metrics must contain a 'loss' key, found {', '.join(metrics) or 'none'}")
        if metrics["loss"].dim():
            raise ValueError(f"the 'loss' must be a scalar, found shape {tuple(metrics['loss'].shape)}")
        self.log_metrics({f"{phase}/{name}": value for name, value in metrics.items()})
        return metrics["loss"]

    def log_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Keep metrics for whoever trains the model."""
        self.logged = {name: value.detach() if isinstance(value, Tensor) else value for name, value in metrics.items()}

    # --- training ---------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> dict[str, Any]:
        """`{"optimizer": ...}`, and `"lr_scheduler"` if there is one; what is returned here is what trains.

        Raises:
            ConfigError: for arguments that torch refuses.
        """
        from qsr.training.rate import named_optimizer, named_scheduler, parameter_groups

        optimizer = named_optimizer(parameter_groups(self, self.thparams.optimizer), self.thparams.optimizer)
        scheduler = self.thparams.scheduler and self.thparams.scheduler.settled(samplers=False)
        if not scheduler or scheduler.name == "none":
            return {"optimizer": optimizer}
        return {"optimizer": optimizer, "lr_scheduler": named_scheduler(optimizer, scheduler)}

    def configure_update(self, settings: RunSettings, stage: Stage) -> UpdateRule:
        """What changes the weights: the optimizer, or a rule of the model's own.

        Raises:
            ConfigError: for arguments that it refuses.
        """
        from qsr.training.update import TorchUpdate

        return TorchUpdate(self, settings, stage)

    def configure_callbacks(self) -> list[Any]:
        """Callbacks that the settings ask for: the best weights are kept, and training may stop early."""
        from qsr.training.stopping import BestWeights, EarlyStopping

        found: list[Any] = []
        if self.thparams.checkpoint is not None:
            found.append(BestWeights(self.thparams.checkpoint))
        if self.thparams.early_stopping is not None:
            found.append(EarlyStopping(self.thparams.early_stopping))
        return found

    @property
    def num_params(self) -> int:
        """Number of trainable parameters."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    @property
    def num_params_by_module(self) -> dict[str, int]:
        """Number of trainable parameters of every submodule; all of them under "total"."""
        return {
            name or "total": sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
            for name, module in self.named_modules()
        }

    def fit_fast(
        self,
        train_loader: Any,
        val_loader: Any = None,
        n_epochs: int = 1,
        lr: float = 1e-3,
        accelerator: str = "cpu",
        precision: str | int = 32,
        verbose: bool = True,
    ) -> dict[str, float]:
        """A quick training with Adam(lr) that writes nothing; the optimizer, scheduler and early stopping of the settings rest.

        Args:
            train_loader, val_loader: iterables of batches with a length.
            accelerator: cpu, gpu or auto, or a device.
            precision: 32, 64 or bf16.
            verbose: show a bar.

        Returns:
            The metrics of the last epoch.
        """
        from qsr.training.fitting import fit_in_memory

        return fit_in_memory(self, train_loader, val_loader, n_epochs, lr, accelerator, precision, verbose)
