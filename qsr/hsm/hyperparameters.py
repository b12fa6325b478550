"""Configurations of Hilbert-space models in the words of the QCML client, which become the settings of a run.

Each class holds what its user writes. The settings of the run, which `tree` makes of it, are what is checked.
"""

from __future__ import annotations

import logging
import random
from typing import Any, ClassVar, Literal, get_args

from pydantic import model_validator

from qsr.hparams import ConfigError, Hparam, Hparams, RunSettings
from qsr.hsm.settings import HSM
from qsr.training.optimizers import OptimizerHparams

logger = logging.getLogger(__name__)

_NO_RATE = (
    "Learning rate ('lr' or 'learning_rate') not found in optimizer_config.default_params or any group_params. The optimizer's "
    "default LR will be used if available."
)
_LARGER_IS_BETTER = ("accuracy", "acc", "r2")


def _rate(params: dict[str, Any]) -> dict[str, Any]:
    """Arguments with torch's name of the learning rate."""
    if "learning_rate" in params and "lr" in params:
        raise ConfigError("optimizer_config: lr and learning_rate are both given; they are one setting")
    return {"lr" if name == "learning_rate" else name: value for name, value in params.items()}


class PerGroupOptimizerParams(Hparams):
    """Other arguments of the optimizer for parameters with one of these parts in their names."""

    section: ClassVar[str] = "group_params"

    param_name_contains: list[str] = Hparam(help="parts of names: input_diags, input_trius, output_pauli_coeffs, ...")
    params: dict[str, Any] = Hparam(help="arguments that differ from default_params")


class OptimizerConfig(Hparams):
    """An optimizer of torch.optim."""

    section: ClassVar[str] = "optimizer_config"

    type: str = Hparam(help="class in torch.optim")
    default_params: dict[str, Any] = Hparam({}, help="its arguments")
    group_params: list[PerGroupOptimizerParams] | None = Hparam(None, help="other arguments for some parameters")

    def tree(self) -> dict[str, Any]:
        """The section `optimizer` of a run."""
        groups = self.group_params or []
        if not any(
            name in params for params in (self.default_params, *(g.params for g in groups)) for name in ("lr", "learning_rate")
        ):
            logger.warning(_NO_RATE)
        kwargs = _rate(self.default_params)
        default = OptimizerHparams.keyword_defaults(OptimizerHparams.canonical(self.type)).get("lr")
        if default is not None:
            kwargs = {"lr": default, **kwargs}
        return {
            "name": self.type,
            "kwargs": kwargs,
            "groups": [{"param_name_contains": g.param_name_contains, "params": _rate(g.params)} for g in groups],
        }


class LossFunctionConfig(Hparams):
    """A loss of torch.nn, or of one's own (package.module.Class, where it is allowed)."""

    section: ClassVar[str] = "loss_fn_config"

    type: str = Hparam(help="class in torch.nn")
    params: dict[str, Any] = Hparam({}, help="its arguments; weights as lists of numbers")

    def tree(self) -> dict[str, Any]:
        """The section `loss` of a run."""
        return {"name": self.type, "kwargs": self.params}


class SchedulerConfig(Hparams):
    """A learning-rate scheduler of torch.optim.lr_scheduler."""

    section: ClassVar[str] = "scheduler_config"

    type: str = Hparam(help="class in torch.optim.lr_scheduler")
    params: dict[str, Any] = Hparam(help="its arguments; of ReduceLROnPlateau also the metric to monitor")
    interval: Literal["epoch", "step"] = Hparam("epoch", help="what it is stepped by")

    def tree(self) -> dict[str, Any]:
        """The section `scheduler` of a run."""
        if self.type != "ReduceLROnPlateau":
            return {"name": self.type, "kwargs": self.params, "interval": self.interval}
        if self.interval == "step":
            logger.warning("scheduler_config.interval=step: ReduceLROnPlateau looks at evaluations; stepped by epochs")
        params = dict(self.params)
        monitor = params.pop("monitor", "val_loss")
        if not isinstance(monitor, str):
            raise ConfigError(f"scheduler_config.params.monitor={monitor!r}: must be the name of a metric")
        mode = "max" if monitor.rpartition("_")[2] in _LARGER_IS_BETTER else "min"
        return {"name": self.type, "kwargs": {"mode": mode, **params}, "interval": "epoch", "monitor": monitor}


