"""Data of which everything is known, for the benchmarks of quantum embeddings: snapshots of a Rydberg ring, and sentences.

The ring has 12 atoms and H = -(Omega/2) sum_i X_i - delta sum_i n_i + Omega Rb^6 sum_{i<j} n_i n_j / d_ij^6 with Omega = 1 and
distances along the ring in lattice constants. Its 4096 configurations are enumerated: networks are scored on all of them, each
with its exact probability, and beside the exact posterior. Tokens are patches of three neighbouring atoms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qsr.hamiltonians import RydbergHamiltonian, configurations, ground_state
from qsr.lattice import Lattice
from qsr.qembed.patches import PatchTokens

Array = NDArray[np.float64]
Points = tuple[tuple[float, float], ...]  # (delta, Rb)

NUM_SITES = 12
TOKENS = PatchTokens.of_lattice((NUM_SITES, 1), "3")
BINS = 15  # of the calibration error


# ---- the ring --------------------------------------------------------------------------------------------------------


def phases(disordered: Sequence[float], ordered: Sequence[float]) -> tuple[Points, Points, Points]:
    """Points in the disordered phase and in those with every second and every third atom excited, by their detunings."""

    def grid(detunings: Sequence[float], radii: Sequence[float]) -> Points:
        return tuple((delta, radius) for delta in detunings for radius in radii)

    return grid(disordered, (1.4, 2.3)), grid(ordered, (1.3, 1.5)), grid(ordered, (2.2, 2.4))


PHASES = phases((0.0, 0.6, 1.0), (1.6, 2.2, 3.0))
OTHER_COUPLINGS = phases((0.2, 0.8), (1.8, 2.6))  # of the same phases


@cache
def born(points: tuple[Points, ...]) -> Array:
    """(C, 2^N) probability of each configuration in each phase, whose points are equally likely; bit i of the index is n_i."""
    ring = Lattice(NUM_SITES, 1, "periodic")

    def at(delta: float, radius: float) -> Array:
        return np.square(ground_state(RydbergHamiltonian(ring, V=radius**6, Omega=1.0, delta=delta), num_levels=1).amplitudes)

    return np.stack([np.mean([at(*point) for point in phase], axis=0) for phase in points])


class ReadoutErrors(NamedTuple):
    """P(0|1) and P(1|0): how often an excited atom is seen in the ground state, and the other way round."""

    e10: float
    e01: float


NOISE = ReadoutErrors(0.05, 0.01)
PERFECT = ReadoutErrors(0.0, 0.0)


def read_out(probs: Array, errors: ReadoutErrors) -> Array:
    """(..., 2^N) distributions of what is seen, of those of the true configurations; atoms err independently."""
    seen = np.array([[1 - errors.e01, errors.e01], [errors.e10, 1 - errors.e10]])  # [true, seen]
    sites = probs.shape[-1].bit_length() - 1
    found = probs
    for site in range(sites):
        split = found.reshape(*probs.shape[:-1], 2 ** (sites - 1 - site), 2, 2**site)
        found = np.einsum("...abc,bd->...adc", split, seen).reshape(probs.shape)
    return found


def tokens(index: NDArray[np.int64]) -> Tensor:
    """(S, L) patches of configurations by their index (S,)."""
    return TOKENS.encode(configurations(NUM_SITES)[torch.from_numpy(index)])


def draw(probs: Array, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """(S,) indices of independent snapshots."""
    return generator.choice(len(probs), size=count, p=probs)


# ---- classes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Problem:
    """Everything that a classifier can be asked, with its probability.

    Attributes:
        inputs: (S, L) int64 tokens of each possible input.
        joint: (S, C) probability of the input together with the class; the sum over all is 1.
    """

    inputs: Tensor
    joint: Array

    @property
    def posterior(self) -> Array:
        """(S, C) probability of the class given the input: what the best classifier says. Uniform for impossible inputs."""
        total = self.joint.sum(axis=1, keepdims=True)
        return np.divide(self.joint, total, out=np.full_like(self.joint, 1 / self.joint.shape[1]), where=total > 0)

    def scores(self, probs: Array) -> dict[str, float]:
        """Expectations over the joint distribution, of class probabilities (S, C); in nats.

        Returns:
            accuracy; nll, -log probs of the class; ece, the expected calibration error with 15 bins of the confidence (Guo et
            al. 2017); kl, the divergence of `probs` from the exact posterior.
        """
        probs = np.asarray(probs, dtype=float)
        weights, rows = self.joint.sum(axis=1), np.arange(len(probs))
        decided, confidence = probs.argmax(axis=1), probs.max(axis=1)
        right = self.joint[rows, decided]
        bins = np.ceil(confidence * BINS).astype(int).clip(1, BINS) - 1  # (lo, hi]
        gaps = np.bincount(bins, weights=right - weights * confidence, minlength=BINS)
        nll = -float((self.joint * np.log(np.maximum(probs, np.finfo(float).tiny))).sum())
        divergence = max(0.0, nll - self.entropy)  # below 0 by rounding alone
        return {"accuracy": float(right.sum()), "nll": nll, "ece": float(np.abs(gaps).sum()), "kl": divergence}

    @property
    def entropy(self) -> float:
        """H(class | input): the smallest nll that there is."""
        return entropy(self.joint) - entropy(self.joint.sum(axis=1))

    def error_auroc(self, doubt: Array, probs: Array) -> float:
        """Probability that a wrong decision of `probs` (S, C) has more `doubt` (S,) than a right one; ties count half."""
        right = self.joint[np.arange(len(probs)), np.asarray(probs).argmax(axis=1)]
        values, groups = np.unique(doubt, return_inverse=True)
        of_right = np.bincount(groups, weights=right, minlength=len(values))
        of_wrong = np.bincount(groups, weights=self.joint.sum(axis=1) - right, minlength=len(values))
        below = of_right.cumsum() - of_right / 2
        return float((of_wrong * below).sum() / (of_wrong.sum() * of_right.sum()))


def entropy(probs: Array) -> float:
    """-sum p log p over all elements."""
    there = probs[probs > 0]
    return -float((there * np.log(there)).sum())


def phase_problem(points: tuple[Points, ...] = PHASES, errors: ReadoutErrors = NOISE) -> Problem:
    """To tell equally likely phases from one snapshot: the inputs are all 2^N snapshots in the order of their index."""
    joint = read_out(born(points), errors).T / len(points)
    return Problem(tokens(np.arange(len(joint))), joint)


def labelled(count: int, seed: int, points: tuple[Points, ...] = PHASES, errors: ReadoutErrors = NOISE) -> tuple[Tensor, Tensor]:
    """Tokens (S, L) and phases (S,) of snapshots, equally many of each phase, in random order."""
    generator, likelihood = np.random.default_rng(seed), read_out(born(points), errors)
    labels = generator.permutation(np.arange(count) % len(points))
    index = np.empty(count, dtype=np.int64)
    for phase, probs in enumerate(likelihood):
        index[labels == phase] = draw(probs, int((labels == phase).sum()), generator)
    return tokens(index), torch.from_numpy(labels)


def masked_problem() -> Problem:
    """To predict one patch of a perfectly read snapshot of any phase from the others; each patch is hidden equally often."""
    probs = born(PHASES).mean(axis=0)
    words, index = TOKENS.num_words, np.arange(len(probs))
    inputs, joint = [], []
    for token in range(len(TOKENS.token_sites)):
        # Rows that differ in this patch alone; its word is a digit of the index.
        rows = index.reshape(-1, words, words**token).swapaxes(1, 2).reshape(-1, words)
        shown = tokens(rows[:, 0])
        shown[:, token] = TOKENS.mask
        inputs.append(shown)
        joint.append(probs[rows] / len(TOKENS.token_sites))
    return Problem(torch.cat(inputs), np.concatenate(joint))


# ---- readout errors to be undone -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Readings:
    """Everything that can be seen of a configuration, with what was there.

    Attributes:
        errors: of the readout.
        probs: (2^N,) of each reading, in the order of its index.
        excited: (2^N, N) probability of the reading together with n_i = 1.
    """

    errors: ReadoutErrors
    probs: Array
    excited: Array

    @classmethod
    def of(cls, true: Array, errors: ReadoutErrors) -> Readings:
        """Those of a distribution (2^N,) of true configurations."""
        sites = configurations(len(true).bit_length() - 1).numpy()
        return cls(errors, read_out(true, errors), read_out(true * sites.T, errors).T)

    @property
    def best(self) -> Array:
        """(2^N, N) 0 or 1: the likelier state of each site given the whole reading, which makes fewest bit errors."""
        return (2 * self.excited > self.probs[:, None]).astype(float)

    @property
    def raw(self) -> Array:
        """(2^N, N) the readings as they are."""
        return configurations(len(self.probs).bit_length() - 1).numpy().astype(float)

    def bit_error(self, decided: Array) -> float:
        """Fraction of sites whose state, decided for each reading (2^N, N), is not the true one."""
        return float((decided * (self.probs[:, None] - self.excited) + (1 - decided) * self.excited).sum() / decided.shape[1])

    def violation(self, decided: Array) -> float:
        """<n_i n_{i+1}> along the ring of what is decided for each reading (2^N, N)."""
        return float(self.probs @ (decided * np.roll(decided, -1, axis=1)).mean(axis=1))


def readings(errors: ReadoutErrors) -> Readings:
    """Those of snapshots of any phase."""
    return Readings.of(born(PHASES).mean(axis=0), errors)


def noisy_pairs(count: int, seed: int, errors: ReadoutErrors) -> tuple[Tensor, Tensor]:
    """Tokens (S, L) of what was seen and the true configurations (S, N) float."""
    generator = np.random.default_rng(seed)
    true = configurations(NUM_SITES).numpy()[draw(born(PHASES).mean(axis=0), count, generator)]
    flipped = generator.random(true.shape) < np.where(true == 1, errors.e10, errors.e01)
    seen = torch.from_numpy(true ^ flipped.astype(np.uint8))
    return TOKENS.encode(seen), torch.from_numpy(true).float()


# ---- sentences -------------------------------------------------------------------------------------------------------

AMBIGUOUS, SENSES, TOPIC, COMMON = 4, 2, 5, 40  # words with two senses each, words of each sense, words of none
CONTEXT, CENTRE = 6, 3  # words around the ambiguous one, which stands in the middle
TRUE_SHARE, WRONG_SHARE = 0.3, 0.1  # of the context: words of the sense that is meant, and of the other one
VOCABULARY = AMBIGUOUS + AMBIGUOUS * SENSES * TOPIC + COMMON


@dataclass(frozen=True, eq=False)
class Sentences:
    """Sentences around an ambiguous word, whose sense is to be found.

    Attributes:
        ids: (S, 7) int64 tokens; that in the middle is the ambiguous word, 0 to 3.
        senses: (S,) int64 the sense that is meant.
        posterior: (S, 2) its exact probability given the sentence.
    """

    ids: Tensor
    senses: Tensor
    posterior: Tensor


def sentences(count: int, seed: int) -> Sentences:
    """Independent sentences: word and sense are drawn uniformly, then each word of the context by the shares, then the word."""
    generator = np.random.default_rng(seed)
    word, sense = generator.integers(AMBIGUOUS, size=count), generator.integers(SENSES, size=count)
    kind = generator.choice(3, size=(count, CONTEXT), p=(TRUE_SHARE, WRONG_SHARE, 1 - TRUE_SHARE - WRONG_SHARE))
    meant = np.where(kind == 0, sense[:, None], 1 - sense[:, None])
    topical = AMBIGUOUS + (SENSES * word[:, None] + meant) * TOPIC + generator.integers(TOPIC, size=kind.shape)
    common = VOCABULARY - COMMON + generator.integers(COMMON, size=kind.shape)
    ids = np.insert(np.where(kind == 2, common, topical), CENTRE, word, axis=1)
    # Only topical words tell something, each a factor of the shares' ratio.
    balance = ((kind != 2) * (1 - 2 * meant)).sum(axis=1)
    first = 1 / (1 + (WRONG_SHARE / TRUE_SHARE) ** balance)
    posterior = np.stack([first, 1 - first], axis=1)
    return Sentences(torch.from_numpy(ids), torch.from_numpy(sense), torch.from_numpy(posterior))


def best_sense_accuracy() -> float:
    """Accuracy of the likelier sense: P(more true words than wrong ones) + P(as many) / 2."""
    found = 0.0
    for true in range(CONTEXT + 1):
        for wrong in range(CONTEXT + 1 - true):
            ways = math.comb(CONTEXT, true) * math.comb(CONTEXT - true, wrong)
            chance = TRUE_SHARE**true * WRONG_SHARE**wrong * (1 - TRUE_SHARE - WRONG_SHARE) ** (CONTEXT - true - wrong)
            found += ways * chance * (1.0 if true > wrong else 0.5 if true == wrong else 0.0)
    return found
