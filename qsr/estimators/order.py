"""Order in samples of a lattice: structure factor, correlations against distance, Binder cumulant and domains, with errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from qsr.estimators.statistics import ArrayEstimate, Estimate, RunningCovariance, RunningMoments
from qsr.lattice import Lattice

_STEPS = 12  # of k in each direction between 0 and 2 pi / (shortest distance), for free positions


def reciprocal_grid(lattice: Lattice) -> NDArray[np.float64]:
    """(N, 2) wave vectors k = 2 pi (a/Lx, b/Ly), a < Lx and b < Ly, in the order of the sites, in 1/(lattice constant).

    Free positions have no reciprocal lattice: a grid of 25 x 25 between -2 pi and 2 pi over the shortest distance, in the
    inverse unit of the positions.
    """
    if lattice.coordinates is None:
        return 2 * np.pi * lattice.positions / np.array(lattice.shape)
    distances, _ = lattice.distance_groups()
    line = np.arange(-_STEPS, _STEPS + 1) * 2 * np.pi / (_STEPS * distances[0] if len(distances) else _STEPS)
    return np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)


@dataclass(frozen=True)
class Order:
    """What `OrderParameters` found; every estimate with its standard error.

    Attributes:
        scalars: by name (see `OrderParameters`).
        momenta: (F, 2) wave vectors k.
        structure_factor: (F,) S(k) = <|rho_k|^2> / N, rho_k = sum_i n_i exp(i k r_i).
        connected_structure_factor: (F,) (<|rho_k|^2> - |<rho_k>|^2) / N.
        distances: (D,) between sites.
        correlation: (D,) <n_i n_j> averaged over the pairs at a distance.
        connected_correlation: (D,) <n_i n_j> - <n_i><n_j>, so averaged.
        staggered_levels, staggered_distribution: (N+1,) values of m = sum_i s_i (n_i - 1/2) / N and their probabilities.
        domain_sizes: (N,) mean number of domains of 1, 2, ... N sites in a sample.
    """

    scalars: dict[str, Estimate]
    momenta: NDArray[np.float64]
    structure_factor: ArrayEstimate
    connected_structure_factor: ArrayEstimate
    distances: NDArray[np.float64]
    correlation: ArrayEstimate
    connected_correlation: ArrayEstimate
    staggered_levels: NDArray[np.float64] | None
    staggered_distribution: ArrayEstimate | None
    domain_sizes: ArrayEstimate | None


class OrderParameters:
    """Order parameters of batches of independent samples of |psi|^2; memory does not grow with the number of samples.

    Scalars: `density_mean`, <n> averaged over sites. Where the lattice has sublattices, with s_i = (-1)^(x+y) and
    m = sum_i s_i (n_i - 1/2) / N: `staggered_abs` <|m|>, `staggered_sq` <m^2>, `binder` 1 - <m^4> / (3 <m^2>^2)
    (K. Binder, Z. Phys. B 43, 119 (1981)). Where it has bonds between nearest neighbours: `domain_walls`, the share of bonds
    with n_i = n_j. Where it has both, of domains (sites joined by bonds with n_i != n_j): `domains`, their number in a
    sample; `domain_size`, the mean size of the domain of a site, sum of size^2 over N; `largest_domain`, its share of the sites.

    Args:
        momenta: (F, 2) wave vectors; default `reciprocal_grid`.
    """

    def __init__(self, lattice: Lattice, momenta: ArrayLike | None = None) -> None:
        self.lattice = lattice
        grid = reciprocal_grid(lattice) if momenta is None else momenta
        self.momenta = np.asarray(grid, dtype=np.float64).reshape(-1, 2)
        angles = lattice.positions @ self.momenta.T  # (N, F)
        self._cos, self._sin = np.cos(angles), np.sin(angles)
        self.distances, self._group = lattice.distance_groups()
        self._pair_counts = np.bincount(self._group[self._group >= 0], minlength=len(self.distances))  # each pair twice
        self._averages = [self._pair_average(index) for index in range(len(self.distances))]
        self._bonds = lattice.bonds()
        self._signs = lattice.sublattice_signs() if lattice.has_sublattices else None
        # n_i, |rho_k|^2 / N and pair averages together: errors of connected quantities need their covariances.
        self._joint = RunningCovariance(lattice.num_sites + len(self.momenta) + len(self.distances))
        self._powers = RunningCovariance(2)  # m^2, m^4
        self._moments: dict[str, RunningMoments] = {}
        self._levels = np.zeros(lattice.num_sites + 1)  # samples at each value of m

    def update(self, configs: Tensor) -> None:
        """Add a batch of samples (B, N).

        Raises:
            ValueError: for another number of sites.
        """
        num_sites = self.lattice.num_sites
        if configs.ndim != 2 or configs.shape[1] != num_sites:
            raise ValueError(f"configs: expected shape (B, {num_sites}), found {tuple(configs.shape)}")
        n = configs.cpu().numpy().astype(np.float64)
        power = ((n @ self._cos) ** 2 + (n @ self._sin) ** 2) / num_sites
        pairs = np.empty((len(n), len(self.distances)))
        for index, average in enumerate(self._averages):
            pairs[:, index] = np.einsum("bi,ib->b", n, average @ n.T)
        self._joint.update(np.hstack([n, power, pairs]))
        self._add("density_mean", n.mean(axis=1))
        if self._signs is not None:
            level = (n - 0.5) @ self._signs
            m = level / num_sites
            self._powers.update(np.stack([m**2, m**4], axis=1))
            self._add("staggered_abs", np.abs(m))
            self._add("staggered_sq", m**2)
            self._levels += np.bincount(np.rint(level - self._lowest).astype(np.int64), minlength=num_sites + 1)
        if len(self._bonds):
            unequal = n[:, self._bonds[:, 0]] != n[:, self._bonds[:, 1]]
            self._add("domain_walls", 1 - unequal.mean(axis=1))
            if self._signs is not None:
                self._add_domains(unequal)

    def results(self) -> Order:
        """Everything with its error.

        Raises:
            ValueError: before the first sample.
        """
        if self._joint.count == 0:
            raise ValueError("order parameters: no samples yet")
        sites, waves = self.lattice.num_sites, len(self.momenta)
        n, power, pairs = np.split(self._joint.mean, [sites, sites + waves])
        rho_cos, rho_sin = n @ self._cos, n @ self._sin
        wave_gradient = 2 * (rho_cos[:, None] * self._cos.T + rho_sin[:, None] * self._sin.T) / sites  # of |<rho_k>|^2 / N
        pair_gradient = np.empty((len(self.distances), sites))
        for index, average in enumerate(self._averages):
            pair_gradient[index] = 2 * (average @ n)
        scalars = {name: moments.estimate() for name, moments in self._moments.items() if name != "domain_sizes"}
        levels = distribution = None
        if self._signs is not None:
            scalars["binder"] = self._powers.estimate(lambda means: 1 - means[1:] / (3 * means[:1] ** 2))[0]
            levels = (np.arange(sites + 1) + self._lowest) / sites
            share = self._levels / self._joint.count
            distribution = ArrayEstimate(share, np.sqrt(share * (1 - share) / max(self._joint.count - 1, 1)))
        sizes = self._moments.get("domain_sizes")
        return Order(
            scalars=scalars,
            momenta=self.momenta,
            structure_factor=self._of_mean(power, sites),
            connected_structure_factor=self._connected(power - (rho_cos**2 + rho_sin**2) / sites, wave_gradient, sites),
            distances=self.distances,
            correlation=self._of_mean(pairs, sites + waves),
            connected_correlation=self._connected(pairs - pair_gradient @ n / 2, pair_gradient, sites + waves),
            staggered_levels=levels,
            staggered_distribution=distribution,
            domain_sizes=None if sizes is None else sizes.array_estimate(),
        )

    def _of_mean(self, values: NDArray[np.float64], first: int) -> ArrayEstimate:
        """The means that begin at `first`."""
        variance = np.diag(self._joint.covariance)[first : first + len(values)]
        return ArrayEstimate(values, np.sqrt(variance / self._joint.count))

    def _connected(self, values: NDArray[np.float64], gradient: NDArray[np.float64], first: int) -> ArrayEstimate:
        """<Q> - q(<n>) of quadratic forms Q whose means begin at `first`; `gradient` (F, N) is that of q at <n>."""
        count = self._joint.count
        jacobian = np.zeros((len(values), len(self._joint.mean)))
        jacobian[:, : self.lattice.num_sites] = -gradient
        jacobian[np.arange(len(values)), first + np.arange(len(values))] = 1
        # The factor removes the bias exactly, as ddof = 1 does for a variance.
        return self._joint.propagate(values * (count / (count - 1) if count > 1 else np.nan), jacobian)

    def _add(self, name: str, values: NDArray[np.float64]) -> None:
        self._moments.setdefault(name, RunningMoments()).update(values)

    def _add_domains(self, unequal: NDArray[np.bool_]) -> None:
        """Domains of samples, from which of their bonds (B, bonds) join unequal sites."""
        count, sites = len(unequal), self.lattice.num_sites
        sample, bond = np.nonzero(unequal)
        first, second = (sample * sites + self._bonds[bond, end] for end in (0, 1))
        joined = coo_array((np.ones(len(sample), dtype=np.int8), (first, second)), shape=(count * sites,) * 2)
        label = connected_components(joined, directed=False)[1]
        size = np.bincount(label)[label].reshape(count, sites)  # of the domain of each site
        flat = np.arange(count)[:, None] * (sites + 1) + size
        sites_in = np.bincount(flat.ravel(), minlength=count * (sites + 1)).reshape(count, sites + 1)[:, 1:]
        of_size = sites_in / np.arange(1, sites + 1)
        self._add("domain_sizes", of_size)
        self._add("domains", of_size.sum(axis=1))
        self._add("domain_size", size.mean(axis=1))
        self._add("largest_domain", size.max(axis=1) / sites)

    def _pair_average(self, index: int) -> csr_array:
        """(N, N) A with n A n = the average of n_i n_j over the pairs of one group of distances."""
        first, second = np.nonzero(self._group == index)
        weight = np.full(len(first), 1 / self._pair_counts[index])
        return csr_array((weight, (first, second)), shape=self._group.shape)

    @property
    def _lowest(self) -> float:
        """The smallest sum_i s_i (n_i - 1/2)."""
        return -self.lattice.num_sites / 2
