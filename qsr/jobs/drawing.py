"""What the pictures of runs share: colours, sites where they are, snapshots, structure factor and correlations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsr.estimators.order import Order, reciprocal_grid
from qsr.hparams import ConfigError
from qsr.hparams.base import printable
from qsr.lattice import Lattice
from qsr.runs import replacing

# M. Okabe and K. Ito, Color Universal Design (2008): told apart with every kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
EXCITED, GROUND = COLOURS[0], "white"
_HALVES = (-1, -0.5, 0, 0.5, 1)
RADIUS = 0.38  # of a site, in distances of neighbours
DRAWN_SNAPSHOTS = 9
PANEL = 1.35  # width over height of a panel
DPI = 150
DENSITY = r"density $\langle n_i\rangle$"
_APART = 0.03  # of the shortest distance
STRUCTURE_FACTOR = r"connected $S(k) = (\langle|\rho_k|^2\rangle - |\langle\rho_k\rangle|^2)\,/\,N$"


def sheet(width: float, height: float) -> Any:
    """A figure of this size (inches)."""
    from matplotlib.figure import Figure  # without pyplot: no window, and the caller's backend stays

    return Figure(figsize=(width, height), layout="constrained")


def panels(count: int, columns: int, width: float, height: float) -> tuple[Any, list[Any]]:
    """A figure of at most so many columns of panels, each of this size (inches), and its axes."""
    columns = min(count, columns)
    rows = -(-count // columns)
    figure = sheet(width * columns, height * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in grid[count:]:
        axis.set_visible(False)
    return figure, list(grid[:count])


def check_picture(target: str | Path) -> None:
    """Whether a picture may be written there, before the work.

    Raises:
        ConfigError: if the directory is missing, or is the target itself.
    """
    if not Path(target).parent.is_dir() or Path(target).is_dir():
        raise ConfigError(f"{target}: cannot be written; expected a file in an existing directory")


def write_picture(figure: Any, target: str | Path) -> None:
    """Write a figure as PNG.

    Raises:
        ConfigError: if that fails.
    """
    try:
        with replacing(target) as temporary:
            figure.savefig(temporary, dpi=DPI, format="png")
    except OSError as error:
        raise ConfigError(f"{target}: cannot write the picture there ({error.strerror}); choose another --output") from None


def plain(text: str) -> str:
    """Text of a file or of settings as it stands there: in a figure a `$` would begin a formula."""
    return "\n".join(map(printable, text.split("\n"))).replace("$", r"\$")


def bound_view(axis: Any, low: float, high: float) -> None:
    """Show values from `low` to `high`, if these are numbers that matplotlib can divide into ticks."""
    if np.isfinite([low, high]).all() and high - low < np.finfo(np.float32).max:
        axis.set_ylim(low, high)


def in_symbols(unit: str) -> str:
    """A unit as axes show it."""
    return {"Omega": r"$\Omega$", "rad/us": "rad/\u00b5s", "um": "\u00b5m"}.get(unit, unit)


def circles(lattice: Lattice, places: NDArray[np.float64], **style: Any) -> Any:
    """A circle at each of the places (M, 2), as large as sites of the lattice are."""
    from matplotlib.collections import EllipseCollection

    width = 2 * RADIUS * _spacing(lattice)
    return EllipseCollection(width, width, 0, units="xy", offsets=places, **style)


def draw_densities(figure: Any, axis: Any, lattice: Lattice, configs: NDArray[np.uint8], unit: str) -> None:
    """Mean occupations of configurations (S, N), each where its site is: as colours, along a line with standard errors.

    Args:
        unit: of positions.
    """
    places, spacing = lattice.positions, _spacing(lattice)
    mean, error = configs.mean(axis=0), configs.std(axis=0, ddof=1) / np.sqrt(len(configs))
    span = np.ptp(places, axis=0)
    if span.min() < 1e-9 * span.max():
        along = int(span.argmax())
        axis.errorbar(places[:, along], mean, error, fmt="o-", color=COLOURS[0], ms=3, lw=0.8, capsize=2)
        axis.set(xlabel=f"{'xy'[along]} ({in_symbols(unit)})", ylabel=DENSITY, ylim=(0, None))
        return
    drawn = circles(lattice, places, cmap="viridis", linewidth=0, transOffset=axis.transData)
    drawn.set_array(mean)
    drawn.set_clim(0, max(float(mean.max()), 1e-9))
    axis.add_collection(drawn)
    low, high = places.min(axis=0) - 0.6 * spacing, places.max(axis=0) + 0.6 * spacing
    axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal", title=DENSITY)
    axis.set(xlabel=f"x ({in_symbols(unit)})", ylabel=f"y ({in_symbols(unit)})")
    if lattice.coordinates is None:
        axis.locator_params(integer=True)
    figure.colorbar(drawn, ax=axis)


def draw_snapshots(axis: Any, lattice: Lattice, configs: NDArray[np.uint8]) -> None:
    """The first configurations side by side; excited sites are filled."""
    shown = configs[:DRAWN_SNAPSHOTS]
    places, spacing = lattice.positions - lattice.positions.min(axis=0), _spacing(lattice)
    step = np.ptp(places, axis=0) + 2 * spacing
    columns = _columns(len(shown), step[0] / step[1])
    corners = [np.array([number % columns, -(number // columns)]) * step for number in range(len(shown))]
    where = np.concatenate([places + corner for corner in corners])
    colours = np.where(shown.ravel() == 1, EXCITED, GROUND)
    outline = min(0.4, 20 / lattice.num_sites)  # thinner than small circles, or all of them look grey
    drawn = circles(lattice, where, facecolors=colours, edgecolors="0.55", linewidth=outline, transOffset=axis.transData)
    axis.add_collection(drawn)
    low, high = where.min(axis=0) - 0.6 * spacing, where.max(axis=0) + 0.6 * spacing
    axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xticks=[], yticks=[], aspect="equal", frame_on=False)


def draw_correlation(axis: Any, order: Order, unit: str) -> None:
    """Connected density correlation against distance, averaged over pairs at equal distance."""
    found = order.connected_correlation
    axis.axhline(0, color="0.7", lw=0.8)
    # Atoms beside their places have distances close to each other, which a line would join up and down.
    style = "o-" if np.diff(order.distances).min(initial=np.inf) > _APART * order.distances[:1].sum() else "o"
    axis.errorbar(order.distances, found.mean, found.error, fmt=style, color=COLOURS[0], ms=3, lw=0.8, capsize=2)
    axis.set(xlabel=f"distance ({in_symbols(unit)})", ylabel=r"$\langle n_i n_j\rangle - \langle n_i\rangle\langle n_j\rangle$")


def draw_structure_factor(figure: Any, axis: Any, order: Order, lattice: Lattice, unit: str) -> None:
    """Connected S(k): a map with k = 0 in its middle, a line for a chain; `unit` is that of distances."""
    count = len(reciprocal_grid(lattice))
    momenta, found = order.momenta[:count], order.connected_structure_factor
    inverse = r"$\pi$" + (
        " / lattice constant" if unit == "lattice constants" else f" / {in_symbols(unit.replace('units', 'unit'))}"
    )
    if lattice.coordinates is None and 1 in lattice.shape:
        along = momenta.sum(axis=1) / np.pi
        axis.errorbar(along, found.mean[:count], found.error[:count], fmt="o-", color=COLOURS[0], ms=3, lw=0.8, capsize=2)
        axis.set(xlabel=f"k ({inverse})", ylabel=STRUCTURE_FACTOR)
        return
    side = lattice.shape if lattice.coordinates is None else (round(count**0.5),) * 2
    values, kx, ky = (array.reshape(side) for array in (found.mean[:count], momenta[:, 0], momenta[:, 1]))
    if lattice.coordinates is None:
        # k and k + 2 pi are the same: show the first zone around 0.
        order_x, order_y = (np.argsort(_folded(line)) for line in (kx[:, 0], ky[0]))
        values, kx, ky = values[order_x][:, order_y], _folded(kx[order_x]), _folded(ky[:, order_y])
    drawn = axis.pcolormesh(kx[:, 0] / np.pi, ky[0] / np.pi, values.T, shading="nearest", cmap="magma")
    axis.set(xlabel=f"$k_x$ ({inverse})", ylabel=f"$k_y$ ({inverse})", title=STRUCTURE_FACTOR, aspect="equal")
    if lattice.coordinates is None:
        axis.set(xticks=_HALVES, yticks=_HALVES, xlim=axis.get_xlim(), ylim=axis.get_ylim())
    figure.colorbar(drawn, ax=axis)


def _spacing(lattice: Lattice) -> float:
    """The distance of neighbours; of crowded free positions at least what can be seen."""
    distances, _ = lattice.distance_groups()
    span = float(np.ptp(lattice.positions, axis=0).max())
    return max(float(distances[0]), 0.02 * span) if len(distances) else 1.0


def _columns(count: int, aspect: float) -> int:
    """In how many full columns `count` tiles of width over height `aspect` fill a panel best."""
    full = [columns for columns in range(1, count + 1) if count % columns == 0]
    return min(full, key=lambda columns: abs(np.log(aspect * columns**2 / count / PANEL)))


def _folded(momenta: NDArray[np.float64]) -> NDArray[np.float64]:
    """The equivalent wave vectors in (-pi, pi]."""
    return np.where(momenta > np.pi * (1 + 1e-9), momenta - 2 * np.pi, momenta)
