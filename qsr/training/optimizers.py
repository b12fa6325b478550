"""Settings that name a class of torch: the optimizer and the scheduler."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from qsr.hparams.base import ConfigError, Hparam, Hparams, nearest
from qsr.hparams.registry import registered_optimizers, resolve
from qsr.hparams.types import MetricName

FIRST_ORDER_RATE = 5e-3
NATURAL_RATE = 0.05  # of spring and minsr: at 0.1 runs on 8x8 settle 4e-3 too high


class NamedHparams(Hparams):
    """A class of torch by its name, with its keyword arguments written beside the name: `name=SGD momentum=0.9`.

    `module_name="torch.optim.SGD"` is the same name in full. Only names from torch's own lists are understood, and nothing is
    imported for them.
    """

    # Arguments that are set elsewhere -> where.
    reserved: ClassVar[dict[str, str]] = {}
    # Classes of torch that cannot be used here -> why.
    refused: ClassVar[dict[str, str]] = {}
    shorthands: ClassVar[dict[str, str]] = {"module_name": "the name in full: torch.optim.SGD"}
    module: ClassVar[str] = ""

    name: str
    kwargs: dict[str, Any] = Hparam({}, help="keyword arguments of the class, typed as in its signature")

    @classmethod
    def unknown_name(cls, name: str) -> str:
        return f"{super().unknown_name(name)} (arguments of the class stand in kwargs: {cls.section}.kwargs.{name})"

    @property
    def module_name(self) -> str | None:
        """The class in full; None where there is none."""
        if self.target(self.name) is None:
            return None
        return self.full_names().get(self.name, f"{self.module}.{self.name}")

    @classmethod
    def full_names(cls) -> dict[str, str]:
        """Names of classes that are not in `module`, with where they are: package.module.Class."""
        return {}

    @model_validator(mode="before")
    @classmethod
    def _full_name(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "module_name" not in values:
            return values
        values = dict(values)
        full = values.pop("module_name")
        if "name" in values:
            raise ConfigError(f"{cls.section}.module_name={full}: name={values['name']} is given, too")
        return {**values, "name": "none" if full is None else full}

    @classmethod
    def target(cls, name: str) -> Any:
        """The torch class of that name, or None."""
        raise TypeError(f"{cls.__name__} is an abstract section")

    @classmethod
    def choices(cls) -> list[str]:
        """Every name that is understood."""
        raise TypeError(f"{cls.__name__} is an abstract section")

    @classmethod
    def parse_text(cls, values: Mapping[str, str]) -> dict[str, Any]:
        """Words that are not fields are keyword arguments of the named class; their type is that of its default."""
        values = dict(values)
        if "module_name" in values and "name" not in values:
            values["name"] = values.pop("module_name")
        name = values.get("name", cls.model_fields["name"].default)
        own = {key: cls.parse_value(key, text) for key, text in values.items() if key in cls.model_fields and key != "kwargs"}
        if "kwargs" in values:
            raise ConfigError(f"{cls.section}.kwargs: write the arguments themselves, for example name=SGD momentum=0.9")
        words = {key: text for key, text in values.items() if key not in cls.model_fields}
        if words:
            defaults = cls.keyword_defaults(cls.canonical(name))
            own["kwargs"] = {key: _typed(f"{cls.section}.{key}", text, defaults.get(key)) for key, text in words.items()}
        return own

    @classmethod
    def canonical(cls, name: str) -> str:
        """The name in torch's capitals.

        Raises:
            ConfigError: for a name that there is not.
        """
        elsewhere = {full: short for short, full in cls.full_names().items()}
        short = elsewhere.get(str(name), str(name).removeprefix(f"{cls.module}.")).lower()
        reason = {refused.lower(): why for refused, why in cls.refused.items()}.get(short)
        if reason is not None:
            raise ConfigError(f"{cls.section}.name={name}: {reason}")
        found = {choice.lower(): choice for choice in cls.choices()}.get(short)
        if found is None:
            raise ConfigError(f"{cls.section}.name={name}: unknown {cls.section}{nearest(name, cls.choices())}")
        return found

    @classmethod
    def keyword_defaults(cls, name: str) -> dict[str, Any]:
        """Keyword arguments of the named class with their defaults (`inspect.Parameter.empty` if it has none)."""
        target = cls.target(name)
        if target is None:
            return {}
        parameters = list(inspect.signature(target.__init__).parameters.values())[2:]  # without self and params/optimizer
        return {parameter.name: parameter.default for parameter in parameters}

    @model_validator(mode="after")
    def _known_class(self) -> Any:
        self.__dict__["name"] = self.canonical(self.name)
        known = self.keyword_defaults(self.name)
        for key in self.kwargs:
            if key in self.reserved:
                raise ConfigError(f"{self.section}.{key}: {self.reserved[key]}")
            if key not in known:
                raise ConfigError(f"{self.section}.{key}: {self.name} has no such argument{nearest(key, known)}")
        return self


def _typed(where: str, text: str, default: Any) -> Any:
    """`text` in the type of an argument's default; numbers where the default does not tell."""
    try:
        if isinstance(default, bool) or (default is None and text.lower() in ("true", "false")):
            return {"true": True, "false": False}[text.lower()]
        if text.lower() == "none":
            return None
        if isinstance(default, str):
            return text
        if isinstance(default, (tuple, list)) or "," in text:
            return [float(part) for part in text.strip("()[]").split(",")]
        # torch writes float defaults as integers (momentum=0), so whole numbers stay whole and others are floats.
        return int(text) if text.lstrip("+-").isdigit() else float(text)
    except (ValueError, KeyError):
        raise ConfigError(f"{where}={text}: must be of the type of its default, {default!r}") from None