class EarlyStoppingConfig(Hparams):
    """When training ends early."""

    section: ClassVar[str] = "early_stopping_config"

    monitor: str = Hparam(help="metric to watch: val_loss, val_accuracy, train_loss, ...")
    min_delta: float = Hparam(0.0001, help="smallest change that counts as better")
    patience: int = Hparam(10, help="evaluations without a better one after which training stops")
    mode: Literal["min", "max"] = Hparam("min", help="whether smaller or larger values are better")
    verbose: bool = Hparam(False, help="say of every evaluation whether it was better")
    restore_best_weights: bool = Hparam(True, help="go back to the best weights at the end")

    def tree(self) -> dict[str, Any]:
        """The section `early_stopping` of a run."""
        if self.patience < 1:
            raise ConfigError(f"early_stopping_config.patience={self.patience}: must be at least 1")
        return {**self.model_dump(), "check_finite": False}  # a loss that is not finite is never the best


class GradientClippingConfig(Hparams):
    """Bound on the norm of the gradient."""

    section: ClassVar[str] = "gradient_clipping_config"

    max_norm: float = Hparam(help="largest norm")
    norm_type: float = Hparam(2.0, help="which norm; inf, or 'inf', for the largest component")

    def tree(self) -> dict[str, Any]:
        """The section `gradient_clipping` of a run."""
        return self.model_dump()


