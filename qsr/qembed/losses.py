"""Losses of a task with quantum regularisers added: how certain, entangled, coherent and distinct the senses should be.

Every loss is called as `loss(outputs, labels, quantum_outputs=None)`. Outputs are logits, a tuple that starts with them, or an
object or mapping with `logits` and any of the quantities of `qsr.qembed.reading.Reading`; those of `quantum_outputs` go before
them. What is not given adds exactly 0. Logits (B, L, C) of labels (B, L) reach the loss of the task as (B L, C), and
labels -100 count nowhere.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from qsr.hparams.base import ConfigError
from qsr.qembed.entanglement import Bonds
from qsr.qembed.functional import (
    BOND_MEASURES,
    UNCERTAINTIES,
    at_least_single,
    check_name,
    masked_mean,
    sense_overlap,
    shannon_uncertainty,
)
from qsr.qembed.metrics import IGNORED, class_logits
from qsr.qembed.reading import Reading, logits_of

LossFunction = Callable[..., Tensor]
BASE_LOSSES: dict[str, Callable[[], nn.Module]] = {
    "cross_entropy": nn.CrossEntropyLoss,
    "mse": nn.MSELoss,
    "l1": nn.L1Loss,
    "nll": nn.NLLLoss,
}
UNCERTAINTY_TYPES = (*UNCERTAINTIES, "confidence_penalty", "calibration")
_CERTAIN = 1e-4  # a claimed error rate stays this far from 0 and 1, where one mistake would cost infinitely much


# --- terms ----------------------------------------------------------------------------------------------------------


def task_loss(loss_fn: LossFunction, logits: Tensor, labels: Tensor) -> Tensor:
    """loss_fn(logits, labels) as a scalar; 0 if no label counts, where a mean over nothing would be NaN.

    Logits (..., L, C) of labels (..., L) are flattened to (M, C) and (M,); single logits (..., 1) of float labels (...,) lose
    their last axis, which would broadcast.

    Raises:
        ConfigError: if the loss is not one number, and for labels that are no classes where it wants some.
    """
    if labels.is_floating_point():
        if isinstance(loss_fn, (nn.CrossEntropyLoss, nn.NLLLoss)) and labels.shape != logits.shape:
            raise ConfigError(f"labels: must be whole numbers (classes) for {type(loss_fn).__name__}, found {labels.dtype}")
        if logits.shape == (*labels.shape, 1):
            logits = logits.squeeze(-1)
    else:
        if bool((labels == ignored_label(loss_fn)).all()):
            return (0 * logits).sum()
        if labels.dim() > 1 and logits.shape[:-1] == labels.shape:
            logits, labels = logits.flatten(0, -2), labels.flatten()
    return _one_number(loss_fn(logits, labels))


def ignored_label(loss_fn: Any) -> int:
    """The label that a loss leaves out: its `ignore_index`, or that of its `base_loss`; -100 if they do not say."""
    found: int = getattr(base_of(loss_fn), "ignore_index", IGNORED)
    return found


def base_of(loss_fn: Any) -> Any:
    """The loss of the task in a loss: its `base_loss`, or itself."""
    return getattr(loss_fn, "base_loss", loss_fn)


def uncertainty_penalty(uncertainty: Tensor, mask: Tensor | None = None, target: float = 0.5) -> Tensor:
    """Mean of (u - u*)^2 over the tokens of the mask, of uncertainties (B, L); 0 if there are none."""
    return masked_mean((uncertainty - target).square(), mask)


def entanglement_penalty(entanglement: Bonds | Tensor, kind: str = "bell_state") -> Tensor:
    """1 - E, averaged over the bonds that are there; 0 if there are none.

    Args:
        entanglement: bonds, measured by `kind` (see `functional.bond_measure`), or E itself, (B, P).
    """
    if isinstance(entanglement, Bonds):
        return masked_mean(1 - entanglement.measure(kind), entanglement.mask)
    return masked_mean(1 - entanglement)


def calibration_penalty(uncertainty: Tensor, mask: Tensor | None, logits: Tensor, labels: Tensor) -> Tensor:
    """-mean[w ln u + (1 - w) ln(1 - u)], w = 1 where the likeliest class is wrong: least for u = P(wrong).

    Args:
        uncertainty: (B, L): of each label if labels are (B, L), else averaged over the tokens of a sequence.
        mask: (B, L) the tokens that count.

    Raises:
        ConfigError: for labels that are no classes, and shapes that do not belong together.
    """
    wrong = class_logits(logits, labels).argmax(dim=-1) != labels
    if uncertainty.shape != labels.shape and uncertainty.dim() == 2 and uncertainty.shape[:1] == labels.shape:
        counted = torch.ones_like(uncertainty) if mask is None else mask.to(uncertainty.dtype)
        uncertainty = (uncertainty * counted).sum(dim=1) / counted.sum(dim=1).clamp_min(1)
    if uncertainty.shape != labels.shape:
        raise ConfigError(f"uncertainty: must be (B, L), found {tuple(uncertainty.shape)} for labels {tuple(labels.shape)}")
    claimed = uncertainty.clamp(_CERTAIN, 1 - _CERTAIN)
    return masked_mean(-torch.where(wrong, claimed, 1 - claimed).log(), labels != IGNORED)


# --- losses ---------------------------------------------------------------------------------------------------------


class _Regularised(nn.Module):
    """The loss of a task plus `NAME_weight` times `penalty(NAME)` for each of `terms`.

    Attributes:
        last_components: what each part added in the last call, weights included; their sum is the loss.
    """

    expects_outputs: ClassVar[bool] = True
    terms: ClassVar[tuple[str, ...]] = ()

    def __init__(self, base_loss: LossFunction | str | None) -> None:
        super().__init__()
        if base_loss is None:
            base_loss = "cross_entropy"
        if isinstance(base_loss, type):
            raise ConfigError(f"base_loss: must be a loss, found the class {base_loss.__name__} itself")
        if not callable(base_loss):
            check_name("base_loss", base_loss, tuple(BASE_LOSSES))
            base_loss = BASE_LOSSES[base_loss]()
        self.base_loss: LossFunction = base_loss
        self.last_components: dict[str, float] = {}

    def penalty(self, term: str, reading: Reading, logits: Tensor, labels: Tensor) -> Tensor | None:
        """What a term is multiplied by its weight; None if the outputs do not say."""
        raise TypeError(f"{type(self).__name__} does not define penalty")

    def forward(self, outputs: Any, labels: Tensor, quantum_outputs: Any = None) -> Tensor:
        """The loss, a scalar.

        Raises:
            TypeError: for outputs without logits.
            ConfigError: for labels that do not fit.
        """
        logits = logits_of(outputs)
        reading = Reading(quantum_outputs, outputs)
        total = task_loss(self.base_loss, logits, labels)
        components = {"task": float(total.detach())}
        labels = labels.masked_fill(labels == ignored_label(self), IGNORED)  # as penalties know it
        for term in self.terms:
            weight = getattr(self, f"{term}_weight")
            penalty = self.penalty(term, reading, logits, labels) if weight else None
            components[term] = 0.0 if penalty is None else weight * float(penalty.detach())
            if penalty is not None:
                total = total + weight * penalty
        self.last_components = components
        return total

    def extra_repr(self) -> str:
        return ", ".join(f"{term}_weight={getattr(self, f'{term}_weight'):g}" for term in self.terms)


class QuantumLoss(_Regularised):
    """L = base + w_u <(u - u*)^2> + w_e (1 - <E>) + w_c (1 - <coherence>).

    <.> are means over the valid tokens and bonds of a batch, E the fidelity of a bond to the Bell state.

    Args:
        base_loss: of the task: a callable (logits, labels) -> scalar, or 'cross_entropy' (default), 'mse', 'l1' or 'nll'.
        uncertainty_weight, entanglement_weight, coherence_weight: w_u, w_e, w_c >= 0.
        uncertainty_target: u* in [0, 1].

    Raises:
        ConfigError: for a value out of bounds.
    """

    terms: ClassVar[tuple[str, ...]] = ("uncertainty", "entanglement", "coherence")

    def __init__(
        self,
        base_loss: LossFunction | str | None = None,
        uncertainty_weight: float = 0.1,
        entanglement_weight: float = 0.05,
        uncertainty_target: float = 0.5,
        coherence_weight: float = 0.0,
    ) -> None:
        super().__init__(base_loss)
        self.uncertainty_weight = _checked_weight("uncertainty_weight", uncertainty_weight)
        self.entanglement_weight = _checked_weight("entanglement_weight", entanglement_weight)
        self.coherence_weight = _checked_weight("coherence_weight", coherence_weight)
        self.uncertainty_target = _checked_target(uncertainty_target)

    def penalty(self, term: str, reading: Reading, logits: Tensor, labels: Tensor) -> Tensor | None:
        if term == "entanglement":
            return None if reading.entanglement is None else entanglement_penalty(reading.entanglement)
        values = reading.uncertainty if term == "uncertainty" else reading.coherence
        if values is None:
            return None
        mask = reading.mask_of(values)
        return (
            uncertainty_penalty(values, mask, self.uncertainty_target) if term == "uncertainty" else masked_mean(1 - values, mask)
        )


class UncertaintyLoss(_Regularised):
    """L = base + w <penalty of the uncertainty>, by `uncertainty_type`:

    - 'entropy': (u - u*)^2 of the Shannon uncertainty of the senses; where outputs do not give it, of the class probabilities;
    - 'von_neumann', 'purity', 'variance': the same of that uncertainty;
    - 'confidence_penalty': -H / ln C of the class probabilities (Pereyra et al., arXiv 1701.06548);
    - 'calibration': the log score of u as the probability of a wrong answer, least where it is that (`calibration_penalty`).

    Args:
        base_loss: as in `QuantumLoss`.
        uncertainty_weight: w >= 0.
        uncertainty_target: u* in [0, 1].

    Raises:
        ConfigError: for a value out of bounds and an unknown type.
    """

    terms: ClassVar[tuple[str, ...]] = ("uncertainty",)

    def __init__(
        self,
        base_loss: LossFunction | str | None = None,
        uncertainty_weight: float = 0.2,
        uncertainty_type: str = "entropy",
        uncertainty_target: float = 0.5,
    ) -> None:
        super().__init__(base_loss)
        check_name("uncertainty_type", uncertainty_type, UNCERTAINTY_TYPES)
        self.uncertainty_weight = _checked_weight("uncertainty_weight", uncertainty_weight)
        self.uncertainty_type = uncertainty_type
        self.uncertainty_target = _checked_target(uncertainty_target)

    def penalty(self, term: str, reading: Reading, logits: Tensor, labels: Tensor) -> Tensor | None:
        if self.uncertainty_type == "confidence_penalty":
            return -masked_mean(_class_entropy(logits, labels), labels != IGNORED)
        if self.uncertainty_type == "calibration":
            given = reading.uncertainty
            return None if given is None else calibration_penalty(given, reading.mask_of(given), logits, labels)
        values = reading.uncertainty_of(self.uncertainty_type)
        if values is not None:
            return uncertainty_penalty(values, reading.mask_of(values), self.uncertainty_target)
        if self.uncertainty_type != "entropy" or labels.is_floating_point():
            return None
        return uncertainty_penalty(_class_entropy(logits, labels), labels != IGNORED, self.uncertainty_target)


class EntanglementLoss(_Regularised):
    """L = base + w (1 - <E>): the base alone where every bond is as entangled as it can be.

    Args:
        base_loss: as in `QuantumLoss`.
        entanglement_weight: w >= 0.
        entanglement_type: E, see `functional.bond_measure`; outputs that give E as numbers have chosen already.

    Raises:
        ConfigError: for a value out of bounds and an unknown type.
    """

    terms: ClassVar[tuple[str, ...]] = ("entanglement",)

    def __init__(
        self,
        base_loss: LossFunction | str | None = None,
        entanglement_weight: float = 0.1,
        entanglement_type: str = "bell_state",
    ) -> None:
        super().__init__(base_loss)
        check_name("entanglement_type", entanglement_type, BOND_MEASURES)
        self.entanglement_weight = _checked_weight("entanglement_weight", entanglement_weight)
        self.entanglement_type = entanglement_type

    def penalty(self, term: str, reading: Reading, logits: Tensor, labels: Tensor) -> Tensor | None:
        found = reading.entanglement
        return None if found is None else entanglement_penalty(found, self.entanglement_type)


class SuperpositionLoss(_Regularised):
    """L = base + w <sum_{k != l} |<s_k|s_l>|^2 / (K (K - 1))>: senses of a token that are orthogonal can be told apart.

    Args:
        base_loss: as in `QuantumLoss`.
        superposition_weight: w >= 0.

    Raises:
        ConfigError: for a weight out of bounds.
    """

    terms: ClassVar[tuple[str, ...]] = ("superposition",)

    def __init__(self, base_loss: LossFunction | str | None = None, superposition_weight: float = 0.1) -> None:
        super().__init__(base_loss)
        self.superposition_weight = _checked_weight("superposition_weight", superposition_weight)

    def penalty(self, term: str, reading: Reading, logits: Tensor, labels: Tensor) -> Tensor | None:
        senses = reading.senses
        if senses is None:
            return None
        overlap = sense_overlap(senses)
        return masked_mean(overlap, reading.mask_of(overlap))


# --- losses of users ------------------------------------------------------------------------------------------------


def call_loss(
    loss_fn: LossFunction, outputs: Any, labels: Tensor, uncertainty: Tensor | None = None, quantum_outputs: Any = None
) -> Tensor:
    """A loss with the arguments that its signature asks for.

    With a true attribute `expects_outputs`, or a first parameter called `outputs`: loss_fn(outputs, labels). Any other gets the
    logits, as `task_loss` passes them on. `uncertainty` and `quantum_outputs`, quantities that the outputs lack, are given to
    losses with parameters of these names.

    Raises:
        TypeError: for outputs without logits, where they are asked for.
        ConfigError: if the loss is not one number.
    """
    names = _parameters(loss_fn)
    offered = {"uncertainty": uncertainty, "quantum_outputs": quantum_outputs}
    given = {name: value for name, value in offered.items() if name in names}
    if getattr(loss_fn, "expects_outputs", False) or names[:1] == ["outputs"]:
        return _one_number(loss_fn(outputs, labels, **given))
    return task_loss(functools.partial(loss_fn, **given) if given else loss_fn, logits_of(outputs), labels)


def observed_loss(loss_fn: LossFunction, outputs: Any, labels: Tensor, observed: Any = None) -> Tensor:
    """`call_loss` with the uncertainty that was observed, or else that of the outputs.

    Args:
        observed: quantities that the outputs lack, such as the output of a quantum embedding; None: nothing.
    """
    return call_loss(loss_fn, outputs, labels, Reading(observed, outputs).uncertainty, observed)


def _parameters(function: LossFunction) -> list[str]:
    try:
        return list(inspect.signature(function.forward if isinstance(function, nn.Module) else function).parameters)
    except ValueError:  # built-in functions may have no signature
        return []


def _one_number(found: Any) -> Tensor:
    if not isinstance(found, Tensor) or found.dim():
        shape = f"a tensor {tuple(found.shape)}" if isinstance(found, Tensor) else repr(found)
        raise ConfigError(f"loss: must be a tensor of one number (reduction='mean'), found {shape}")
    return found


def _class_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """H / ln C of the class probabilities, in the shape of the labels."""
    return shannon_uncertainty(at_least_single(class_logits(logits, labels)).softmax(dim=-1))


def _checked_weight(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"{name}={value!r}: must be a finite number of at least 0")
    return float(value)


def _checked_target(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ConfigError(f"uncertainty_target={value!r}: must be between 0 and 1")
    return float(value)
