"""The picture of `qsr observe`: structure factor, correlations against distance, staggered magnetisation, domains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from qsr.estimators.order import Order
from qsr.jobs.drawing import COLOURS, draw_correlation, draw_structure_factor, plain, sheet, write_picture
from qsr.lattice import Lattice


def draw_order(target: Path, order: Order, lattice: Lattice, unit: str, title: str) -> None:
    """Write the four panels as PNG; `unit` is that of distances.

    Raises:
        ConfigError: if it cannot be written.
    """
    figure = sheet(10, 7.5)
    (waves, correlation), (staggered, domains) = figure.subplots(2, 2)
    draw_structure_factor(figure, waves, order, lattice, unit)
    draw_correlation(correlation, order, unit)
    if order.staggered_levels is not None and order.staggered_distribution is not None:
        share = order.staggered_distribution
        width = 0.9 / lattice.num_sites
        staggered.bar(order.staggered_levels, share.mean, width, yerr=share.error, color=COLOURS[0], ecolor="0.3", capsize=1)
    else:
        _nothing(staggered, "the lattice has no two sublattices")
    staggered.set(xlabel="staggered magnetisation m", ylabel="probability")
    if order.domain_sizes is not None:
        sizes = order.domain_sizes
        seen = np.flatnonzero(sizes.mean)
        domains.errorbar(seen + 1, sizes.mean[seen], sizes.error[seen], fmt="o", color=COLOURS[0], ms=3, lw=0.8, capsize=2)
        domains.set(xscale="log", yscale="log")
    else:
        _nothing(domains, "the lattice has no domains")
    domains.set(xlabel="sites in an antiferromagnetic domain", ylabel="domains per sample")
    figure.suptitle(plain(title), fontsize=10)
    write_picture(figure, target)


def _nothing(axis: Any, why: str) -> None:
    axis.text(0.5, 0.5, why, ha="center", transform=axis.transAxes)
