"""What is recorded of a batch of tokens: the task, the classes, and the states of the senses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from qsr.hparams import ConfigError
from qsr.qembed.functional import at_least_single, shannon_uncertainty
from qsr.qembed.losses import observed_loss
from qsr.qembed.metrics import IGNORED, calibration_gaps, class_logits, scored
from qsr.qembed.output import QEmbedOutput
from qsr.qembed.reading import logits_of

_GAP = "_gap_"
# Metrics that are ratios of sums, over tokens, bonds or labels: no mean of what batches find. The last is what nothing gives.
_RATIOS = {
    "uncertainty": ("_uncertainty", "_tokens", 0.0),
    "superposition_coherence": ("_coherence", "_tokens", 0.0),
    "entanglement_strength": ("_entanglement", "_bonds", 0.0),
    "accuracy": ("_correct", "_labelled", math.nan),
    "nll": ("_nll", "_labelled", math.nan),
}


def parts_of_metrics(*names: str) -> tuple[str, ...]:
    """Metrics that are ratios, with the sums that they are made of."""
    return tuple(part for name in names for part in (name, *_RATIOS[name][:2]))


@contextmanager
def watched(layers: Sequence[nn.Module]) -> Iterator[list[QEmbedOutput]]:
    """What the quantum embeddings return in here, in the order of their calls."""
    seen: list[QEmbedOutput] = []

    def keep(module: nn.Module, inputs: Any, output: QEmbedOutput) -> None:
        seen.append(output)

    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def loss_of(loss_fn: Any, outputs: Any, labels: Tensor | None, seen: Sequence[QEmbedOutput]) -> tuple[Tensor, Tensor]:
    """The loss of a batch, and the part of it that the task alone has, without gradient.

    Losses find the quantities of the first embedding of the network, or else those that the outputs give.

    Raises:
        ConfigError: if there is no loss.
    """
    if loss_fn is None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
        if loss is None:
            raise ConfigError("loss_fn: None, and the outputs of the model carry no loss")
        return loss, loss.detach()
    if labels is None:
        raise ConfigError("batch: has no labels, which loss_fn needs")
    first = seen[0] if seen else None
    loss = observed_loss(loss_fn, outputs, labels, first)
    task = getattr(loss_fn, "last_components", {}).get("task")
    return loss, loss.detach() if task is None else loss.new_tensor(task)


def of_classes(logits: Tensor, labels: Tensor, ignored: int = IGNORED) -> dict[str, Tensor]:
    """Sums over a batch, divided by its size, of what `finished` makes accuracy and calibration of.

    Args:
        labels: classes, integers or (of one logit each) the zeros and ones of a binary cross entropy.
        ignored: the label that is left out.
    """
    classes, size = labels.long(), len(logits)
    classes = classes.masked_fill(classes == ignored, IGNORED)
    # Eight bits of a confidence are fewer than calibration asks about.
    probs, classes = scored(at_least_single(class_logits(logits, classes)).softmax(dim=-1), classes)  # (n, C) and (n,)
    likelihood = probs.gather(1, classes[:, None]).clamp_min(torch.finfo(probs.dtype).tiny).log()
    sums: dict[str, Any] = {
        "_labelled": probs.new_tensor(float(len(classes))),
        "_correct": (probs.argmax(dim=1) == classes).sum(),
        "_nll": -likelihood.sum(),
    }
    gaps = calibration_gaps(probs, classes)  # sums of (correct - confidence) in bins of the confidence
    sums |= {f"{_GAP}{number}": gap for number, gap in enumerate(gaps)}
    return {name: value / size for name, value in sums.items()}


def of_tokens(outputs: Any, seen: Sequence[QEmbedOutput]) -> dict[str, Tensor]:
    """Uncertainty, coherence and entanglement of the tokens of a batch, as means and as sums divided by the batch's size.

    Without quantum embeddings the uncertainty is the normalised entropy of the prediction, and the others are 0.
    """
    if not seen:
        logits = logits_of(outputs).detach()
        doubt = shannon_uncertainty(at_least_single(logits).softmax(dim=-1)).mean() if logits.dim() > 1 else logits.new_zeros(())
        return {
            "uncertainty": doubt,
            "superposition_coherence": doubt.new_zeros(()),
            "entanglement_strength": doubt.new_zeros(()),
        }
    size = len(seen[0].uncertainty)
    sums = {
        "_tokens": sum(found.mask.sum() for found in seen),
        "_uncertainty": sum(found.uncertainty.detach().sum() for found in seen),
        "_coherence": sum(found.coherence.detach().sum() for found in seen),
    }
    bonds = [found.bonds for found in seen if found.bonds is not None]
    if bonds:
        with torch.no_grad():
            sums["_entanglement"] = sum(bond.measure("entropy").sum() for bond in bonds)
        sums["_bonds"] = sum(bond.mask.sum() for bond in bonds)
    divided: dict[str, Tensor] = {name: torch.as_tensor(value) / size for name, value in sums.items()}
    found = {name: torch.as_tensor(value) for name, value in _ratios(divided).items()}
    return {"entanglement_strength": divided["_tokens"].new_zeros(()), **divided, **found}


def finished(means: Mapping[str, float]) -> dict[str, float]:
    """Metrics of an epoch from the means over samples of what `of_tokens` and `of_classes` found in its batches."""
    result = {name: value for name, value in means.items() if "/_" not in name}
    for phase in {name.partition("/")[0] for name in means}:
        sums = {name.partition("/")[2]: value for name, value in means.items() if name.startswith(f"{phase}/_")}
        result |= {f"{phase}/{name}": value for name, value in _ratios(sums).items()}
        gaps = [value for name, value in sums.items() if name.startswith(_GAP)]
        if gaps:  # Guo et al. 2017: sum_b |sum_{i in b} (correct_i - confidence_i)| / n
            labelled = sums["_labelled"]
            result[f"{phase}/ece"] = sum(map(abs, gaps)) / labelled if labelled else math.nan
    return result


def _ratios(sums: Mapping[str, Any]) -> dict[str, Any]:
    """Quotients of those sums that are there."""
    present = {name: parts for name, parts in _RATIOS.items() if parts[0] in sums}
    return {name: sums[part] / sums[whole] if sums[whole] else nothing for name, (part, whole, nothing) in present.items()}
