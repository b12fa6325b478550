"""Settings of a training run: steps and batch, gradient clipping, checkpoints, early stopping."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from qsr.hparams.base import ConfigError, Hparam, Hparams
from qsr.hparams.types import MetricName
from qsr.training.schedule import Stage, parse_curriculum
from qsr.training.wall_time import parse_duration

NO_OUTPUT = "<NONE>"
DEFAULT_POINTS = 8


def _device_name(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise ValueError("must be auto, cpu, cuda or cuda:N")
    return value


DeviceName = Annotated[str, AfterValidator(_device_name)]


def _duration(value: str) -> str:
    parse_duration(value)
    return value


def _seconds(value: Any) -> Any:
    """Numbers are seconds; YAML reads 11:50:00 as such a number, too."""
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


Duration = Annotated[str, BeforeValidator(_seconds), AfterValidator(_duration)]


class TrainHparams(Hparams):
    """Batch, steps, learning rate, seed and output of a run (names as in NN-QSR)."""

    section: ClassVar[str] = "train"
    shorthands: ClassVar[dict[str, str]] = {"epochs": "max_epochs", "num_epochs": "max_epochs"}
    # Settings that mean nothing for models on data, and for samplers.
    of_samplers: ClassVar[tuple[str, ...]] = (
        *("L", "K", "K_final", "B", "points", "NLOOPS", "flips", "window", "steps", "curriculum", "sgrad", "true_grad"),
        "memory_MiB",
    )
    of_data: ClassVar[tuple[str, ...]] = ("max_epochs", "check_val_every_n_epoch")

    L: int | None = Hparam(None, ge=1, help="number of sites (8x8: L=64); without Lx and Ly the lattice is a square")
    Q: int = Hparam(1, ge=1, help="number of minibatches per step")
    K: int = Hparam(256, ge=1, help="number of samples per minibatch")
    K_final: int | None = Hparam(None, ge=2, help="samples per minibatch in the last step, growing geometrically from K; None: K")
    B: int | None = Hparam(None, ge=2, help="samples per step; always Q*K, refused if it is not")
    points: int | None = Hparam(
        None, ge=1, help="for ranges such as delta=0:3: points in them that a minibatch has, K/points samples at each; None: 8"
    )
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
    max_epochs: int = Hparam(10, ge=1, help="passes over the training data, for models on data")
    check_val_every_n_epoch: int = Hparam(1, ge=1, help="epochs between evaluations on the validation data")
    max_time: Duration | None = Hparam(
        None,
        help="time after which a process saves and stops, with exit status 75: 11:50:00, 1-12:00:00, 90m, 1.5h, or seconds; "
        "a resumed run has it again",
    )
    lr: float | None = Hparam(
        None,
        gt=0,
        allow_inf_nan=False,
        help="learning rate (the peak, where the scheduler has one); None: 0.005, 0.05 with spring and minsr, and for models on "
        "data the default of the optimizer",
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
    device: DeviceName = Hparam(
        "auto", help="where training computes: cpu, cuda, cuda:1, or auto (the first CUDA device, if there is one)"
    )
    deterministic: bool = Hparam(
        False, help="take only operations of torch that repeat bit for bit (docs/numerics.md); one that does not ends the run"
    )

    @model_validator(mode="before")
    @classmethod
    def _other_names(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = dict(values)
        for alias in cls.shorthands:
            if alias in values:
                if "max_epochs" in values:
                    raise ConfigError(f"train.{alias}={values[alias]}: another name of max_epochs, which is given, too")
                values["max_epochs"] = values.pop(alias)
        return values

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
                raise ConfigError(
                    f"train.steps={self.steps}: the stages of train.curriculum have {total} steps; leave it out (~train.steps)"
                )
        if any(character in "/\\:" or not character.isprintable() for character in self.sub_directory):
            raise ConfigError(f"train.sub_directory={self.sub_directory!r}: must be part of a name, without / \\ :")
        if "B" not in self.model_fields_set or self.B is None:
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
    def points_per_minibatch(self) -> int:
        """Of the ranges of a phase diagram."""
        return DEFAULT_POINTS if self.points is None else self.points

    @property
    def number_format(self) -> str:
        """Of the parameters, as torch names it."""
        return "float64" if self.precision == "float64" else "float32"

    @property
    def writes(self) -> bool:
        """Whether the run has an output directory."""
        return self.dir != NO_OUTPUT


class GradientClippingHparams(Hparams):
    """Bound on the norm of the whole gradient; natural gradients (spring, minsr) have optimizer.cap in its place."""

    section: ClassVar[str] = "gradient_clipping"

    max_norm: float | None = Hparam(1.0, gt=0, allow_inf_nan=False, help="largest norm of the gradient; None: no clipping")
    norm_type: float = Hparam(2.0, gt=0, help="which norm")


class CheckpointHparams(Hparams):
    """When a run is saved for resuming, and which weights of a model on data are kept beside that."""

    section: ClassVar[str] = "checkpoint"
    of_data: ClassVar[tuple[str, ...]] = (
        *("dirpath", "filename", "monitor", "mode", "save_last", "save_top_k", "every_n_epochs"),
    )

    every_n_steps: int | None = Hparam(
        None,
        ge=1,
        help="steps between checkpoints to resume from; None: 100 for samplers, at ends of epochs only for models on data",
    )
    every_n_epochs: int | None = Hparam(1, ge=1, help="epochs between checkpoints, at most one a second; None: only at the end")
    monitor: MetricName | None = Hparam(
        "validation/loss", help="metric that the best weights are chosen by; None: the newest are"
    )
    mode: Literal["min", "max"] = Hparam("min", help="whether the smallest or the largest value of it is best")
    save_top_k: int = Hparam(3, ge=-1, help="number of best weights to keep; 0: none, -1: all")
    save_last: bool = Hparam(True, help="keep the newest weights, too, as last.safetensors")
    dirpath: str | None = Hparam(None, help="where the weights go; None: best/ in the run directory")
    filename: str | None = Hparam(
        "{epoch:04d}",
        help="their names, made from epoch, step and metrics ('/' is written '_'): {epoch:04d}-{validation_loss:.3f}",
    )


class EarlyStoppingHparams(Hparams):
    """When the training of a model on data ends before `train.max_epochs`."""

    section: ClassVar[str] = "early_stopping"

    monitor: MetricName = Hparam("validation/loss", help="metric to watch (val_loss is another name)")
    min_delta: float = Hparam(0.0, ge=0, allow_inf_nan=False, help="smallest change that counts as better")
    patience: int = Hparam(3, ge=0, help="evaluations in a row without a better one after which training stops")
    mode: Literal["min", "max"] = Hparam("min", help="whether smaller or larger values are better")
    stopping_threshold: float | None = Hparam(None, help="stop as soon as the metric is better than this")
    divergence_threshold: float | None = Hparam(None, help="stop as soon as the metric is worse than this")
    check_finite: bool = Hparam(True, help="stop when the metric is not finite")
    restore_best_weights: bool = Hparam(False, help="go back to the weights of the best evaluation at the end")
    verbose: bool = Hparam(False, help="say of every evaluation whether it was better")


class ObjectiveHparams(Hparams):
    """What a run minimises; set by the job, not on the command line."""

    section: ClassVar[str] = "objective"

    name: Literal["energy", "teacher", "snapshots", "supervised"] = Hparam(
        "energy", help="the variational energy, KL(teacher || model), -log p of snapshots, or the loss of a model on data"
    )
