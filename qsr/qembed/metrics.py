"""Scores of predictions: how often they are right, how well their confidence says so, and what the senses tell.

Class probabilities are (..., C) and labels (...,) integers; labels -100 (`IGNORED`) are left out. Scores are floats, NaN where
nothing is left to score. Logarithms are natural.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qsr.hparams.base import ConfigError
from qsr.qembed.functional import at_least_single, entropy

IGNORED = -100  # what torch's losses of classes leave out unless told otherwise


def class_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits (..., C) of labels (...,); one number for each label, (...,) or (..., 1), is the logit of class 1 against 0.

    Raises:
        ConfigError: for labels that are no classes, and shapes that do not belong together.
    """
    if labels.is_floating_point():
        raise ConfigError(f"labels: must be classes (integers), found {labels.dtype}")
    if logits.shape == labels.shape:
        logits = logits[..., None]
    if logits.shape[:-1] != labels.shape or not logits.dim():
        raise ConfigError(f"labels: must be (...,) for logits (..., C), found {tuple(labels.shape)} and {tuple(logits.shape)}")
    return at_least_two(logits)


def at_least_two(logits: Tensor) -> Tensor:
    """Logits (..., C); of a single one (..., 1), that of class 1, the two (..., 2) with 0 for class 0."""
    return torch.cat([torch.zeros_like(logits), logits], dim=-1) if logits.shape[-1] == 1 else logits


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Fraction of the labels that have the largest logit; a single logit (see `class_logits`) is class 1 above 0.

    NaN for labels that are no classes.

    Raises:
        ConfigError: for shapes that do not belong together.
    """
    if labels.is_floating_point():
        return math.nan
    right = class_logits(logits, labels).argmax(dim=-1) == labels
    return _mean(right[labels != IGNORED])


def expected_calibration_error(probs: Tensor, labels: Tensor, bins: int = 15) -> float:
    """sum_b n_b/n |accuracy_b - confidence_b| over bins (lo, hi] of equal width of the largest probability.

    (Guo, Pleiss, Sun, Weinberger, ICML 2017, arXiv 1706.04599, equation 3.)

    Raises:
        ConfigError: for bins below 1, labels outside the classes, and shapes that do not belong together.
    """
    if bins < 1:
        raise ConfigError(f"bins={bins}: must be at least 1")
    probs, labels = scored(probs, labels)
    return float(calibration_gaps(probs, labels, bins).abs().sum() / len(labels)) if len(labels) else math.nan


def calibration_gaps(probs: Tensor, labels: Tensor, bins: int = 15) -> Tensor:
    """Sums of (right - confidence) in each of the bins, (bins,) float64, of probs (n, C) and labels (n,): they add up."""
    confidence, predicted = probs.max(dim=-1)
    # Edges rounded as the confidences are: 0.6 in single precision lies above 0.6 in double.
    edges = (torch.arange(1, bins, dtype=torch.float64, device=probs.device) / bins).to(probs.dtype)
    excess = (predicted == labels).double() - confidence.double()
    return excess.new_zeros(bins).index_add(0, torch.bucketize(confidence, edges), excess)


def negative_log_likelihood(probs: Tensor, labels: Tensor) -> float:
    """Mean of -ln p(label), in nats; probabilities that have underflowed count as the smallest normal number.

    Raises:
        ConfigError: for labels outside the classes, and shapes that do not belong together.
    """
    probs, labels = scored(probs, labels)
    found = probs.gather(1, labels[:, None]).clamp_min(torch.finfo(probs.dtype).tiny)
    return _mean(-found.log())


def predictive_entropy(probs: Tensor) -> Tensor:
    """H(p) of class probabilities (..., C), (...,), in nats."""
    return entropy(probs)


def mutual_information(sample_probs: Tensor) -> Tensor:
    """H(mean_s p_s) - mean_s H(p_s) of S samples (S, ..., C), (...,), in [0, ln min(S, C)] nats.

    What the samples disagree about: the entropy of their mean that is not the mean of their entropies. (Depeweg et al.,
    ICML 2018, arXiv 1710.07283, equation 3.)
    """
    return (entropy(sample_probs.mean(dim=0)) - entropy(sample_probs).mean(dim=0)).clamp_min(0.0)


def error_detection_auroc(uncertainty: Tensor, correct: Tensor) -> float:
    """Probability that a wrong prediction is more uncertain than a right one; ties count half.

    NaN unless there are both.

    Args:
        uncertainty: (...,) any number that grows with doubt.
        correct: (...,) bool.

    Raises:
        ConfigError: for different shapes.
    """
    if uncertainty.shape != correct.shape:
        raise ConfigError(f"correct: must have the shape {tuple(uncertainty.shape)}, found {tuple(correct.shape)}")
    values, right = uncertainty.flatten(), correct.flatten().bool()
    num_right = int(right.sum())
    num_wrong = right.numel() - num_right
    if not num_right or not num_wrong:
        return math.nan
    # Mann-Whitney: equal values share the mean of their ranks.
    _, which, counts = values.unique(return_inverse=True, return_counts=True)
    ranks = counts.cumsum(dim=0).double() - 0.5 * (counts.double() - 1)
    wins = float(ranks[which][~right].sum()) - 0.5 * num_wrong * (num_wrong + 1)
    return wins / (num_wrong * num_right)


def normalized_mutual_information(outcomes: Tensor, senses: Tensor) -> float:
    """2 I(x; y) / (H(x) + H(y)) of the empirical distribution, in [0, 1]; 0 if either of them never changes.

    Args:
        outcomes: (...,) int64 senses that were found; negative: none, left out.
        senses: (...,) int64 true senses; negative: unknown, left out.

    Raises:
        ConfigError: for different shapes.
    """
    if outcomes.shape != senses.shape:
        raise ConfigError(f"senses: must have the shape {tuple(outcomes.shape)}, found {tuple(senses.shape)}")
    there = (outcomes >= 0) & (senses >= 0)
    if not bool(there.any()):
        return math.nan
    first, second = outcomes[there], senses[there]
    table = first.new_zeros(int(first.max()) + 1, int(second.max()) + 1, dtype=torch.float64)
    table.index_put_((first, second), table.new_ones(len(first)), accumulate=True)
    table /= table.sum()
    of_outcomes, of_senses = entropy(table.sum(dim=1)), entropy(table.sum(dim=0))
    shared = of_outcomes + of_senses - entropy(table.flatten())
    if not bool((of_outcomes > 0) & (of_senses > 0)):
        return 0.0
    return float((2 * shared / (of_outcomes + of_senses)).clamp(0.0, 1.0))


def _mean(values: Tensor) -> float:
    return float(values.double().mean()) if values.numel() else math.nan


def scored(probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities (M, C) and labels (M,) of what is not ignored."""
    if labels.is_floating_point():
        raise ConfigError(f"labels: must be classes (integers), found {labels.dtype}")
    if probs.shape[:-1] != labels.shape or not probs.dim():
        raise ConfigError(f"labels: must be (...,) for probs (..., C), found {tuple(labels.shape)} and {tuple(probs.shape)}")
    there = labels != IGNORED
    probs, labels = at_least_single(probs[there]), labels[there].long()
    if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= probs.shape[-1]):
        raise ConfigError(f"labels: lie between {int(labels.min())} and {int(labels.max())}; there are {probs.shape[-1]} classes")
    return probs, labels