class ModelHyperparameters(Hparams):
    """What all models share: data, training, optimizer, loss.

    Numbers of operators that are not given are those of the data.

    Raises:
        ConfigError: for everything that the run's settings refuse, on construction.
    """

    section: ClassVar[str] = "hyperparameters"

    hsm_model: str = Hparam(help="general, pauli, general_fullenergy or pauli_fullenergy")
    weighted_layer: bool = Hparam(False, help="a trainable factor on every feature")
    epochs: int = Hparam(help="passes over the training data")
    batch_size: int = Hparam(help="samples per batch")
    split: float = Hparam(0.2, help="share of the test data; of the rest, the same share is for validation")
    seed: int | None = Hparam(42, help="of everything that is drawn; None: one is drawn, and recorded")
    targets: str | list[str] = Hparam(help="columns to predict; target is an old name")
    input_features: list[str] | None = Hparam(None, help="columns to predict from; None: all others")
    device: str = Hparam("auto", help="auto (CUDA if there is a GPU, else CPU), cpu, cuda or cuda:N")
    num_workers: int = Hparam(0, help="not needed: tables are in memory")
    pin_memory: bool = Hparam(False, help="not needed: tables are in memory")
    optimizer_config: OptimizerConfig
    loss_fn_config: LossFunctionConfig
    scheduler_config: SchedulerConfig | None = None
    early_stopping_config: EarlyStoppingConfig | None = None
    gradient_clipping_config: GradientClippingConfig | None = None

    # Settings of the model that a subclass has as fields of the same name.
    architecture: ClassVar[tuple[str, ...]] = ()

    @property
    def targets_list(self) -> list[str]:
        """The target columns as a list."""
        return [self.targets] if isinstance(self.targets, str) else list(self.targets)

    def tree(self) -> dict[str, Any]:
        """The sections of a run; what the data decide is left open."""
        loader = {"batch_size": self.batch_size, "num_workers": self.num_workers, "pin_memory": self.pin_memory, "shuffle": True}
        data = {"targets": self.targets_list, "input_features": self.input_features, "split": self.split, "seed": self.seed}
        clipping = self.gradient_clipping_config
        sections: dict[str, Any] = {
            "model": {
                "type": "hsm",
                "hsm_model": self.hsm_model,
                "weighted_layer": self.weighted_layer,
                "loss": self.loss_fn_config.tree(),
                **{name: self[name] for name in self.architecture},
            },
            "train": {"max_epochs": self.epochs, "seed": self.seed, "device": self.device},
            "data": {"type": "table", **data, "loader": loader},
            "optimizer": self.optimizer_config.tree(),
            "gradient_clipping": {"max_norm": None} if clipping is None else clipping.tree(),
        }
        for name, config in (("scheduler", self.scheduler_config), ("early_stopping", self.early_stopping_config)):
            if config is not None:
                sections[name] = config.tree()
        return sections

    @model_validator(mode="before")
    @classmethod
    def _old_name(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "target" not in values:
            return values
        if "targets" in values:
            raise ConfigError("hyperparameters.target: an old name of targets, which is given, too")
        logger.warning("hyperparameters.target: is called targets now")
        return {"targets" if name == "target" else name: value for name, value in values.items()}

    @model_validator(mode="after")
    def _can_be_run(self) -> Any:
        if not self.targets_list:
            raise ConfigError("hyperparameters.targets: At least one target must be specified.")
        # The client has no models without targets.
        kinds = [kind for kind in get_args(HSM.model_fields["hsm_model"].annotation) if kind != "geometry"]
        if self.hsm_model not in kinds:
            raise ConfigError(
                f"hyperparameters.hsm_model={self.hsm_model}: hsm_model type '{self.hsm_model}' is not explicitly handled or is "
                f"missing. Available types are: {', '.join(kinds)}"
            )
        if not self.device.startswith("cuda:") and self.device not in ("auto", "cpu", "cuda"):
            words = f"Unsupported device: {self.device}. Must be 'auto', 'cpu', 'cuda' or 'cuda:N'."
            raise ConfigError(f"hyperparameters.device={self.device}: {words}")
        if self.seed is None:
            self.__dict__["seed"] = random.randrange(2**31)
            logger.info("hyperparameters.seed=%d was drawn", self.seed)
        self._check_monitors()
        if self.architecture or self.hsm_model.startswith("general"):  # the base class does not say how many qubits
            RunSettings.from_tree(self.tree())
        return self

    def _check_monitors(self) -> None:
        plateau, stopping = self.scheduler_config, self.early_stopping_config
        if plateau is None or stopping is None or plateau.type != "ReduceLROnPlateau":
            return
        watched = plateau.params.get("monitor", "val_loss")
        if watched != stopping.monitor:
            logger.warning(
                "Scheduler 'ReduceLROnPlateau' monitors '%s' while EarlyStopping monitors '%s'. Ensure these are compatible or "
                "intentional.",
                watched,
                stopping.monitor,
            )


class GeneralHSModelHyperparameters(ModelHyperparameters):
    """A model with Hermitian matrices."""

    architecture: ClassVar[tuple[str, ...]] = (
        *("input_operator_count", "output_operator_count", "hilbert_space_dims", "beta", "complex", "eigh_eps"),
    )

    input_operator_count: int | None = Hparam(None, help="number of features")
    output_operator_count: int | None = Hparam(None, help="number of targets, or of classes")
    hilbert_space_dims: int = Hparam(help="dimension of the Hilbert space")
    beta: float | None = Hparam(None, help="inverse temperature; None: ground states")
    complex: bool = Hparam(True, help="complex or real operators")
    eigh_eps: float | None = Hparam(1e-8, help="added to the diagonal")


class PauliHSModelHyperparameters(ModelHyperparameters):
    """A model with sums of Pauli strings."""

    architecture: ClassVar[tuple[str, ...]] = (
        *("input_operator_count", "output_operator_count", "qubits_count"),
        *("input_operator_pauli_weight", "output_operator_pauli_weight", "eigh_eps"),
    )

    input_operator_count: int | None = Hparam(None, help="number of features")
    output_operator_count: int | None = Hparam(None, help="number of targets, or of classes")
    qubits_count: int = Hparam(help="number of qubits")
    input_operator_pauli_weight: int | None = Hparam(None, help="most letters other than I in a string of A_k")
    output_operator_pauli_weight: int | None = Hparam(None, help="most letters other than I in a string of B_t")
    eigh_eps: float | None = Hparam(1e-8, help="added to the diagonal")
