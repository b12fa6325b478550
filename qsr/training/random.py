"""The randomness rule: every draw comes from a generator seeded by what is drawn, never from hidden state."""

from __future__ import annotations

import zlib

import numpy as np
import torch

from qsr.training.protocols import BatchKey


def derived_seed(seed: int, purpose: str, *counters: int) -> int:
    """A 63-bit seed for one purpose ("init", "sample", "dropout", ...) at given counters (step, minibatch, ...)."""
    words = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *counters]).generate_state(2, dtype=np.uint32)
    return (int(words[0]) << 31) ^ int(words[1])


def seed_global(seed: int) -> None:
    """As `torch.manual_seed`, which takes longer than a step of a small model: it queues a seed, with the stack of its caller,
    for every kind of accelerator that is not in use."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def seed_dropout(key: BatchKey) -> None:
    """Seed the global generators, which are all that dropout knows, by the minibatch, so that a resumed run repeats it."""
    seed_global(derived_seed(key.seed, "dropout", key.step, key.minibatch))


def generator_for(device: torch.device | str, seed: int, purpose: str, *counters: int) -> torch.Generator:
    """A fresh generator on `device`, seeded by `derived_seed`."""
    return torch.Generator(device=device).manual_seed(derived_seed(seed, purpose, *counters))
