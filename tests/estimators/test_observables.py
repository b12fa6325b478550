"""Observables of exact samples against enumeration, and the coverage of their error bars."""

from pathlib import Path

import numpy as np
import pytest
import torch

from qsr.estimators.observables import Observables, connected_correlations, sample_observables
from qsr.estimators.statistics import ArrayEstimate, Estimate
from qsr.hamiltonians.base import configurations
from qsr.lattice import Lattice

DATA = Path(__file__).parents[1] / "data"
SCALARS = ("density_mean", "magnetisation", "staggered_abs", "staggered_sq", "nn_mean", "sx_mean")
ARRAYS = ("densities", "sx", "correlations", "structure_factor")


def born(side):
    return np.load(DATA / f"{side}x{side}_V7_delta1_psi2.npz")["psi2"]


def exact_values(psi2, Lx, Ly):
    """Every observable by summing over the basis, written out site by site."""
    N = Lx * Ly
    n = configurations(N).numpy().astype(float)
    psi = np.sqrt(psi2)
    site = [(x, y) for x in range(Lx) for y in range(Ly)]
    bonds = [(i, j) for i in range(N) for j in range(i) if sum(abs(a - b) for a, b in zip(site[i], site[j], strict=True)) == 1]
    staggered = sum((-1) ** (x + y) * (n[:, i] - 0.5) for i, (x, y) in enumerate(site)) / N
    densities = psi2 @ n
    sx = np.array([psi @ psi[np.arange(2**N) ^ (1 << i)] for i in range(N)])
    structure = np.empty((Lx, Ly))
    for a in range(Lx):
        for b in range(Ly):
            phase = [np.exp(2j * np.pi * (a * x / Lx + b * y / Ly)) for x, y in site]
            structure[a, b] = psi2 @ np.abs(n @ phase) ** 2 / N
    return {
        "densities": densities,
        "density_mean": densities.mean(),
        "magnetisation": 1 - 2 * densities.mean(),
        "staggered_abs": psi2 @ np.abs(staggered),
        "staggered_sq": psi2 @ staggered**2,
        "nn_mean": np.mean([psi2 @ (n[:, i] * n[:, j]) for i, j in bonds]),
        "sx": sx,
        "sx_mean": sx.mean(),
        "correlations": (n.T * psi2) @ n - np.outer(densities, densities),
        "structure_factor": structure,
    }


def draw(psi2, num_samples, rng):
    """Exact samples and their ratios psi(n')/psi(n)."""
    num_sites = len(psi2).bit_length() - 1
    index = rng.choice(len(psi2), size=num_samples, p=psi2 / psi2.sum())
    ratios = np.sqrt(psi2[index[:, None] ^ (1 << np.arange(num_sites))] / psi2[index, None])
    return configurations(num_sites)[torch.from_numpy(index)], torch.from_numpy(ratios)


@pytest.mark.parametrize("side", [3, 4])
def test_samples_of_the_ground_state_agree_with_enumeration(side):
    psi2, rng = born(side), np.random.default_rng(5)
    observables = Observables(Lattice(side, side))
    for size in (1, 7000, 12999):
        observables.update(*draw(psi2, size, rng))
    results, exact = observables.results(), exact_values(psi2, side, side)
    assert set(results) == set(exact) == {*SCALARS, *ARRAYS}
    for name, value in exact.items():
        found = results[name]
        assert isinstance(found, Estimate if name in SCALARS else ArrayEstimate)
        assert np.shape(found.mean) == np.shape(value)
        assert np.all(np.asarray(found.error) > 0), name
        assert np.abs((found.mean - value) / found.error).max() < 4, name


def test_a_rectangle_has_its_own_axes():
    """Lx != Ly with uniform samples: every diagonal observable, averaged over the basis, is its exact value."""
    uniform = np.full(64, 1 / 64)
    exact = exact_values(uniform, 2, 3)
    for name, values in sample_observables(configurations(6), Lattice(2, 3)).items():
        np.testing.assert_allclose(values.mean(dim=0), exact[name], atol=1e-12, err_msg=name)


def test_checkerboard():
    signs = torch.tensor([(x + y) % 2 for x in range(4) for y in range(4)], dtype=torch.uint8)
    values = sample_observables(signs[None], Lattice(4, 4))
    assert values["staggered_abs"].item() == 0.5
    assert values["nn_mean"].item() == 0
    assert values["magnetisation"].item() == 0
    peaks = values["structure_factor"][0] > 1e-12
    assert peaks.nonzero().tolist() == [[0, 0], [2, 2]]  # k = 0 and k = (pi, pi)


def test_error_bars_cover_the_truth():
    """Over 300 independent sets of 400 samples, 68.3 % of the error bars contain the exact value, to 4 binomial sigma."""
    psi2, rng = born(3), np.random.default_rng(11)
    exact = exact_values(psi2, 3, 3)
    watched = {name: [] for name in (*SCALARS, "correlations")}
    for _ in range(300):
        observables = Observables(Lattice(3, 3))
        observables.update(*draw(psi2, 400, rng))
        results = observables.results()
        for name, inside in watched.items():
            pick = (0, 2) if name == "correlations" else ()  # two corners: common enough for a normal distribution
            difference = np.asarray(results[name].mean - exact[name])[pick]
            inside.append(np.abs(difference) < np.asarray(results[name].error)[pick])
    for name, inside in watched.items():
        assert np.mean(inside) == pytest.approx(0.683, abs=4 * np.sqrt(0.683 * 0.317 / 300)), name


def test_correlations_are_sample_covariances():
    configs = torch.randint(0, 2, (40, 5), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    samples = configs.numpy().astype(float)
    found = connected_correlations(samples.T @ samples, len(samples))
    np.testing.assert_allclose(found.mean, np.cov(samples.T), atol=1e-14)
    # The error is the spread of the products of deviations.
    deviations = samples - samples.mean(axis=0)
    products = deviations[:, :, None] * deviations[:, None, :]
    np.testing.assert_allclose(found.error, products.std(axis=0) / np.sqrt(39), atol=1e-14)


def test_without_flip_ratios_there_is_no_sx():
    observables = Observables(Lattice(2, 2))
    observables.update(configurations(4))
    assert not {"sx", "sx_mean"} & set(observables.results())


def test_complex_ratios_count_by_their_real_part():
    observables = Observables(Lattice(1, 2))
    observables.update(configurations(2), torch.full((4, 2), 0.5 + 2.0j))
    assert observables.results()["sx_mean"] == Estimate(0.5, 0.0)


def test_free_positions_have_no_structure_factor():
    lattice = Lattice.from_positions([[0.0, 0.0], [1.0, 0.0], [0.5, 0.9]])
    observables = Observables(lattice)
    observables.update(configurations(3))
    assert "structure_factor" not in observables.results()


def test_a_single_sample_has_no_error():
    observables = Observables(Lattice(2, 2))
    observables.update(configurations(4)[5:6])
    results = observables.results()
    assert results["density_mean"].mean == 0.5
    assert np.isnan(results["density_mean"].error)
    assert np.isnan(results["correlations"].error).all()


def test_misuse_is_refused():
    observables = Observables(Lattice(2, 2))
    with pytest.raises(ValueError, match="no samples"):
        observables.results()
    with pytest.raises(ValueError, match=r"configs: expected shape \(B, 4\), found \(8, 3\)"):
        observables.update(configurations(3))
    with pytest.raises(ValueError, match="flip_ratios"):
        observables.update(configurations(4), torch.ones(16, 3))