@dataclass(frozen=True)
class NaturalGradientArguments:
    """Arguments of `optimizer.name=spring`; minsr has all but the momentum (see `qsr.training.spring`).

    Attributes:
        momentum: share of the last direction that a step keeps where the samples say nothing else, in [0, 1).
        shift: added to the diagonal of the kernel.
        final_shift: where the shift has gone, geometrically, by the end of the run; None: it stays.
        cap: longest step, as the root mean square change of log psi over the samples; None: no bound.

    Raises:
        ConfigError: for a value out of bounds.
    """

    momentum: float = 0.9
    shift: float = 1e-2
    final_shift: float | None = None
    cap: float | None = 0.3

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            default = type(self).__dataclass_fields__[name]
            if value is None and "None" in str(default.type):
                continue
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if name == "momentum" and not (number and 0 <= value < 1):
                raise ConfigError(f"optimizer.momentum={value}: must be at least 0 and less than 1")
            if name != "momentum" and not (number and value > 0):
                raise ConfigError(f"optimizer.{name}={value}: must be a number greater than 0")


class GroupHparams(Hparams):
    """Other arguments of the optimizer for some of a model's parameters."""

    section: ClassVar[str] = "optimizer.groups"

    param_name_contains: tuple[str, ...] = Hparam(
        min_length=1, help="parameters with any of these in their names; the first group that fits a parameter has it"
    )
    params: dict[str, Any] = Hparam(help="arguments that differ from those of the section")

    @model_validator(mode="after")
    def _named(self) -> Any:
        if not all(self.param_name_contains):
            raise ConfigError(f"{self.label('param_name_contains')}={list(self.param_name_contains)}: no part may be empty")
        return self


