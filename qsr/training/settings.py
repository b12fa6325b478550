"""Settings of a training run: steps and batch, optimizer, scheduler, gradient clipping, checkpoints."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from qsr.hparams.base import ConfigError, Hparam, Hparams, nearest
from qsr.training.schedule import Stage, parse_curriculum

NATURAL_RATE = 0.05  # of spring and minsr: at 0.1 runs on 8x8 settle 4e-3 too high
NO_OUTPUT = "<NONE>"


def _device_name(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise ValueError("must be auto, cpu, cuda or cuda:N")
    return value


class TrainHparams(Hparams):
    """Batch, steps, learning rate, seed and output of a run (names as in NN-QSR)."""

    section: ClassVar[str] = "train"

    L: int | None = Hparam(None, ge=1, help="number of sites (8x8: L=64); without Lx and Ly the lattice is a square")
    Q: int = Hparam(1, ge=1, help="number of minibatches per step")
    K: int = Hparam(256, ge=1, help="number of samples per minibatch")
    K_final: int | None = Hparam(None, ge=2, help="samples per minibatch in the last step, growing geometrically from K; None: K")
    B: int | None = Hparam(None, ge=2, help="samples per step; always Q*K, refused if it is not")
    NLOOPS: int | None = Hparam(
        None, ge=1, help="number of loops over the sequence for the flips, at most its length; None: one per position"
    )
    flips: Literal["auto", "exact"] | Annotated[int, Field(ge=1)] = Hparam(
        "auto", help="flips per sample that local energies compute in full: exact (all), a number, or auto (what pays)"
    )
    window: Literal["auto"] | Annotated[int, Field(ge=0)] = Hparam(
        "auto", help="for sampled flips: patches after a flip whose conditionals are compared for every flip"
    )
    steps: int = Hparam(2000, ge=0, help="number of training steps")
    curriculum: str | None = Hparam(
        None, help="lattices to train on one after the other, with steps: 4x4:200,8x8:1000 ends on 8x8 after 1200 steps"
    )
    dir: str = Hparam("runs", min_length=1, help=f"output directory; {NO_OUTPUT} for no output")
    lr: float = Hparam(
        5e-3,
        gt=0,
        allow_inf_nan=False,
        help="learning rate (the peak, where the scheduler has one); with spring and minsr 0.05 if not given",
    )
    seed: int = Hparam(0, ge=0, lt=2**63, help="seed of the initial weights and of every draw")
    sgrad: bool = Hparam(False, help="build the graph of log p when sampling and keep it: more memory, the same gradient")
    true_grad: bool = Hparam(False, help="also differentiate the local energies through the flips (same mean, noisier, slower)")
    sub_directory: str = Hparam("", help="appended to the name of the run's directory")
    memory_MiB: int = Hparam(
        1024,
        ge=1,
        help="memory for a step's intermediate results (but the graph that sgrad keeps); results change by rounding only",
    )
    precision: Literal["float32", "float64", "tf32", "bf16"] = Hparam(
        "float32", help="what the network computes in while training; tf32 and bf16 runs are reported in float32"
    )
    device: Annotated[str, AfterValidator(_device_name)] = Hparam(
        "auto", help="where training computes: cpu, cuda, cuda:1, or auto (the first CUDA device, if there is one)"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Any:
        if self.curriculum is not None:
            try:
                total = sum(steps for _, _, steps in parse_curriculum(self.curriculum))
            except ValueError as error:
                raise ConfigError(f"train.curriculum={self.curriculum}: {error}") from None
            if "steps" not in self.model_fields_set:
                self.__dict__["steps"] = total  # not "set": it follows later changes of the curriculum
            elif self.steps != total:
                raise ConfigError(f"train.steps={self.steps}: the stages of train.curriculum have {total} steps; leave it out")
        if any(character in "/\\:" or not character.isprintable() for character in self.sub_directory):
            raise ConfigError(f"train.sub_directory={self.sub_directory!r}: must be part of a name, without / \\ :")
        if "B" not in self.model_fields_set:
            self.__dict__["B"] = self.Q * self.K  # not "set": it follows later changes of Q and K
        elif self.B != self.Q * self.K:
            raise ConfigError(f"train.B={self.B}: must be Q*K = {self.Q}*{self.K} = {self.Q * self.K}")
        if self.Q * self.K < 2:
            raise ConfigError(f"train.K={self.K}: a step needs at least two samples (Q*K = {self.Q * self.K})")
        return self

    def stages(self) -> list[Stage]:
        """The stages of the run; without a curriculum there is one, on the lattice of the settings."""
        if self.curriculum is None:
            return [Stage(0, self.steps)]
        stages: list[Stage] = []
        sizes = parse_curriculum(self.curriculum)
        for index, (rows, columns, steps) in enumerate(sizes):
            first = stages[-1].end if stages else 0
            stages.append(Stage(first, first + steps, (rows, columns), index, final=index == len(sizes) - 1))
        return stages

    @property
    def number_format(self) -> str:
        """Of the parameters, as torch names it."""
        return "float64" if self.precision == "float64" else "float32"

    @property
    def writes(self) -> bool:
        """Whether the run has an output directory."""
        return self.dir != NO_OUTPUT


class NamedHparams(Hparams):
    """A class of torch by its name, with its keyword arguments written beside the name: `name=SGD momentum=0.9`."""

    # Arguments that are set elsewhere -> where.
    reserved: ClassVar[dict[str, str]] = {}

    name: str
    kwargs: dict[str, Any] = Hparam({}, help="keyword arguments of the class, typed as in its signature")

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
        found = {choice.lower(): choice for choice in cls.choices()}.get(name.lower())
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


class OptimizerHparams(NamedHparams):
    """Any optimizer of torch.optim, or a natural gradient: minsr (arXiv 2302.01941) or spring (arXiv 2401.10190).

    spring: momentum=0.9 shift=1e-2 final_shift=None cap=0.3; minsr: the same without momentum. The shift regularises the
    equations and goes to final_shift by the end of the run; cap bounds a step (root mean square change of log psi).
    """

    section: ClassVar[str] = "optimizer"
    reserved: ClassVar[dict[str, str]] = {"lr": "set train.lr instead", "params": "the model's parameters are used"}

    natural: ClassVar[tuple[str, ...]] = ("spring", "minsr")

    name: str = Hparam("Adam", help="class in torch.optim, or spring, or minsr; its arguments follow as name=value")

    @property
    def default_rate(self) -> float:
        """The learning rate of a run that does not set one."""
        return NATURAL_RATE if self.name in self.natural else float(TrainHparams.model_fields["lr"].default)

    @classmethod
    def choices(cls) -> list[str]:
        import torch

        # The base class; one for sparse gradients only; one for matrices only, and every model here has vectors, too; and
        # one that evaluates the loss again on samples of weights that it has changed since, where it means nothing.
        excluded = ("Optimizer", "SparseAdam", "Muon", "LBFGS")
        found = [name for name, value in vars(torch.optim).items() if inspect.isclass(value) and name not in excluded]
        return [*found, *cls.natural]

    @classmethod
    def target(cls, name: str) -> Any:
        import torch

        return getattr(torch.optim, name)

    @classmethod
    def keyword_defaults(cls, name: str) -> dict[str, Any]:
        if name not in cls.natural:
            return super().keyword_defaults(name)
        defaults = {field.name: field.default for field in fields(NaturalGradientArguments)}
        return defaults if name == "spring" else {key: value for key, value in defaults.items() if key != "momentum"}

    def natural_gradient(self) -> NaturalGradientArguments | None:
        """The arguments of a natural gradient with their defaults; None for an optimizer of torch.

        Raises:
            ConfigError: for an argument out of bounds.
        """
        if self.name not in self.natural:
            return None
        without = {"momentum": 0.0} if self.name == "minsr" else {}
        return NaturalGradientArguments(**without, **self.kwargs)

    @model_validator(mode="after")
    def _valid_arguments(self) -> Any:
        self.natural_gradient()
        return self


class SchedulerHparams(NamedHparams):
    """Any learning-rate scheduler of torch.optim.lr_scheduler, stepped once per training step."""

    section: ClassVar[str] = "scheduler"
    reserved: ClassVar[dict[str, str]] = {"optimizer": "the run's optimizer is used", "max_lr": "set train.lr instead"}

    # On 4x4 (benchmarks/defaults.py) half the error of a constant rate after 1000 steps, but more of it after 200.
    name: str = Hparam("OneCycleLR", help="class in torch.optim.lr_scheduler, or none; its arguments follow as name=value")

    @classmethod
    def choices(cls) -> list[str]:
        import torch

        module = torch.optim.lr_scheduler
        # These need Python callables or other schedulers as arguments, or a metric that an endless sampler does not have.
        excluded = ("LRScheduler", "LambdaLR", "MultiplicativeLR", "SequentialLR", "ChainedScheduler", "ReduceLROnPlateau")
        return ["none", *(name for name in module.__all__ if name not in excluded)]

    @classmethod
    def target(cls, name: str) -> Any:
        import torch

        return None if name == "none" else getattr(torch.optim.lr_scheduler, name)


class GradientClippingHparams(Hparams):
    """Bound on the norm of the whole gradient; natural gradients (spring, minsr) have optimizer.cap in its place."""

    section: ClassVar[str] = "gradient_clipping"

    max_norm: float | None = Hparam(1.0, gt=0, allow_inf_nan=False, help="largest norm of the gradient; None: no clipping")
    norm_type: float = Hparam(2.0, gt=0, help="which norm")


class CheckpointHparams(Hparams):
    """When a run is saved for resuming."""

    section: ClassVar[str] = "checkpoint"

    every_n_steps: int = Hparam(100, ge=1, help="steps between checkpoints; the last two are kept")


class ObjectiveHparams(Hparams):
    """What a run minimises; set by the job, not on the command line."""

    section: ClassVar[str] = "objective"

    name: Literal["energy", "teacher"] = Hparam("energy", help="the variational energy, or KL(teacher || model)")
