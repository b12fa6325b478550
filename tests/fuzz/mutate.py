"""Hostile and broken files made from valid ones."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.fuzz.changes import TEXT_TOKENS, YAML_TOKENS, of_bytes, of_json, of_npy, of_safetensors, of_tokens
from tests.fuzz.containers import of_hdf5, of_zip

MOST = 200_000  # bytes of a mutated file


def mutated(kind: str, seeds: list[bytes], generator: random.Random) -> bytes:
    """A file made from one or two of the seeds."""
    # The first seeds are valid, and what is changed once in them comes farther than the whole pool, of which most is refused.
    data = generator.choice(seeds[:4] if generator.random() < 0.5 else seeds)
    structural = STRUCTURAL.get(kind)
    for _ in range(generator.choice((1, 1, 1, 2, 3, 6))):
        if structural is not None and generator.random() < (0.9 if kind == "json" else 0.6):
            try:
                data = structural(data, generator)
                continue
            except Exception:  # the file is broken already
                pass
        data = of_bytes(data, generator, seeds)
    return data[:MOST]


STRUCTURAL: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "json": of_json,
    "text": of_tokens(TEXT_TOKENS),
    "yaml": of_tokens(YAML_TOKENS),
    "safetensors": of_safetensors,
    "npy": of_npy,
    "zip": of_zip,
    "hdf5": of_hdf5,
}
