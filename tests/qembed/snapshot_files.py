"""Snapshot files of distributions on 2 x 4 sites that can be enumerated."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qsr import Lattice
from qsr.snapshots import Snapshots, write_snapshots

SHAPE = (2, 4)
SITES = SHAPE[0] * SHAPE[1]
ALL = (np.arange(2**SITES)[:, None] >> np.arange(SITES) & 1).astype(np.uint8)  # (256, 8)


def disordered(rate: float = 0.3) -> NDArray[np.float64]:
    """(256,) probabilities of independent sites."""
    return np.prod(np.where(ALL == 1, rate, 1 - rate), axis=1)


def checkerboard(error: float = 0.15) -> NDArray[np.float64]:
    """(256,) probabilities of one of the two checkerboards with independent errors."""
    pattern = (np.add(*np.divmod(np.arange(SITES), SHAPE[1])) % 2).astype(np.uint8)
    both = [np.prod(np.where(ALL == truth, 1 - error, error), axis=1) for truth in (pattern, 1 - pattern)]
    return (both[0] + both[1]) / 2


def drawn(probs: NDArray[np.float64], count: int, seed: int) -> NDArray[np.uint8]:
    """(S, 8) configurations."""
    return ALL[np.random.default_rng(seed).choice(len(ALL), size=count, p=probs)]


def indices(configs: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Rows of `ALL`."""
    return configs.astype(np.int64) @ (1 << np.arange(SITES))


def write(
    file: Path, configs: NDArray[np.uint8], labels: NDArray[np.int64] | None = None, shape: tuple[int, int] = SHAPE
) -> Path:
    columns = {} if labels is None else {"labels": labels}
    attributes = {"Lx": shape[0], "Ly": shape[1], "boundary": "open"}
    params = {"delta": np.linspace(0, 1, len(configs))}
    write_snapshots(file, Snapshots(configs, Lattice(*shape).positions, columns, params, attributes))
    return file


def two_phases(file: Path, count: int = 1200, seed: int = 0) -> Path:
    """Half of the configurations are disordered (label 0), and half are checkerboards (label 1)."""
    configs = np.concatenate([drawn(disordered(), count // 2, seed), drawn(checkerboard(), count // 2, seed + 1000)])
    return write(file, configs, np.repeat([0, 1], count // 2))
