"""What the exact distributions of a few states say of one snapshot: the best that any classifier or regression can do.

A snapshot comes from one of K states with equal probability, and is read out with errors; every function takes the table of
the probabilities (K, 2^N) with which it is then seen, in basis order (bit i of the index is n_i).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qsr.hamiltonians import Hamiltonian, ground_state
from qsr.hparams import ConfigError

Table = NDArray[np.float64]  # (K, 2^N)


def state_probabilities(hamiltonians: Sequence[Hamiltonian], e10: float = 0.0, e01: float = 0.0) -> Table:
    """(K, 2^N) probabilities of what is read of the ground states.

    Args:
        e10, e01: readout errors, see `read_probabilities`.

    Raises:
        ConfigError: above 20 sites.
    """
    born = np.stack([np.abs(ground_state(hamiltonian, num_levels=1).amplitudes) ** 2 for hamiltonian in hamiltonians])
    return read_probabilities(born / born.sum(axis=1, keepdims=True), e10, e01)


def read_probabilities(probs: NDArray[np.float64], e10: float, e01: float) -> NDArray[np.float64]:
    """Probabilities (..., 2^N) of what is read, from those of the true configurations.

    Args:
        e10: P(0|1), how often an excited site is read as ground.
        e01: P(1|0), how often a ground-state site is read as excited.
    """
    found = probs
    for site in range(probs.shape[-1].bit_length() - 1):
        ground, excited = np.moveaxis(found.reshape(-1, 2, 2**site), 1, 0)
        read = [(1 - e01) * ground + e10 * excited, e01 * ground + (1 - e10) * excited]
        found = np.stack(read, axis=1).reshape(probs.shape)
    return found


def posterior(table: Table, configs: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(S, K) probabilities of the states, given each of S snapshots (S, N).

    Raises:
        ConfigError: for snapshots of another number of sites, occupations other than 0 and 1, and a snapshot that none of the
            states can show.
    """
    sites = table.shape[1].bit_length() - 1
    if configs.ndim != 2 or configs.shape[1] != sites:
        raise ConfigError(f"configs: expected snapshots (S, {sites}), as the table is of {sites} sites, found {configs.shape}")
    if not ((configs == 0) | (configs == 1)).all():
        raise ConfigError("configs: must hold 0 (ground) and 1 (excited) and nothing else")
    index = configs.astype(np.int64) @ (1 << np.arange(configs.shape[1]))
    likelihood = table[:, index].T
    total = likelihood.sum(axis=1, keepdims=True)
    if not total.all():
        raise ConfigError(f"snapshot {int(np.argmin(total))}: has probability 0 in all {len(table)} states")
    return np.asarray(likelihood / total)


def best_accuracy(table: Table, labels: ArrayLike) -> float:
    """The Bayes accuracy: how often the most probable label of a single snapshot is the true one.

    Args:
        labels: (K,) of the states.

    Raises:
        ConfigError: for another number of labels.
    """
    classes, members = np.unique(_of_states(table, "labels", np.asarray(labels)), return_inverse=True)
    joint = np.stack([table[members == number].sum(axis=0) for number in range(len(classes))])
    return float(joint.max(axis=0).sum() / len(table))


def least_squared_error(table: Table, values: ArrayLike) -> float:
    """E[Var(v | snapshot)]: the mean squared error of the posterior mean, below which no estimate from one snapshot comes.

    Args:
        values: (K,) the quantity v of each state.

    Raises:
        ConfigError: for another number of values.
    """
    values = _of_states(table, "values", np.asarray(values, dtype=float))
    centred = values - values.mean()  # differences of squares cancel otherwise
    total = table.sum(axis=0)
    mean = np.divide(centred @ table, total, out=np.zeros_like(total), where=total > 0)
    return float((centred**2 @ table.sum(axis=1) - mean**2 @ total) / len(table))


def _of_states(table: Table, name: str, given: NDArray[Any]) -> NDArray[Any]:
    if given.shape != (len(table),):
        raise ConfigError(f"{name}: expected one for each of the {len(table)} states of the table, found {given.shape}")
    return given
