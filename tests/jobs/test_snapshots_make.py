"""Snapshots of exact states and trained samplers: drawn from the right distributions, read out, labelled, and the same again."""

from pathlib import Path

import numpy as np
import pytest
import torch

import qsr
from qsr.estimators import read_probabilities, state_probabilities
from qsr.hparams import ConfigError
from qsr.jobs import make_snapshots
from qsr.snapshots import read_snapshots

DELTAS = (0.5, 1.0, 2.5)


def problems(deltas: tuple[float, ...] = DELTAS, **more: object) -> list[qsr.Rydberg]:
    return [qsr.Rydberg(**{"Lx": 2, "Ly": 3, "delta": delta, **more}) for delta in deltas]


def frequencies(configs: np.ndarray) -> np.ndarray:
    index = configs.astype(int) @ (1 << np.arange(configs.shape[1]))
    return np.bincount(index, minlength=2 ** configs.shape[1])


def chi_squared(configs: np.ndarray, probs: np.ndarray) -> float:
    """(chi^2 - degrees of freedom) in standard deviations, bins of small expectation together."""
    expected, found = len(configs) * probs, frequencies(configs)
    small = expected < 10
    if small.any():
        expected = np.append(expected[~small], expected[small].sum())
        found = np.append(found[~small], found[small].sum())
    freedom = len(expected) - 1
    return float((((found - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom))


@pytest.mark.parametrize(("e10", "e01"), [(0.0, 0.0), (0.1, 0.03)])
def test_snapshots_follow_the_exact_distribution(e10: float, e01: float) -> None:
    report = make_snapshots(problems(), shots=20000, labels="delta>0.8", e10=e10, e01=e01, seed=3)
    table = state_probabilities([problem.build() for problem in problems()], e10, e01)
    found = report.snapshots
    for number, delta in enumerate(DELTAS):
        rows = found.columns["state_id"] == number
        assert rows.sum() == 20000 and set(found.params["delta"][rows]) == {delta}
        assert set(found.columns["labels"][rows]) == {int(delta > 0.8)}
        assert abs(chi_squared(found.configs[rows], table[number])) < 4  # sigma
        if e10:
            assert chi_squared(found.configs[rows], state_probabilities([problems()[number].build()])[0]) > 50


def test_the_file_says_what_it_holds(tmp_path: Path) -> None:
    report = make_snapshots(problems(), tmp_path / "s.h5", shots=5, labels="state", e01=0.1, seed=9)
    found = read_snapshots(tmp_path / "s.h5")
    assert np.array_equal(found.configs, report.snapshots.configs)
    assert found.columns["labels"].tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert set(found.params) == {"V", "Omega", "delta"} and set(found.params["V"]) == {7.0}
    assert np.array_equal(found.positions, qsr.Lattice(2, 3).positions)
    assert found.attributes["hamiltonian"]["V"] == 7.0 and "delta" not in found.attributes["hamiltonian"]
    kept = ("Lx", "Ly", "boundary", "shots", "e10", "e01", "seed", "label_rule")
    assert [found.attributes[name] for name in kept] == [2, 3, "open", 5, 0.0, 0.1, 9, "state"]


def test_the_same_seed_gives_the_same_bytes_and_a_state_its_own_snapshots(tmp_path: Path) -> None:
    for name in "ab":
        make_snapshots(problems(), tmp_path / f"{name}.h5", shots=50, e10=0.2)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "b.h5"]
    all_three = make_snapshots(problems(), shots=50, e10=0.2).snapshots.configs
    assert np.array_equal(make_snapshots(problems()[:2], shots=50, e10=0.2).snapshots.configs, all_three[:100])
    assert not np.array_equal(make_snapshots(problems(), shots=50, e10=0.2, seed=1).snapshots.configs, all_three)
    noisy, clean = all_three, make_snapshots(problems(), shots=50).snapshots.configs
    assert np.all(noisy <= clean) and np.any(noisy < clean), "e10 alone only takes excitations away"


def test_labels_by_an_observable_and_the_best_accuracy() -> None:
    report = make_snapshots(problems(), shots=2, labels="staggered_abs >= 0.3")
    order = [row["staggered_abs"] for row in report.rows]
    assert [row["labels"] for row in report.rows] == [float(value >= 0.3) for value in order]
    assert order == sorted(order) and order[0] < 0.3 <= order[-1]
    clean = make_snapshots(problems(), shots=2, labels="delta>0.8").best_accuracy
    noisy = make_snapshots(problems(), shots=2, labels="delta>0.8", e10=0.3).best_accuracy
    assert clean is not None and noisy is not None and 2 / 3 <= noisy < clean < 1
    assert f"{clean:.4f}" in make_snapshots(problems(), shots=2, labels="delta>0.8").lines()[-1]
    assert make_snapshots(problems(), shots=2).best_accuracy is None


def test_snapshots_of_a_trained_sampler_follow_its_distribution(tmp_path: Path) -> None:
    train = {"steps": 3, "K": 64, "dir": str(tmp_path), "seed": 5}
    runs = [qsr.train(problem, qsr.RNN(patch="1", Nh=8), train) for problem in problems((0.5, 2.0))]
    paths = [run.path for run in runs]
    report = make_snapshots(paths, shots=20000, labels="delta<1", e01=0.05, device="cpu")
    found = report.snapshots
    assert report.best_accuracy is None, "no exact distribution is known"
    assert found.columns["labels"].tolist() == [1] * 20000 + [0] * 20000
    index = torch.arange(64)
    configs = (index[:, None] >> torch.arange(6) & 1).to(torch.uint8)
    for number, run in enumerate(runs):
        with torch.no_grad():
            probs = run.model.log_prob(configs).exp().double().numpy()
        probs = read_probabilities(probs / probs.sum(), 0, 0.05)
        assert abs(chi_squared(found.configs[found.columns["state_id"] == number], probs)) < 4
    again = make_snapshots(runs, shots=20000, labels="delta<1", e01=0.05, device="cpu").snapshots
    assert np.array_equal(again.configs, found.configs)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"shots": 0}, r"snapshots\.shots=0: must be at least 1"),
        ({"e10": 1.5}, r"snapshots\.e10=1.5: must be at most 1"),
        ({"labels": "delta"}, r"snapshots\.labels=delta: must be 'state', or a quantity and a bound"),
        ({"labels": "delta>high"}, r"snapshots\.labels=delta>high: must be"),
        ({"labels": "detla>1"}, r"there is no quantity 'detla'; did you mean 'delta'"),
        ({"labels": "delta>9"}, r"all states have the label 0"),
        ({"shot": 4}, r"snapshots\.shot: unknown setting; did you mean 'shots'"),
    ],
)
def test_refused_settings(settings: dict, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        make_snapshots(problems(), tmp_path / "s.h5", **settings)
    assert not list(tmp_path.iterdir())


def test_refused_states(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one lattice, found 2x3 open and 3x3 open"):
        make_snapshots([*problems(), qsr.Rydberg(Lx=3, Ly=3)])
    with pytest.raises(ConfigError, match="no state"):
        make_snapshots([])
    with pytest.raises(ConfigError, match="at most 20 sites"):
        make_snapshots([qsr.Rydberg(Lx=5, Ly=5)])
    with pytest.raises(ConfigError, match="a directory, expected the name of a file"):
        make_snapshots(problems(), tmp_path)


def test_states_of_different_problems(tmp_path: Path) -> None:
    states = [qsr.Rydberg(Lx=2, Ly=3, delta=2.0), qsr.TFIM(Lx=2, Ly=3, h=1.0), qsr.Rydberg(Lx=2, Ly=3, delta=0.5)]
    with pytest.raises(ConfigError, match=r"snapshots\.labels=delta>1: state 1 has no quantity 'delta'"):
        make_snapshots(states, shots=2, labels="delta>1")
    with pytest.raises(ConfigError, match="state 0 has no quantity 'h'"):
        make_snapshots(states, shots=2, labels="h>0")
    runs = [qsr.train(state, qsr.RNN(patch="1", Nh=4), {"steps": 1, "K": 8, "dir": str(tmp_path)}).path for state in states[:2]]
    with pytest.raises(ConfigError, match="state 1 has no quantity 'delta'"):
        make_snapshots(runs, shots=2, labels="delta>1", device="cpu")
    report = make_snapshots([*states[:2], *runs], tmp_path / "s.h5", shots=2, labels="state", device="cpu")
    assert report.snapshots.columns["labels"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3] and len(report.lines()) == 5
    assert "delta" not in read_snapshots(tmp_path / "s.h5").params


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write the results there \(.*\); choose another FILE"):
        make_snapshots(problems(), tmp_path / "a file" / "s.h5")
