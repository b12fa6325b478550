"""`qsr.observe` and `qsr.extrapolate` against enumeration; their files; their errors."""

import math
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import qsr
from qsr.estimators import Estimate
from qsr.estimators.replicas import log_amplitude
from qsr.hamiltonians import ground_state
from qsr.hamiltonians.base import configurations
from qsr.jobs.observe import momentum
from tests.estimators.tabled import exact_purity
from tests.estimators.test_order import by_hand

ARRAY = qsr.Rydberg(Lx=2, Ly=4, delta=1.5)


def short(folder: Path, steps: int, seed: int = 0, hamiltonian: qsr.Rydberg = ARRAY, **model: object) -> qsr.Run:
    train = {"K": 128, "steps": steps, "lr": 0.02, "dir": str(folder), "seed": seed, "device": "cpu"}
    return qsr.train(hamiltonian, qsr.RNN(Nh=8, patch="2x1", **model), train=train)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[qsr.Run]:
    folder = tmp_path_factory.mktemp("runs")
    return [short(folder, steps, seed) for seed, steps in enumerate((150, 60, 20))]


def amplitudes(run: qsr.Run) -> torch.Tensor:
    modulus, phase = log_amplitude(run.model, configurations(8))
    return torch.polar(modulus.exp(), phase)


def test_observe_agrees_with_enumeration(runs: list[qsr.Run]) -> None:
    psi, phi = amplitudes(runs[0]), amplitudes(runs[2])
    regions = ("rows:1", "columns:2", "sites:0,5")
    found = qsr.observe(
        runs[0].path, 20000, 3000, momenta=["pi,pi/2", (0.5, 0.0)], regions=regions, fidelity=runs[2].path, device="cpu"
    )
    momenta = np.array([[math.pi, math.pi], [math.pi, math.pi / 2], [0.5, 0]])
    exact = by_hand(qsr.Lattice(2, 4), psi.abs().square().numpy(), momenta)
    assert list(found.momenta) == ["pi,pi", "pi,pi/2", "0.5,0"]
    index = list(found.momenta.values())
    np.testing.assert_allclose(found.order.momenta[index], momenta)
    for name in ("structure_factor", "connected_structure_factor"):
        estimate = getattr(found.order, name)
        assert (np.abs(estimate.mean[index] - exact[name]) < 4 * estimate.error[index]).all(), name
    for name, scalar in found.order.scalars.items():
        assert abs(scalar.mean - exact[name]) < 4 * scalar.error, name
    for region in regions:
        purity = exact_purity(psi, qsr.Lattice(2, 4).region(region).tolist())
        assert abs(found.purity[region].mean - purity) < 4 * found.purity[region].error < 0.1
        assert abs(found.renyi2[region].mean + math.log(purity)) < 4 * found.renyi2[region].error
    assert found.fidelity is not None
    overlap = (psi.conj() * phi).sum().abs().item() ** 2
    assert abs(found.fidelity.mean - overlap) < 4 * found.fidelity.error and overlap < 0.99


def test_what_is_written(runs: list[qsr.Run], tmp_path: Path) -> None:
    found = qsr.observe(runs[0], 300, 128, regions=["rows:1"], fidelity=runs[1], output=tmp_path, write=True)
    again = qsr.observe(runs[0], 300, 128, regions=["rows:1"], fidelity=runs[1])
    assert found.lines() == again.lines(), "draws depend on the seed alone"
    with h5py.File(tmp_path / "observables.h5") as file:
        assert file.attrs["schema"] == "qsr-observables/1" and file.attrs["num_samples"] == 300
        assert file["renyi2/rows:1/mean"][()] == found.renyi2["rows:1"].mean
        assert file["fidelity/error"][()] == found.fidelity.error  # type: ignore[union-attr]
        assert file["scalars/binder/error"][()] == found.order.scalars["binder"].error
        np.testing.assert_array_equal(file["connected_correlation/mean"], found.order.connected_correlation.mean)
        np.testing.assert_array_equal(file["structure_factor/momenta"], found.order.momenta)
        assert file["domain_sizes/sizes"][:].tolist() == list(range(1, 9))
    assert (tmp_path / "observables.png").stat().st_size > 10_000


def test_atoms_anywhere(tmp_path: Path) -> None:
    """A triangle has no sublattices, and no reciprocal lattice; a chain has a line for a map."""
    file = tmp_path / "atoms.csv"
    file.write_text("0 0\n1 0\n0.5 0.866\n")
    for problem in (qsr.Rydberg(positions=str(file)), qsr.Rydberg(Lx=4, Ly=1)):
        model = qsr.RNN(Nh=4, patch=1)
        run = qsr.train(problem, model, train={"K": 16, "steps": 2, "dir": str(tmp_path), "device": "cpu"})
        found = qsr.observe(run, 64, 32, write=True)
        assert ("binder" in found.order.scalars) == (problem.positions is None)
        assert list(found.momenta) == (["pi,0"] if problem.positions is None else [])
        assert run.path is not None and (run.path / "observables.png").stat().st_size > 10_000


def test_an_entropy_that_is_not_resolved_is_a_bound(tmp_path: Path) -> None:
    run = short(tmp_path, 1, phase=True)
    found = replace(qsr.observe(run, 4, 4, regions=["rows:1"]), purity={"rows:1": Estimate(-0.01, 0.05)})
    assert any("above 2.30 (more samples are needed" in line for line in found.lines())


@pytest.mark.parametrize(
    ("text", "k"),
    [
        ("pi,pi/2", (math.pi, math.pi / 2)),
        ("-2pi/3, 0", (-2 * math.pi / 3, 0)),
        ("1.5,.2", (1.5, 0.2)),
        ("0.5pi,+1", (math.pi / 2, 1)),
    ],
)
def test_momenta(text: str, k: tuple[float, float]) -> None:
    assert momentum(text) == pytest.approx(k)


