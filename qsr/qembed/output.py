"""What a quantum embedding returns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from qsr.qembed.entanglement import Bonds
from qsr.qembed.senses import Senses


@dataclass(frozen=True)
class QEmbedOutput:
    """Embeddings of B sequences of L tokens and the quantum statistics of their K senses; zero (outcome -1) at padding.

    Iterating gives `(embeddings, uncertainty)`.

    Attributes:
        embeddings: (B, L, D).
        uncertainty: (B, L) in [0, 1], before the measurement.
        residual_uncertainty: (B, L) what is left of it: 0 where the token collapsed.
        probs: (B, L, K) outcome probabilities p' after context and entanglement.
        amplitudes: (B, L, K) complex sqrt(p') exp(i phi).
        outcome: (B, L) int64 sense that was found, -1 where none was.
        collapse_mask: (B, L) bool: the token was measured ('soft': and the outcome not read).
        coherence: (B, L) normalised l1 coherence, dephased by the collapse probability.
        log_prob_outcome: (B,) ln of the joint probability of the outcomes; 0 if there are none.
        bonds: states of the pairs of tokens, for `Bonds.measure` of any kind; None without entanglement.
        mask: (B, L) bool: the tokens that count.
        sense_vectors: of the tokens, also at padding; see `senses`.
    """

    embeddings: Tensor
    uncertainty: Tensor
    residual_uncertainty: Tensor
    probs: Tensor
    amplitudes: Tensor
    outcome: Tensor
    collapse_mask: Tensor
    coherence: Tensor
    log_prob_outcome: Tensor
    bonds: Bonds | None
    mask: Tensor
    sense_vectors: Senses

    @property
    def senses(self) -> Tensor:
        """(B, L, K, C) complex unit vectors of the senses, made when asked for."""
        return self.sense_vectors.complex() * self.mask[..., None, None]

    @property
    def entanglement(self) -> Tensor | None:
        """(B, P) normalised entropy of the bonds, 0 where there is none; computed when asked for (P singular value problems)."""
        return None if self.bonds is None else self.bonds.measure("entropy")

    def __iter__(self) -> Iterator[Tensor]:
        yield self.embeddings
        yield self.uncertainty
