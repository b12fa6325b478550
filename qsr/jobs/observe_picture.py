"""The picture of `qsr observe`: structure factor, correlations against distance, staggered magnetisation, domains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from qsr.estimators.order import Order, reciprocal_grid
from qsr.lattice import Lattice


def draw_order(path: Path, order: Order, lattice: Lattice, unit: str, title: str) -> None:
    """Write the four panels as PNG; `unit` is that of distances."""
    from matplotlib.figure import Figure  # without pyplot: no window, and the caller's backend stays

    figure = Figure(figsize=(10, 7.5), layout="constrained")
    (waves, correlation), (staggered, domains) = figure.subplots(2, 2)
    _draw_structure(figure, waves, order, lattice, unit.replace("constants", "constant").replace("units", "unit"))
    found = order.connected_correlation
    correlation.errorbar(order.distances, found.mean, found.error, fmt="o-", ms=3, lw=0.8, capsize=2)
    correlation.axhline(0, color="0.7", lw=0.8)
    correlation.set(xlabel=f"distance ({unit})", title="<n_i n_j> - <n_i><n_j>")
    if order.staggered_levels is not None and order.staggered_distribution is not None:
        share = order.staggered_distribution
        width = 0.9 / lattice.num_sites
        staggered.bar(order.staggered_levels, share.mean, width, yerr=share.error, color="C0", ecolor="0.3", capsize=1)
    else:
        _nothing(staggered, "the lattice has no two sublattices")
    staggered.set(xlabel="staggered magnetisation m", ylabel="probability")
    if order.domain_sizes is not None:
        sizes = order.domain_sizes
        seen = np.flatnonzero(sizes.mean)
        domains.errorbar(seen + 1, sizes.mean[seen], sizes.error[seen], fmt="o", ms=3, lw=0.8, capsize=2)
        domains.set(xscale="log", yscale="log")
    else:
        _nothing(domains, "the lattice has no domains")
    domains.set(xlabel="sites in an antiferromagnetic domain", ylabel="domains per sample")
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=120, format="png")


def _draw_structure(figure: Any, axis: Any, order: Order, lattice: Lattice, unit: str) -> None:
    """Connected S(k): a map with k = 0 in its middle, a line for a chain."""
    count = len(reciprocal_grid(lattice))
    momenta, found = order.momenta[:count], order.connected_structure_factor
    label = "(<|rho_k|^2> - |<rho_k>|^2) / N"
    if lattice.coordinates is None and 1 in lattice.shape:
        along = momenta.sum(axis=1) / np.pi
        axis.errorbar(along, found.mean[:count], found.error[:count], fmt="o-", ms=3, lw=0.8, capsize=2)
        axis.set(xlabel=f"k (pi / {unit})", title=label)
        return
    side = lattice.shape if lattice.coordinates is None else (round(count**0.5),) * 2
    values, kx, ky = (array.reshape(side) for array in (found.mean[:count], momenta[:, 0], momenta[:, 1]))
    if lattice.coordinates is None:
        # k and k + 2 pi are the same: show the first zone around 0.
        order_x, order_y = (np.argsort(_folded(line)) for line in (kx[:, 0], ky[0]))
        values, kx, ky = values[order_x][:, order_y], _folded(kx[order_x]), _folded(ky[:, order_y])
    drawn = axis.pcolormesh(kx[:, 0] / np.pi, ky[0] / np.pi, values.T, shading="nearest", cmap="magma")
    axis.set(xlabel=f"kx (pi / {unit})", ylabel=f"ky (pi / {unit})", title=label, aspect="equal")
    figure.colorbar(drawn, ax=axis)


def _folded(momenta: np.ndarray) -> np.ndarray:
    """The equivalent wave vectors in (-pi, pi]."""
    return np.where(momenta > np.pi * (1 + 1e-9), momenta - 2 * np.pi, momenta)


def _nothing(axis: Any, why: str) -> None:
    axis.text(0.5, 0.5, why, ha="center", transform=axis.transAxes)
