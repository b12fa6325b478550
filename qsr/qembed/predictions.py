"""Class probabilities of a network with quantum embeddings, averaged over sampled collapses, and how sure they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from qsr.hparams import ConfigError
from qsr.qembed.batches import parts_of
from qsr.qembed.learning import QuantumModel
from qsr.qembed.metrics import mutual_information, predictive_entropy
from qsr.qembed.passes import sample_passes
from qsr.qembed.reading import logits_of
from qsr.qembed.statistics import watched
from qsr.training.random import derived_seed
from qsr.training.supervised import moved

ROWS = 256  # sequences that are worked on at once


def predict(model: QuantumModel, batches: Iterable[Any], num_samples: int = 0, seed: int = 0) -> dict[str, Tensor]:
    """What the network says of batches, in evaluation mode; labels are not looked at.

    Args:
        num_samples: S of sampled collapses, whose probabilities are averaged; 0: one pass with the likeliest outcomes.
        seed: of the samples.

    Returns:
        On the CPU, for B rows: `probs` (B, ..., C), `predictions` (B, ...) the likeliest class, `total_entropy` (B, ...) of
        probs, `aleatoric` (B, ...) the mean entropy of the samples, `mutual_information` (B, ...) their difference (in nats;
        Depeweg et al., arXiv 1710.07283), and `uncertainty` (B,) of the senses, a mean over the tokens of a row: NaN without
        quantum embeddings. One logit stands for two classes.

    Raises:
        ConfigError: for a negative number of samples, and without batches.
    """
    if num_samples < 0:
        raise ConfigError(f"num_samples={num_samples}: must be at least 0")
    generator = torch.Generator().manual_seed(seed)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            parts = [_of_batch(model, moved(batch, model), num_samples, generator) for batch in batches]
    finally:
        model.train(training)
    if not parts:
        raise ConfigError("predict: there are no batches")
    return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}


def token_likelihoods(
    model: QuantumModel, columns: Mapping[str, Tensor], mask: int, num_words: int, num_samples: int = 0, seed: int = 0
) -> Tensor:
    """(S, L) -ln p(token | all others) in nats, of a network that fills in masked tokens: each is masked in its turn.

    NaN for tokens that cannot be predicted.

    Args:
        columns: `input_ids` (S, L), and what else the network takes.
        mask: the token that stands for a masked one.
        num_words: tokens below it can be predicted.
        num_samples, seed: as in `predict`; each position has samples of its own.
    """
    found = []
    for number, batch in enumerate(row_batches(columns)):
        ids = batch["input_ids"]
        nll = torch.full(ids.shape, torch.nan, dtype=torch.float64)
        for position in range(ids.shape[1]):
            rows = (ids[:, position] < num_words).nonzero().squeeze(1)
            if not len(rows):
                continue
            part = {name: column[rows].clone() for name, column in batch.items()}
            part["input_ids"][:, position] = mask
            probs = predict(model, [part], num_samples, derived_seed(seed, "collapse", number, position))["probs"][:, position]
            truth = probs.double().gather(1, ids[rows, position, None]).squeeze(1)
            nll[rows, position] = -truth.clamp_min(torch.finfo(probs.dtype).tiny).log()
        found.append(nll)
    return torch.cat(found)


def row_batches(columns: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Columns (S, ...) in batches that fit into the memory of a prediction."""
    parts = {name: column.split(ROWS) for name, column in columns.items()}
    return (dict(zip(parts, rows, strict=True)) for rows in zip(*parts.values(), strict=True))


def _of_batch(model: QuantumModel, batch: Any, num_samples: int, generator: torch.Generator) -> dict[str, Tensor]:
    inputs, _ = parts_of(batch)
    with watched(model.layers) as seen:
        single = model.class_probs(logits_of(model(inputs)))
    doubt = torch.full((len(single),), torch.nan, device=single.device)
    if seen:
        tokens = seen[0].mask.sum(dim=1).clamp_min(1)
        doubt = seen[0].uncertainty.sum(dim=1) / tokens
    samples = single[None]
    if num_samples:
        parallel = model.quantum.quantum_parallel
        samples = sample_passes(
            model, lambda rows: model.class_probs(logits_of(model(rows))), inputs, num_samples, parallel, generator
        )
    probs = samples.mean(dim=0)
    total, shared = predictive_entropy(probs), mutual_information(samples)
    return {
        "probs": probs,
        "predictions": probs.argmax(dim=-1),
        "total_entropy": total,
        "aleatoric": total - shared,
        "mutual_information": shared,
        "uncertainty": doubt,
    }
