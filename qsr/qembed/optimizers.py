"""AdamW with a rate of its own for each kind of parameter of a quantum embedding.

`params` is what torch takes (tensors, (name, tensor) pairs or dicts, also from a generator) or a module. Parameters are told
apart by their role (`qsr.qembed.roles`); quantum ones never decay: zero is no special value of an angle, a logit or a coupling.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qsr.hparams.base import ConfigError
from qsr.qembed.functional import check_name
from qsr.qembed.roles import role

Params = nn.Module | Iterable[Any]
UNCERTAINTY_MODES = ("damp", "boost")
_RATES = {"quantum": "quantum_learning_rate", "entanglement": "entanglement_lr"}  # option that a group has its rate from
_ROUNDING = 1e-4  # how far an uncertainty in single precision may lie outside [0, 1]


def role_groups(params: Params, **rates: float | None) -> list[dict[str, Any]]:
    """Parameter groups called 'classical', 'quantum' and, if `entanglement_lr` is among the rates, 'entanglement' (couplings).

    Dicts are divided each by itself and keep their options; a name of their own goes before.

    Args:
        **rates: `quantum_learning_rate`, `entanglement_lr`; None: the rate of the classical parameters. A dict may have its own.

    Raises:
        ConfigError: for what is no iterable of parameters, no parameters at all, and a rate that is no number of at least 0.
    """
    if isinstance(params, Tensor) or not isinstance(params, (nn.Module, Iterable)):
        raise ConfigError(f"params: must be a module or an iterable of parameters, found {type(params).__name__}")
    listed: list[Any] = list(params.parameters() if isinstance(params, nn.Module) else params)
    dicts = listed if listed and isinstance(listed[0], dict) else [{"params": listed}]
    if not all(isinstance(options, dict) and "params" in options for options in dicts):
        raise ConfigError("params: where one is a dict, all must be dicts with 'params'")
    groups = [group for options in dicts for group in _divided(options, rates)]
    if not groups:
        raise ConfigError("params: there are none (a generator can be read only once)")
    return groups


def _divided(options: Mapping[str, Any], rates: Mapping[str, float | None]) -> list[dict[str, Any]]:
    members = options["params"]
    kinds: dict[str, list[Any]] = {"classical": [], "quantum": [], "entanglement": []}
    for member in [members] if isinstance(members, Tensor) else members:
        found = role(member[1] if isinstance(member, tuple) else member)
        if found == "coupling" and _RATES["entanglement"] in rates:
            kinds["entanglement"].append(member)
        else:
            kinds["classical" if found == "classical" else "quantum"].append(member)
    shared = {key: value for key, value in options.items() if key not in rates}
    groups = []
    for kind, part in kinds.items():
        group = {**shared, "params": part, "name": "/".join([*filter(None, [options.get("name")]), kind])}
        if kind != "classical":
            group["weight_decay"] = 0.0
            option = _RATES[kind]
            rate = options.get(option, rates.get(option)) if option in rates else None
            if rate is not None:
                group["lr"] = _checked_rate(option, rate)
        if part:
            groups.append(group)
    return groups


def _checked_rate(name: str, value: float) -> float:
    if not isinstance(value, (int, float)) or not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"{name}={value!r}: must be a finite number of at least 0")
    return float(value)


def warn_of_left_out(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """A warning that names parameters of the model that the optimizer does not train.

    Raises:
        ConfigError: if it trains none of them.
    """
    known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    left_out = [name for name, value in model.named_parameters() if value.requires_grad and id(value) not in known]
    trained = [value for value in model.parameters() if id(value) in known]
    if left_out and not trained:
        raise ConfigError("optimizer: trains no parameter of this model; make it of model.parameters()")
    if left_out:
        rest = f" and {len(left_out) - 3} more" if len(left_out) > 3 else ""
        warnings.warn(f"optimizer: does not train {', '.join(left_out[:3])}{rest}", stacklevel=3)


class QuantumOptimizer(torch.optim.AdamW):
    """AdamW with a rate for quantum parameters, which do not decay.

    Args:
        params: see the module.
        lr: of classical parameters.
        quantum_learning_rate: of quantum parameters; None: `lr`.
        betas, eps: as in AdamW.
        weight_decay: of classical parameters.

    Raises:
        ConfigError: (a ValueError) for no parameters, and a rate out of bounds.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        quantum_learning_rate: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        groups = role_groups(params, quantum_learning_rate=quantum_learning_rate)
        super().__init__(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)


class EntanglementOptimizer(torch.optim.AdamW):
    """`QuantumOptimizer` with another rate, `entanglement_lr` (None: `lr`), for couplings between tokens.

    Raises:
        ConfigError: as `QuantumOptimizer`.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        entanglement_lr: float | None = None,
        quantum_learning_rate: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        groups = role_groups(params, quantum_learning_rate=quantum_learning_rate, entanglement_lr=entanglement_lr)
        super().__init__(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)


class UncertaintyOptimizer(torch.optim.AdamW):
    """AdamW whose rates are multiplied, within each step, by a factor m(u) of the uncertainty that was last set.

    m = 1 up to the threshold t, and 1 - (1 - min_factor) (u - t)/(1 - t) above. Schedulers see the rates without it, and before
    `set_uncertainty` was called it is 1.

    Args:
        params: see the module.
        lr: before the factor.
        uncertainty_threshold: t in (0, 1).
        min_factor: m at u = 1, in (0, 1].
        mode: 'damp': small steps where the model is uncertain, m; 'boost': large ones, 1/m.
        betas, eps: as in AdamW.
        weight_decay: of classical parameters.

    Raises:
        ConfigError: for no parameters, and a value out of bounds.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        uncertainty_threshold: float = 0.5,
        min_factor: float = 0.1,
        mode: str = "damp",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if not 0 < uncertainty_threshold < 1:
            raise ConfigError(f"uncertainty_threshold={uncertainty_threshold}: must be greater than 0 and less than 1")
        if not 0 < min_factor <= 1:
            raise ConfigError(f"min_factor={min_factor}: must be greater than 0 and at most 1")
        check_name("mode", mode, UNCERTAINTY_MODES)
        self.uncertainty_threshold, self.min_factor, self.mode = uncertainty_threshold, min_factor, mode
        self.rate_factor = 1.0
        super().__init__(role_groups(params), lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def set_uncertainty(self, uncertainty: float | Tensor) -> None:
        """The mean uncertainty in [0, 1] that decides the factor of the steps from now on.

        Raises:
            ConfigError: if it lies outside.
        """
        found = float(uncertainty)
        if not -_ROUNDING <= found <= 1 + _ROUNDING:
            raise ConfigError(f"uncertainty={found}: must be between 0 and 1")
        above = max(0.0, min(found, 1.0) - self.uncertainty_threshold) / (1 - self.uncertainty_threshold)
        factor = 1 - (1 - self.min_factor) * above
        self.rate_factor = factor if self.mode == "damp" else 1 / factor

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step of AdamW at `rate_factor` times the rates.

        Args:
            closure: computes gradients and returns the loss; it may set the uncertainty of this step.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] = group["lr"] * self.rate_factor
        try:
            _unhooked(torch.optim.AdamW.step)(self)
        finally:
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = rate
        return loss

    def __getstate__(self) -> dict[str, Any]:
        own = ("uncertainty_threshold", "min_factor", "mode", "rate_factor")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in own}}


def _unhooked(step: Callable[..., Any]) -> Callable[..., Any]:
    """What torch wrapped: it makes every class's `step` call the hooks, which would be called twice through that of a base."""
    return inspect.unwrap(step, stop=lambda found: not getattr(found, "hooked", False))
