"""What exact distributions say of snapshots: against enumeration, closed forms, and reference numbers of 3x3 and 4x4 arrays."""

import itertools

import numpy as np
import pytest

import qsr
from qsr.estimators import best_accuracy, least_squared_error, posterior, read_probabilities, state_probabilities
from qsr.hamiltonians.base import configurations
from qsr.hparams import ConfigError

E10, E01 = 0.07, 0.02
DELTAS = np.arange(-0.5, 3.01, 0.25)


def random_table(states: int, sites: int, seed: int = 0) -> np.ndarray:
    table = np.random.default_rng(seed).random((states, 2**sites)) ** 3
    return table / table.sum(axis=1, keepdims=True)


def test_readout_is_the_same_channel_on_every_site() -> None:
    table = random_table(2, 3)
    channel = np.array([[1 - E01, E10], [E01, 1 - E10]])  # (read, true)
    of_sites = configurations(3).numpy()
    whole = np.array([[np.prod(channel[read, true]) for true in of_sites] for read in of_sites])
    assert np.allclose(read_probabilities(table, E10, E01), table @ whole.T, atol=1e-15)
    assert np.array_equal(read_probabilities(table, 0, 0), table)


def test_the_limits_are_those_of_enumeration() -> None:
    table, labels, values = random_table(5, 3), [1, 1, 0, 0, 1], np.array([0.3, -1.0, 2.0, 0.1, 4.0])
    of_all = posterior(table, configurations(3).numpy())
    assert np.allclose(of_all, (table / table.sum(axis=0)).T, atol=1e-15)
    ordered = of_all @ np.array(labels)
    weights = table.mean(axis=0)
    assert best_accuracy(table, labels) == pytest.approx(weights @ np.maximum(ordered, 1 - ordered), abs=1e-14)
    variance = of_all @ values**2 - (of_all @ values) ** 2
    assert least_squared_error(table, values) == pytest.approx(weights @ variance, abs=1e-14)


def test_no_rule_is_better_than_the_best_accuracy() -> None:
    table, labels = random_table(3, 2, seed=4), np.array([0, 1, 1])
    accuracies = []
    for rule in itertools.product([0, 1], repeat=4):
        right = labels[:, None] == np.array(rule)
        accuracies.append(float((table * right).sum() / 3))
    assert best_accuracy(table, labels) == pytest.approx(max(accuracies), abs=1e-14)


def test_equal_states_tell_nothing_and_disjoint_ones_everything() -> None:
    same = np.repeat(random_table(1, 3), 4, axis=0)
    assert best_accuracy(same, [0, 0, 1, 1]) == pytest.approx(0.5)
    assert least_squared_error(same, [0.0, 1.0, 2.0, 3.0]) == pytest.approx(1.25)
    assert best_accuracy(np.eye(4), [0, 1, 2, 3]) == 1.0
    assert least_squared_error(np.eye(4), [0.0, 1.0, 2.0, 3.0]) == pytest.approx(0.0, abs=1e-15)
    with pytest.raises(ValueError, match="snapshot 1: has probability 0 in all 2 states"):
        posterior(np.eye(4)[:2], np.array([[0, 0], [0, 1]], dtype=np.uint8))


def test_lengths_that_do_not_fit_are_refused() -> None:
    table = random_table(3, 2)
    for labels in ([0, 1], [0, 1, 1, 0], [[0, 1, 1]], 1):
        with pytest.raises(ConfigError, match="labels: expected one for each of the 3 states of the table, found"):
            best_accuracy(table, labels)
        with pytest.raises(ConfigError, match="values: expected one for each of the 3 states"):
            least_squared_error(table, labels)
    for width in (1, 3):
        with pytest.raises(ConfigError, match=r"expected snapshots \(S, 2\), as the table is of 2 sites, found \(4, "):
            posterior(table, np.zeros((4, width), dtype=np.uint8))
    with pytest.raises(ConfigError, match=r"expected snapshots \(S, 2\)"):
        posterior(table, np.zeros(2, dtype=np.uint8))
    with pytest.raises(ConfigError, match="must hold 0"):
        posterior(table, np.array([[0, 2]], dtype=np.uint8))


def test_the_numbers_of_3x3() -> None:
    deltas = [0.5, 0.75, 1.0, 1.25, 2.25, 2.5, 2.75, 3.0]
    table = state_probabilities([qsr.Rydberg(Lx=3, Ly=3, V=7, delta=delta).build() for delta in deltas])
    assert np.allclose(table.sum(axis=1), 1, atol=1e-12)
    assert best_accuracy(table, np.array(deltas) > 1.75) == pytest.approx(0.7907, abs=5e-5)


def test_the_numbers_of_4x4() -> None:
    table = state_probabilities([qsr.Rydberg(Lx=4, Ly=4, V=7, delta=delta).build() for delta in DELTAS])
    easy = [4, 5, 6, 7, 11, 12, 13, 14]
    close = [7, 8, 9, 10, 11, 12]
    assert best_accuracy(table[easy], DELTAS[easy] > 1.75) == pytest.approx(0.9322, abs=5e-5)
    assert best_accuracy(table[close], DELTAS[close] > 1.8) == pytest.approx(0.7803, abs=5e-5)
    assert least_squared_error(table, DELTAS) == pytest.approx(0.2845, abs=5e-5)