def test_extrapolation(tmp_path: Path) -> None:
    """Variances and energies of the states, enumerated; the line ends at the ground state."""
    problem, picture = qsr.TFIM(Lx=2, Ly=4, h=3), tmp_path / "line.png"
    runs = [short(tmp_path, steps, seed, problem) for seed, steps in ((1, 90), (2, 120), (3, 150))]
    found = qsr.extrapolate([runs[0].path, *runs[1:]], 20000, 6000, device="cpu", picture=picture)
    hamiltonian = problem.build()
    matrix = hamiltonian.to_sparse()
    errors = np.sqrt(np.diagonal(found.covariances, axis1=1, axis2=2))
    for index, run in enumerate(runs):
        psi = amplitudes(run).real.numpy()
        energy = psi @ (matrix @ psi)
        variance = (matrix @ psi) @ (matrix @ psi) - energy**2
        assert abs(found.energies[index] - energy / 8) < 4 * errors[index, 1]
        assert abs(found.variances[index] - variance / 8) < 4 * errors[index, 0]
    exact = ground_state(hamiltonian).energy / 8
    assert found.energies.min() - exact > 2e-4
    assert abs(found.energy.mean - exact) < 4 * found.energy.error < 4e-3
    assert picture.stat().st_size > 5_000
    assert "for 1 degrees of freedom" in "\n".join(found.lines())
    scattered = replace(found, line=replace(found.line, chi_squared=9.0))
    assert scattered.energy.error == pytest.approx(3 * found.line.intercept.error)
    two = qsr.extrapolate(runs[1:], 1000, 1000)
    assert two.energy == two.line.intercept and "two points: no check" in two.lines()[-1]


def test_errors_name_the_fix(runs: list[qsr.Run], tmp_path: Path) -> None:
    larger = qsr.train(qsr.Rydberg(Lx=2, Ly=2), qsr.RNN(Nh=4, patch=1), train={"K": 8, "steps": 1, "dir": str(tmp_path)})
    other = short(tmp_path, 1, hamiltonian=qsr.Rydberg(Lx=2, Ly=4, delta=0.5))
    for arguments, message in [
        ({"num_samples": 1}, "SAMPLES=1: must be at least 2"),
        ({"batch_size": 0}, "BATCH=0: must be at least 1"),
        ({"batch_size": 1, "regions": ["rows:1"]}, "an entropy needs at least 4 samples and 2 per batch"),
        ({"regions": ["rows:3"]}, "region=rows:3: expected rows:1 to rows:2, columns:1 to columns:4, or sites"),
        ({"regions": ["sites:1,1"]}, "region=sites:1,1: expected"),
        ({"regions": ["sites:8"]}, "with different numbers below 8"),
        ({"regions": ["half"]}, "region=half: expected"),
        ({"momenta": ["pi"]}, "momentum=pi: expected kx,ky such as pi,pi/2"),
        ({"momenta": ["1/0,2"]}, "momentum=1/0,2: expected"),
        ({"fidelity": larger}, "expected a run on the same 2x4 sites, found 2x2 sites"),
        ({"fidelity": tmp_path / "no"}, "no such directory"),
    ]:
        with pytest.raises(qsr.ConfigError) as caught:
            qsr.observe(runs[0], **arguments)  # type: ignore[arg-type]
        assert message in str(caught.value)
    for given, message in [
        (runs[:1], "a line needs at least 2 runs, found 1"),
        ([runs[0], other], f"{other.path}: expected the Hamiltonian of {runs[0].path}"),
    ]:
        with pytest.raises(qsr.ConfigError) as caught:
            qsr.extrapolate(given)
        assert message in str(caught.value)


def test_a_fidelity_needs_one_basis() -> None:
    """With and without the sign rule the amplitudes are those of different bases."""
    train = {"K": 8, "steps": 1, "dir": "<NONE>"}
    turned, plain = (
        qsr.train(qsr.Heisenberg(Lx=2, Ly=2, sign_rule=rule), qsr.RNN(Nh=4, patch=1, phase=True), train=train)
        for rule in (True, False)
    )
    assert qsr.observe(turned, 64, fidelity=turned).fidelity is not None
    with pytest.raises(qsr.ConfigError, match=r"expected amplitudes in the same basis \(n_i with the sign rule\), found n_i"):
        qsr.observe(turned, 64, fidelity=plain)


def test_a_disordered_array_has_an_order_parameter_and_a_kagome_says_why_not() -> None:
    """Positions in micrometres, as an experiment has them."""
    rng = np.random.default_rng(0)
    places = qsr.Lattice(3, 3).positions * [6.1, 5.6] + rng.uniform(-0.1, 0.1, (9, 2))
    array = qsr.Rydberg(positions=places.tolist(), units="rad/us", C6=5420503, Omega=15.8, delta=25.0)
    train = {"K": 16, "steps": 1, "dir": "<NONE>"}
    found = qsr.observe(qsr.train(array, qsr.RNN(Nh=4, patch=1), train), 64)
    assert {"staggered_abs", "binder", "domains"} <= set(found.order.scalars)
    kagome = qsr.train(qsr.Rydberg(lattice="kagome", Lx=1, Ly=2), qsr.RNN(Nh=4, patch=1), train)
    said = qsr.observe(kagome, 64).lines()
    assert any(line.startswith("order parameter") and "do not alternate" in line for line in said)
    with pytest.raises(qsr.ConfigError, match=r"region=rows:1: this lattice is no rectangle of sites"):
        qsr.observe(kagome, 64, regions=["rows:1"])
