"""The configuration of a `QuantumTrainer`: the quantum settings, and those that are `train` settings elsewhere."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from qsr.hparams import ConfigError, Hparam
from qsr.hparams.base import nearest
from qsr.hparams.types import MetricName
from qsr.qembed.schedules import register_schedule
from qsr.qembed.settings import QuantumHparams

PRECISIONS = {False: "float32", "no": "float32", True: "bf16", "bf16": "bf16"}
NO_FLOAT16 = "gradients of float16 need scaling; bf16 has float32's range"
_CLIPPING = ("max_quantum_grad_norm", "separate_clipping")  # mean nothing without quantum_gradient_clipping


class QuantumConfig(QuantumHparams):
    """All that `quantum_training_config` may hold."""

    section: ClassVar[str] = "quantum_training_config"

    mixed_precision: bool | Literal["bf16", "fp16", "no"] = Hparam(
        False, help="True: networks compute in bf16; quantum embeddings stay in float32"
    )
    max_grad_norm: float | None = Hparam(
        None, gt=0, allow_inf_nan=False, help="bound on the norm of the gradient; clipped separately: of the classical parameters"
    )
    gradient_accumulation_steps: int = Hparam(1, ge=1, help="batches that make a step")
    seed: int = Hparam(0, ge=0, lt=2**63, help="of every draw while training")
    monitor: MetricName | None = Hparam(
        None, help="what early stopping and the best model look at; None: val_loss, and train_loss where there is no validation"
    )
    min_delta: float = Hparam(0.0, ge=0, allow_inf_nan=False, help="by how much it must get better to count")
    progress: bool = Hparam(False, help="show a bar")
    distributed_training: bool = Hparam(
        False, help="share the batches of a step among the processes of torch.distributed (as torchrun starts them)"
    )
    quantum_sync: bool = Hparam(False, help="collapse statistics are those of all processes, not of each one's own batches")
    entanglement_sync: bool = Hparam(False, help="the same for the entanglement")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], strict: bool = True) -> QuantumConfig:
        """Build from a mapping.

        Args:
            values: a schedule may be a function of the progress in [0, 1], which is registered under its name.
            strict: refuse unknown keys, or warn of them and leave them out.

        Raises:
            ConfigError: for what is no mapping, an unknown key, a wrong type or a value out of bounds.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"{cls.section}: must be a mapping of settings, found {type(values).__name__}")
        known = dict(values)
        if not strict:
            for name in [name for name in known if name not in cls.model_fields]:
                del known[name]
                warnings.warn(f"{cls.section}.{name}: unknown, and left out{nearest(name, cls.model_fields)}", stacklevel=2)
        if callable(known.get("superposition_schedule")):
            known["superposition_schedule"] = _registered(known["superposition_schedule"])
        found = cls(**known)
        if found.mixed_precision == "fp16":
            raise ConfigError(f"{cls.section}.mixed_precision=fp16: {NO_FLOAT16}, write True")
        given = [name for name in _CLIPPING if found[name] != cls.model_fields[name].default]
        idle = [] if found.quantum_gradient_clipping else given
        if idle:
            warnings.warn(f"{cls.section}.{idle[0]}: means nothing without quantum_gradient_clipping=True", stacklevel=2)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Every key with its value, ready for JSON."""
        return self.model_dump(mode="json")

    def quantum(self) -> QuantumHparams:
        """The part that belongs to the model."""
        return QuantumHparams(**{name: self[name] for name in QuantumHparams.model_fields})

    @property
    def precision(self) -> str:
        """The `train.precision` that `mixed_precision` means."""
        return PRECISIONS[self.mixed_precision]


def _registered(function: Callable[[float], float]) -> str:
    name = f"{function.__module__}.{function.__qualname__}"
    register_schedule(name, function)
    return name
