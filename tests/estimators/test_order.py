"""Order parameters against sums over the basis written out site by site, and their errors against the jackknife."""

import math

import numpy as np
import pytest
import torch

from qsr.estimators import OrderParameters, reciprocal_grid
from qsr.hamiltonians.base import configurations
from qsr.lattice import Lattice

TRIANGLE = Lattice.from_positions([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]])
STAIRS = Lattice.from_positions([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [2.0, 1.0], [2.0, 2.0]])


def domains(n, bonds):
    """Sizes of the domains of one configuration, by walking."""
    left, sizes = set(range(len(n))), []
    while left:
        found = {left.pop()}
        frontier = list(found)
        while frontier:
            site = frontier.pop()
            for i, j in bonds:
                for here, there in ((i, j), (j, i)):
                    if here == site and there in left and n[i] != n[j]:
                        left.remove(there)
                        found.add(there)
                        frontier.append(there)
        sizes.append(len(found))
    return sizes


def by_hand(lattice, weights, momenta):
    """Everything in `Order` for weights (2^N,) of the basis."""
    N = lattice.num_sites
    basis = configurations(N).numpy().astype(float)
    distance, bonds = lattice.distances(), lattice.bonds().tolist()

    def mean(function):
        return sum(w * function(n) for w, n in zip(weights, basis, strict=True) if w)

    found = {"density_mean": mean(np.mean)}
    positions = lattice.positions

    def rho(n, k):
        return sum(n[i] * np.exp(1j * (k @ positions[i])) for i in range(N))

    structure = np.array([mean(lambda n, k=k: abs(rho(n, k)) ** 2) / N for k in momenta])
    shift = np.array([abs(mean(lambda n, k=k: rho(n, k))) ** 2 / N for k in momenta])
    found |= {"structure_factor": structure, "connected_structure_factor": structure - shift}
    pairs = {}
    for i in range(N):
        for j in range(i):
            pairs.setdefault(round(distance[i, j], 6), []).append((i, j))
    raw = {d: np.mean([mean(lambda n, i=i, j=j: n[i] * n[j]) for i, j in pairs[d]]) for d in sorted(pairs)}
    one = mean(lambda n: n)
    product = {d: np.mean([one[i] * one[j] for i, j in pairs[d]]) for d in sorted(pairs)}
    found |= {"distances": sorted(pairs), "correlation": list(raw.values())}
    found["connected_correlation"] = [raw[d] - product[d] for d in sorted(pairs)]
    found["domain_walls"] = mean(lambda n: np.mean([n[i] == n[j] for i, j in bonds]))
    if lattice.has_sublattices:
        signs = lattice.sublattice_signs()

        def m(n):
            return signs @ (n - 0.5) / N

        found |= {"staggered_abs": mean(lambda n: abs(m(n))), "staggered_sq": mean(lambda n: m(n) ** 2)}
        found["binder"] = 1 - mean(lambda n: m(n) ** 4) / (3 * mean(lambda n: m(n) ** 2) ** 2)
        found["staggered_levels"] = [(level - N / 2) / N for level in range(N + 1)]
        found["staggered_distribution"] = [mean(lambda n, v=v: abs(m(n) - v) < 1e-9) for v in found["staggered_levels"]]
        found["domain_sizes"] = [mean(lambda n, s=s: domains(n, bonds).count(s)) for s in range(1, N + 1)]
        found["domains"] = mean(lambda n: len(domains(n, bonds)))
        found["domain_size"] = mean(lambda n: sum(s**2 for s in domains(n, bonds)) / N)
        found["largest_domain"] = mean(lambda n: max(domains(n, bonds)) / N)
    return found


def flat(order):
    """All numbers of an `Order` by name: values and errors."""
    names = ("structure_factor", "connected_structure_factor", "correlation", "connected_correlation")
    found = {name: (estimate.mean, estimate.error) for name, estimate in order.scalars.items()}
    found |= {name: (getattr(order, name).mean, getattr(order, name).error) for name in names}
    for name in ("staggered_distribution", "domain_sizes"):
        if getattr(order, name) is not None:
            found[name] = getattr(order, name).mean, getattr(order, name).error
    return found


