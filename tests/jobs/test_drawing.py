"""Pictures of runs: what is drawn is what was sampled, where the sites are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

import qsr
from qsr.estimators import state_probabilities
from qsr.estimators.order import OrderParameters
from qsr.hamiltonians import configurations
from qsr.jobs import drawing
from qsr.jobs.exact import references
from qsr.jobs.plot import _draw_training

LATTICES = {
    "square": qsr.Lattice(3, 4),
    "chain": qsr.Lattice(6, 1),
    "column": qsr.Lattice(1, 6),
    "kagome": qsr.Lattice.named("kagome", 2, 2),
    "free": qsr.Lattice.from_positions([[0.0, 0.0], [5.5, 0.3], [2.0, 4.9], [9.0, 5.0]]),
}


def drawn_circles(axis: object) -> tuple[np.ndarray, object]:
    (found,) = axis.collections  # type: ignore[attr-defined]
    return np.asarray(found.get_offsets()), found


@pytest.mark.parametrize("lattice", LATTICES.values(), ids=LATTICES)
def test_densities_stand_where_the_sites_are(lattice: qsr.Lattice) -> None:
    configs = np.random.default_rng(0).integers(0, 2, (50, lattice.num_sites)).astype(np.uint8)
    figure = Figure()
    axis = figure.subplots()
    drawing.draw_densities(figure, axis, lattice, configs, "um")
    if 1 in lattice.shape and lattice.coordinates is None:
        places, means = axis.lines[0].get_data()
        assert np.array_equal(places, np.arange(6)) and np.allclose(means, configs.mean(axis=0))
        assert axis.get_xlabel() == f"{'x' if lattice.Lx > 1 else 'y'} (µm)"
        return
    offsets, found = drawn_circles(axis)
    assert np.array_equal(offsets, lattice.positions) and axis.get_aspect() == 1.0
    assert np.allclose(found.get_array(), configs.mean(axis=0))  # type: ignore[attr-defined]
    diameter = found.get_widths()[0]  # type: ignore[attr-defined]
    nearest = lattice.distance_groups()[0][0]
    assert 0.5 * nearest < diameter < nearest, "circles are seen, and do not touch"


@pytest.mark.parametrize("lattice", LATTICES.values(), ids=LATTICES)
def test_snapshots_are_filled_where_atoms_are_excited(lattice: qsr.Lattice) -> None:
    configs = np.random.default_rng(1).integers(0, 2, (20, lattice.num_sites)).astype(np.uint8)
    axis = Figure().subplots()
    drawing.draw_snapshots(axis, lattice, configs)
    offsets, found = drawn_circles(axis)
    tiles = offsets.reshape(9, lattice.num_sites, 2)
    assert np.allclose(tiles - tiles[:, :1], lattice.positions - lattice.positions[0]), "each tile is the array"
    filled = (found.get_facecolors() == to_rgba(drawing.EXCITED)).all(axis=1)  # type: ignore[attr-defined]
    assert np.array_equal(filled.reshape(9, -1), configs[:9] == 1)
    apart = np.linalg.norm(offsets[:, None] - offsets, axis=-1) + np.diag(np.full(len(offsets), np.inf))
    assert apart.min() == pytest.approx(lattice.distance_groups()[0][0]), "tiles do not overlap"


def test_structure_factor_and_correlations_of_an_exact_state() -> None:
    """From a sample of all configurations with their exact frequencies: panels agree with sums over the distribution."""
    problem = qsr.Rydberg(Lx=2, Ly=3, delta=2.0)
    weights = np.rint(4000 * state_probabilities([problem.build()])[0]).astype(int)
    configs = configurations(6).repeat_interleave(torch.from_numpy(weights), dim=0)
    order = OrderParameters(problem.lattice())
    order.update(configs)
    figure = Figure()
    first, second = figure.subplots(1, 2)
    drawing.draw_correlation(first, order.results(), "lattice constants")
    drawing.draw_structure_factor(figure, second, order.results(), problem.lattice(), "lattice constants")
    n = configs.numpy().astype(float)
    covariance = np.cov(n.T)
    distances = problem.lattice().distances()
    line = first.lines[1].get_data()
    assert line[1][0] == pytest.approx(covariance[np.isclose(distances, 1)].mean(), rel=1e-9)
    mesh = second.collections[0]
    kx, ky = np.pi * np.array([0, 1]), 2 * np.pi / 3 * np.array([-1, 0, 1])
    rho = np.exp(1j * np.stack(np.meshgrid(kx, ky), axis=-1).reshape(6, 2) @ problem.lattice().positions.T) @ n.T
    assert np.asarray(mesh.get_array()).ravel() == pytest.approx(rho.var(axis=1, ddof=1) / 6, rel=1e-9)


def test_reference_lines_of_the_energy() -> None:
    problem = qsr.Rydberg(Lx=2, Ly=2, delta=1.3)
    history = {"step": np.arange(5), "energy": np.full(5, -1.0), "energy_error": np.full(5, 0.1)}
    history["variance"] = np.array([1.0, -0.1, 0.5, 0.2, 0.1])
    axes = Figure().subplots(1, 2)
    _draw_training(axes, history, 4, references(problem.build()), "Omega")
    found = {line.get_label(): line.get_ydata()[0] for line in axes[0].lines}
    exact = qsr.exact(problem)
    assert found.pop("training") == -0.25
    assert found == pytest.approx(
        {f"{name}: {energy / 4:.5f}": energy / 4 for name, energy in {**exact.baselines, "exact": exact.energy}.items()}
    )
    assert axes[0].get_ylabel() == r"energy per site ($\Omega$)"
    assert references(qsr.TFIM(Lx=17, Ly=1).build()).keys() == {"product of sites"}, "no diagonalisation above 16 sites"


@pytest.mark.parametrize(
    "problem", [{"lattice": "kagome", "Lx": 2, "Ly": 1}, {"Lx": 5, "lattice": "chain", "boundary": "periodic"}]
)
def test_a_run_on_any_lattice_is_drawn(problem: dict, tmp_path: Path) -> None:
    train = {"K": 16, "steps": 2, "dir": str(tmp_path)}
    run = qsr.train(qsr.Rydberg(**problem), qsr.RNN(patch=1, Nh=4), train)
    assert qsr.plot(run).read_bytes().startswith(b"\x89PNG")


def test_a_picture_is_refused_before_the_work(tmp_path: Path) -> None:
    for target in (tmp_path, tmp_path / "nowhere" / "c.png"):
        with pytest.raises(qsr.ConfigError, match="expected a file in an existing directory"):
            qsr.compare(["no run", "nor this"], output=target)