class OptimizerHparams(NamedHparams):
    """Any optimizer of torch.optim, or a natural gradient: minsr (arXiv 2302.01941) or spring (arXiv 2401.10190).

    For models on data also QuantumOptimizer, EntanglementOptimizer and UncertaintyOptimizer: AdamW with rates of their own for
    the parameters of quantum embeddings (quantum_learning_rate, entanglement_lr), or rates that fall with the uncertainty.

    spring: momentum=0.9 shift=1e-2 final_shift=None cap=0.3; minsr: the same without momentum. The shift regularises the
    equations and goes to final_shift by the end of the run; cap bounds a step (root mean square change of log psi).
    """

    section: ClassVar[str] = "optimizer"
    module: ClassVar[str] = "torch.optim"
    of_data: ClassVar[tuple[str, ...]] = ("groups",)
    reserved: ClassVar[dict[str, str]] = {"params": "the model's parameters are used"}
    refused: ClassVar[dict[str, str]] = {
        "Optimizer": "is the base class of optimizers",
        "SparseAdam": "is for sparse gradients, which no model here has",
        "Muon": "is for matrices only, and every model here has other parameters, too",
    }

    natural: ClassVar[tuple[str, ...]] = ("spring", "minsr")

    name: str = Hparam("Adam", help="class in torch.optim, or spring, or minsr; its arguments follow as name=value")
    groups: tuple[GroupHparams, ...] = Hparam((), help="arguments for some parameters of a model on data (in files and Python)")

    @property
    def default_rate(self) -> float:
        """The learning rate of a sampler's run that does not set one."""
        return NATURAL_RATE if self.name in self.natural else FIRST_ORDER_RATE

    @property
    def own_default_rate(self) -> float:
        """torch's default of the class."""
        return float(self.keyword_defaults(self.name).get("lr", NATURAL_RATE))

    @classmethod
    def choices(cls) -> list[str]:
        import torch

        found = [name for name, value in vars(torch.optim).items() if inspect.isclass(value) and name not in cls.refused]
        return [*found, *cls.natural, *registered_optimizers()]

    @classmethod
    def target(cls, name: str) -> Any:
        import torch

        elsewhere = registered_optimizers().get(name)
        return getattr(torch.optim, name) if elsewhere is None else resolve(elsewhere)

    @classmethod
    def full_names(cls) -> dict[str, str]:
        return {name: target.replace(":", ".") for name, target in registered_optimizers().items()}

    @classmethod
    def keyword_defaults(cls, name: str) -> dict[str, Any]:
        if name not in cls.natural:
            return super().keyword_defaults(name)
        defaults = {"lr": NATURAL_RATE, **{field.name: field.default for field in fields(NaturalGradientArguments)}}
        return defaults if name == "spring" else {key: value for key, value in defaults.items() if key != "momentum"}

    def natural_gradient(self) -> NaturalGradientArguments | None:
        """The arguments of a natural gradient with their defaults; None for an optimizer of torch.

        Raises:
            ConfigError: for an argument out of bounds.
        """
        if self.name not in self.natural:
            return None
        without = {"momentum": 0.0} if self.name == "minsr" else {}
        return NaturalGradientArguments(**without, **{key: value for key, value in self.kwargs.items() if key != "lr"})

    def check_sampler(self) -> None:
        """What a sampler's run cannot do.

        Raises:
            ConfigError: naming it.
        """
        if self.name == "LBFGS":
            raise ConfigError(
                f"{self.section}.name=LBFGS: evaluates the loss again on samples of weights that it has changed since, where it "
                "means nothing; use spring"
            )
        if self.name in registered_optimizers():
            raise ConfigError(f"{self.section}.name={self.name}: is for models on data")
        if self.groups:
            raise ConfigError(f"{self.section}.groups: are for models on data")

    @model_validator(mode="after")
    def _valid_arguments(self) -> Any:
        self.natural_gradient()
        known = self.keyword_defaults(self.name)
        for group in self.groups:
            for key in group.params:
                if key not in known or key in self.reserved:
                    raise ConfigError(f"{group.label('params')}: {self.name} has no argument {key}{nearest(key, known)}")
        if self.groups and self.name == "LBFGS":
            raise ConfigError(f"{self.section}.groups: LBFGS takes all parameters in one group")
        for group in self.groups:
            self._try({**self.kwargs, **group.params}, group.label("params"))
        return self

    def _try(self, arguments: Mapping[str, Any], where: str) -> None:
        """Whether torch takes the arguments: what it finds wrong in a group it says only of the defaults."""
        import torch

        try:
            self.target(self.name)([torch.zeros(1)], **arguments)
        except (TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise ConfigError(f"{where}: {self.name} refuses {dict(arguments)} ({error})") from None


class SchedulerHparams(NamedHparams):
    """Any learning-rate scheduler of torch.optim.lr_scheduler; stepped once per training step of a sampler."""

    section: ClassVar[str] = "scheduler"
    module: ClassVar[str] = "torch.optim.lr_scheduler"
    reserved: ClassVar[dict[str, str]] = {"optimizer": "the run's optimizer is used", "max_lr": "set train.lr instead"}
    automatic: ClassVar[str] = "OneCycleLR"  # what `auto` means for samplers

    # On 4x4 (benchmarks/defaults.py) OneCycleLR halves the error of a constant rate after 1000 steps, but not after 200.
    name: str = Hparam(
        "auto",
        help="class in torch.optim.lr_scheduler, or none; arguments follow as name=value; auto: OneCycleLR for samplers, none "
        "for models on data",
    )
    interval: Literal["auto", "epoch", "step"] = Hparam(
        "auto", help="what it is stepped by; auto: steps for samplers, epochs for models on data"
    )
    monitor: MetricName = Hparam("validation/loss", help="metric that ReduceLROnPlateau looks at")

    @property
    def module_name(self) -> str | None:
        return None if self.name in ("auto", "none") else f"{self.module}.{self.name}"

    @classmethod
    def choices(cls) -> list[str]:
        import torch

        module = torch.optim.lr_scheduler
        # These need Python callables or other schedulers as arguments.
        excluded = ("LRScheduler", "LambdaLR", "MultiplicativeLR", "SequentialLR", "ChainedScheduler")
        return ["auto", "none", *(name for name in module.__all__ if name not in excluded)]

    @classmethod
    def target(cls, name: str) -> Any:
        import torch

        return None if name == "none" else getattr(torch.optim.lr_scheduler, cls.automatic if name == "auto" else name)

    def settled(self, samplers: bool) -> SchedulerHparams:
        """With what `auto` stands for.

        Raises:
            ConfigError: for what a sampler's run, which has no epochs and no validation, cannot do.
        """
        name, interval = self.name, self.interval
        if name == "auto":
            name = self.automatic if samplers or self.kwargs else "none"
        if interval == "auto":
            interval = "step" if samplers or name == self.automatic else "epoch"
        if name == "ReduceLROnPlateau" and interval == "step" and not samplers:
            raise ConfigError("scheduler.interval=step: ReduceLROnPlateau looks at evaluations, which come with epochs")
        if samplers and interval == "epoch":
            raise ConfigError("scheduler.interval=epoch: a sampler's run has steps only")
        if samplers and name == "ReduceLROnPlateau":
            raise ConfigError(f"scheduler.name={name}: needs validation data, which a sampler's run does not have")
        return self.updated({"name": name, "interval": interval})