@pytest.mark.parametrize(
    "lattice", [Lattice(3, 2), Lattice(2, 4), Lattice(4, 2, "periodic"), Lattice(1, 5), TRIANGLE, STAIRS], ids=str
)
def test_a_multiset_of_samples_is_its_own_distribution(lattice):
    """Every basis state as often as its weight says: no sampling noise, so that all agree to rounding."""
    counts = np.random.default_rng(2).integers(0, 4, 2**lattice.num_sites)
    configs = configurations(lattice.num_sites).repeat_interleave(torch.from_numpy(counts), dim=0)
    momenta = np.concatenate([reciprocal_grid(lattice)[:7], [[0.3, -1.2]]])
    parameters = OrderParameters(lattice, momenta)
    for part in configs[torch.randperm(len(configs), generator=torch.Generator().manual_seed(0))].split(11):
        parameters.update(part)
    order, exact = parameters.results(), by_hand(lattice, counts / counts.sum(), momenta)
    S = len(configs)
    np.testing.assert_allclose(order.distances, exact.pop("distances"), atol=1e-6)
    levels = exact.pop("staggered_levels", None)
    if levels is not None:
        np.testing.assert_allclose(order.staggered_levels, levels, atol=1e-12)
    found = flat(order)
    assert set(found) == set(exact)
    for name, value in exact.items():
        unbiased = S / (S - 1) if name.startswith("connected") else 1
        np.testing.assert_allclose(found[name][0], np.asarray(value) * unbiased, atol=1e-12, err_msg=name)


def test_errors_are_those_of_the_jackknife():
    """Leaving out one sample at a time needs no formula; both agree to order 1/S."""
    lattice, S = Lattice(2, 3), 300
    configs = (torch.rand(S, 6, generator=torch.Generator().manual_seed(1)) < 0.3).to(torch.uint8)

    def measured(part):
        parameters = OrderParameters(lattice)
        parameters.update(part)
        return flat(parameters.results())

    left_out = [measured(torch.cat([configs[:s], configs[s + 1 :]])) for s in range(S)]
    for name, (_, error) in measured(configs).items():
        values = np.array([found[name][0] for found in left_out])
        jackknife = np.sqrt((S - 1) * values.var(axis=0))
        np.testing.assert_allclose(error, jackknife, rtol=0.05, atol=1e-9, err_msg=name)


def test_the_checkerboard():
    """Perfect order: one domain, no walls, U4 = 2/3, and all of S(k) beside k = 0 at (pi, pi)."""
    one = torch.tensor([(x + y) % 2 for x in range(4) for y in range(4)], dtype=torch.uint8)
    parameters = OrderParameters(Lattice(4, 4))
    parameters.update(torch.stack([one, 1 - one]))
    order = parameters.results()
    assert order.scalars["binder"].mean == pytest.approx(2 / 3)
    assert order.scalars["domain_walls"].mean == 0 and order.scalars["largest_domain"].mean == 1
    assert np.flatnonzero(order.domain_sizes.mean) == [15]
    peak = np.flatnonzero(order.connected_structure_factor.mean > 1e-12)
    np.testing.assert_allclose(order.momenta[peak], [[math.pi, math.pi]])
    assert order.staggered_distribution.mean[[0, -1]].tolist() == [0.5, 0.5]


def test_one_sample_has_no_errors_and_none_is_refused():
    parameters = OrderParameters(Lattice(2, 2))
    with pytest.raises(ValueError, match="no samples"):
        parameters.results()
    with pytest.raises(ValueError, match=r"configs: expected shape \(B, 4\), found \(8, 3\)"):
        parameters.update(configurations(3))
    parameters.update(configurations(4)[5:6])
    for name, (_, error) in flat(parameters.results()).items():
        if name != "staggered_distribution":
            assert np.isnan(error).all(), name


def test_many_free_positions_share_intervals_of_distance():
    positions = np.random.default_rng(0).uniform(0, 10, (40, 2))
    distances, group = Lattice.from_positions(positions).distance_groups()
    assert len(distances) <= 64 and (np.diff(distances) > 0).all()
    assert (np.diag(group) == -1).all() and (group == group.T).all() and len(np.unique(group)) == len(distances) + 1
    exact = Lattice.from_positions(positions).distances()
    for index, distance in enumerate(distances):
        assert exact[group == index].mean() == pytest.approx(distance)
