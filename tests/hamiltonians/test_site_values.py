"""Rabi frequencies and detunings of single sites, against matrices made of Kronecker products."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import qsr
from qsr.estimators.local_energy import local_energy
from qsr.hamiltonians import cluster_product_energy, configurations, site_product_energy
from qsr.hparams import ConfigError, RunSettings, parse_sections

OMEGA = [1.0, 0.3, 0.0, 2.0, 1.5, 0.7]
DELTA = [1.0, -0.5, 2.0, 0.25, 0.0, 3.0]
ARRAY = qsr.Rydberg(Lx=2, Ly=3, Omega=OMEGA, delta=DELTA)


def on(site: int, matrix: NDArray[np.float64], num_sites: int = 6) -> NDArray[np.float64]:
    """The operator on one site; bit 0 of a basis index, site 0, is the last factor."""
    factors = [matrix if number == site else np.eye(2) for number in reversed(range(num_sites))]
    return functools.reduce(np.kron, factors)


def dense() -> NDArray[np.float64]:
    x, n = np.array([[0.0, 1.0], [1.0, 0.0]]), np.diag([0.0, 1.0])
    total = sum(-OMEGA[i] / 2 * on(i, x) - DELTA[i] * on(i, n) for i in range(6))
    for i in range(6):
        for j in range(i):
            distance = np.hypot(i // 3 - j // 3, i % 3 - j % 3)
            total += 7 / distance**6 * on(i, n) @ on(j, n)
    return np.asarray(total)


def test_the_matrix_and_its_ground_state() -> None:
    assert np.allclose(ARRAY.build().to_sparse().toarray(), dense(), rtol=0, atol=1e-12)
    levels, vectors = np.linalg.eigh(dense())
    found = qsr.exact(ARRAY)
    assert (found.energy, found.gap) == pytest.approx((levels[0], levels[1] - levels[0]), rel=1e-12)
    excited = vectors[:, 0] ** 2 @ configurations(6).numpy()
    assert np.allclose(found.observables["densities"], excited, atol=1e-10)
    assert ARRAY.build().infinite_temperature_energy() == pytest.approx(np.trace(dense()) / 64)


def test_ten_sites_are_iterated_to_the_dense_energy() -> None:
    rng = np.random.default_rng(0)
    array = qsr.Rydberg(Lx=5, Ly=2, Omega=rng.uniform(0, 2, 10).tolist(), delta=rng.uniform(-1, 3, 10).tolist())
    assert qsr.exact(array).energy == pytest.approx(np.linalg.eigvalsh(array.build().to_sparse().toarray())[0], rel=1e-12)


def test_equal_numbers_are_one_number() -> None:
    assert qsr.exact(qsr.Rydberg(Lx=2, Ly=3, Omega=[1] * 6, delta=[2] * 6)).energy == pytest.approx(
        qsr.exact(qsr.Rydberg(Lx=2, Ly=3, delta=2)).energy, rel=1e-13
    )


def test_product_states_are_bounds_that_uncoupled_sites_reach() -> None:
    """Without an interaction the ground state is a product: E = -sum_i (delta_i + sqrt(delta_i^2 + Omega_i^2)) / 2."""
    single = -sum(d + np.hypot(d, w) for d, w in zip(DELTA, OMEGA, strict=True)) / 2
    free = ARRAY.updated({"V": 0.0}).build()
    assert site_product_energy(free).energy == pytest.approx(single, rel=1e-9)
    exact, problem = np.linalg.eigvalsh(dense())[0], ARRAY.build()
    assert exact < cluster_product_energy(problem, "2x3").energy + 1e-9 < site_product_energy(problem).energy + 2e-9


@pytest.mark.parametrize(
    "model",
    [
        qsr.RNN(patch="2x1", Nh=8),
        qsr.PTF(patch="1", Nh=8, nhead=2),
        qsr.LPTF(patch="2x1", Nh=8, nhead=2, subsampler=qsr.RNN(patch="1")),
    ],
    ids=["rnn", "ptf", "lptf"],
)
@pytest.mark.parametrize("flips", ["exact", 2])
def test_training_and_loading(model: Any, flips: Any, tmp_path: Path) -> None:
    train = {"K": 64, "steps": 3, "lr": 0.02, "dir": str(tmp_path), "flips": flips}
    run = qsr.train(ARRAY, model, train)
    psi = (0.5 * run.model.log_prob(configurations(6)).detach().double()).exp()
    assert run.path is not None
    found = qsr.evaluate(run.path, 1024)
    assert abs(found.z_score(float(psi.numpy() @ dense() @ psi.numpy()))) < 4
    assert found.problem == "rydberg 2x3 open: V=7.0 Omega=0..2 by site delta=-0.5..3 by site"
    energies = local_energy(run.model, ARRAY.build(), configurations(6)).values
    assert torch.allclose(energies, torch.from_numpy(dense()) @ psi / psi, rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match=r"rydberg\.Omega: has 6 numbers, and rydberg has Lx\*Ly = 4\*3 = 12 sites"):
        qsr.finetune(run.path, hamiltonian={"Lx": 4, "Ly": 3})
    assert qsr.finetune(run.path, {"steps": 0}, {"delta": 1.5}).settings.hamiltonian.delta == 1.5


def test_numbers_come_from_words_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("omega.npy", np.array(OMEGA).reshape(2, 3))
    Path("delta.txt").write_text("# row x=0, row x=1\n1 -0.5 2\n0.25, 0, 3\n")
    for words in ("Omega=omega.npy delta=delta.txt", "Omega=1,0.3,0,2,1.5,0.7 delta=1,-0.5,2,0.25,0,3"):
        (tree,) = parse_sections(["--rydberg", "Lx=2", "Ly=3", *words.split()]).values()
        assert qsr.Rydberg(**{name: value for name, value in tree.items() if name != "type"}) == ARRAY
    settings = RunSettings.from_tree({"model": {"type": "rnn", "patch": "1"}, "hamiltonian": ARRAY})
    assert RunSettings.from_tree(settings.tree()) == settings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"delta": [1.0, 2.0]}, r"rydberg\.delta: has 2 numbers, and rydberg has Lx\*Ly = 2\*3 = 6 sites"),
        ({"Omega": [1, 1, 1, 1, 1, -1]}, r"rydberg\.Omega=\[1, 1, 1, 1, 1, -1\]: must be at least 0"),
        ({"delta": [1.0, float("nan")]}, r"rydberg\.delta=\[1\.0, nan\]: must be finite numbers, one for each site"),
        ({"delta": "nowhere.txt"}, r"rydberg\.delta=nowhere\.txt: must be a number, or one .* \(there is no such file\)"),
        ({"delta": [[1], [2, 3]]}, r"rydberg\.delta=.*: must be a number, or one for each site"),
    ],
)
def test_what_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        qsr.Rydberg(Lx=2, Ly=3, **values)


def test_a_curriculum_needs_one_number_for_all_sites() -> None:
    problem = {"type": "rydberg", "Lx": 2, "Ly": 3, "delta": DELTA}
    with pytest.raises(ConfigError, match=r"train\.curriculum=1x3:2,2x3:2: rydberg\.delta: has 6 numbers"):
        RunSettings.from_tree(
            {"model": {"type": "rnn", "patch": "1"}, "train": {"curriculum": "1x3:2,2x3:2"}, "hamiltonian": problem}
        )
