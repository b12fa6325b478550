"""The randomness rule: every draw comes from a generator seeded by what is drawn, never from hidden state."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from qsr.training.protocols import BatchKey


def derived_seed(seed: int, purpose: str, *counters: int) -> int:
    """A 63-bit seed for one purpose ("init", "sample", "dropout", ...) at given counters (step, minibatch, ...)."""
    words = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *counters]).generate_state(2, dtype=np.uint32)
    return (int(words[0]) << 31) ^ int(words[1])


def seed_global(seed: int) -> None:
    """Seed the global generators of torch, NumPy and Python: functions of a user's own may draw from any of them."""
    _seed_host(seed)
    _seed_cuda(seed)


@contextmanager
def forked_generators(devices: Sequence[torch.device] = (), seed: int | None = None) -> Iterator[None]:
    """Leave the global generators of torch (those of `devices`, too), NumPy and Python as they were before the block.

    Args:
        seed: for the block, of the generators on the CPU; None: they go on.
    """
    of_numpy, of_python = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=list(devices)):
            if seed is not None:
                _seed_host(seed)
            yield
    finally:
        np.random.set_state(of_numpy)
        random.setstate(of_python)


def seed_dropout(key: BatchKey) -> None:
    """Seed torch's global generators, which are all that dropout knows, by the minibatch, so that a resumed run repeats it."""
    seed = derived_seed(key.seed, "dropout", key.step, key.minibatch)
    torch.default_generator.manual_seed(seed)
    _seed_cuda(seed)


def generator_for(device: torch.device | str, seed: int, purpose: str, *counters: int) -> torch.Generator:
    """A fresh generator on `device`, seeded by `derived_seed`."""
    return torch.Generator(device=device).manual_seed(derived_seed(seed, purpose, *counters))


def _seed_host(seed: int) -> None:
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)  # of one word: an array takes five times as long
    random.seed(seed)


def _seed_cuda(seed: int) -> None:
    """Not `torch.manual_seed`, which takes longer than a step of a small model: it queues a seed, with the stack of its caller,
    for every kind of accelerator that is not in use."""
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
