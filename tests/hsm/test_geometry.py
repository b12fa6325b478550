"""Matrix geometry against closed forms: spin matrices, finite differences, gauge invariance, degeneracies."""

import math

import pytest
import torch
from tensor_memory import TensorMemory
from torch import Tensor

from qsr.hparams import ConfigError
from qsr.hsm import (
    HSM,
    HilbertSpaceModel,
    berry_curvature,
    geometric_tensor,
    intrinsic_dimension,
    laplacian_spectrum,
    matrix_geometry,
    quantum_metric,
)
from qsr.hsm.geometry import curvature_size, matrix_elements, metric_spectrum
from qsr.hsm.operators import error_hamiltonian
from qsr.hsm.states import States, states_of

EPSILON = torch.zeros(3, 3, 3, dtype=torch.float64)
for a, b, c in [(0, 1, 2), (1, 2, 0), (2, 0, 1)]:
    EPSILON[a, b, c], EPSILON[b, a, c] = 1.0, -1.0


def spin(dimension: int) -> Tensor:
    """(3, d, d) spin matrices L_x, L_y, L_z of j = (d - 1)/2."""
    j = (dimension - 1) / 2
    m = j - torch.arange(dimension, dtype=torch.float64)
    raising = torch.diag(torch.sqrt(j * (j + 1) - m[1:] * (m[1:] + 1)), 1).to(torch.complex128)
    return torch.stack([(raising + raising.mH) / 2, (raising - raising.mH) / 2j, torch.diag(m).to(torch.complex128)])


def at(operators: Tensor, points: Tensor) -> States:
    return states_of(error_hamiltonian(operators, points), operators[:0])


def model_of(operators: Tensor, **settings: object) -> HilbertSpaceModel:
    """An unsupervised model of given operators, in double precision."""
    given = {"hsm_model": "geometry", "hilbert_space_dims": operators.shape[-1], "input_operator_count": len(operators)}
    model = HilbertSpaceModel(HSM(**{**given, "complex": operators.is_complex(), **settings})).double()
    model.set_operators("input", operators)
    return model


def directions(count: int, features: int = 3, seed: int = 0) -> Tensor:
    x = torch.randn(count, features, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x / x.norm(dim=1, keepdim=True)


def random_operators(count: int, dimension: int, seed: int = 0) -> Tensor:
    made = torch.randn(count, dimension, dimension, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))
    return 0.5 * (made + made.mH)


# ---- Pauli matrices --------------------------------------------------------------------------------------------------


def test_pauli_matrices_have_the_metric_of_the_sphere_and_the_curvature_of_a_monopole() -> None:
    x = torch.linspace(0.3, 2.5, 40, dtype=torch.float64)[:, None] * directions(40)
    radius = x.norm(dim=1)
    n = x / radius[:, None]
    operators = 2 * spin(2)
    states = at(operators, x)
    projector = torch.eye(3) - n[:, :, None] * n[:, None, :]
    assert torch.allclose(quantum_metric(operators, states), projector / radius[:, None, None], atol=1e-12)
    # Fubini-Study: (dtheta^2 + sin^2 dphi^2) / 4; a monopole of 1/2 at the origin, whose flux through a sphere is 2 pi.
    tensor = geometric_tensor(operators, states)
    assert torch.allclose(tensor.real, projector / (4 * radius**2)[:, None, None], atol=1e-12)
    monopole = torch.einsum("abc,sc->sab", EPSILON, n) / (2 * radius**2)[:, None, None]
    assert torch.allclose(berry_curvature(operators, states), -monopole, atol=1e-12)
    elements = matrix_elements(operators, states)
    assert torch.allclose(curvature_size(elements, states), 1 / (2 * radius**2), atol=1e-12)
    assert torch.allclose(metric_spectrum(elements, states), torch.tensor([1.0, 1.0, 0.0]).double() / radius[:, None], atol=1e-12)


def test_the_sign_of_the_curvature_is_that_of_a_loop_of_states() -> None:
    """Berry's phase of a small loop, -arg prod <psi_i|psi_i+1> = sum of F over the area that it encloses."""
    operators, centre, step = random_operators(3, 4), torch.tensor([0.4, -0.2, 0.7], dtype=torch.float64), 1e-3
    axes = torch.eye(3, dtype=torch.float64)[:2] * step
    corners = centre + torch.stack([-axes[0] - axes[1], axes[0] - axes[1], axes[0] + axes[1], axes[1] - axes[0]]) / 2
    psi = at(operators, corners).ground
    overlaps = (psi.conj() * psi.roll(-1, dims=0)).sum(dim=1)
    phase = -overlaps.prod().angle() / step**2
    assert float(phase) == pytest.approx(float(berry_curvature(operators, at(operators, centre[None]))[0, 0, 1]), rel=1e-4)


# ---- any operators ---------------------------------------------------------------------------------------------------


def test_the_metric_is_the_jacobian_of_the_cloud_and_the_tensor_that_of_the_states() -> None:
    operators, step = random_operators(4, 5), 1e-4
    x = 0.8 * torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    states = at(operators, x)
    metric, fubini_study = quantum_metric(operators, states), geometric_tensor(operators, states).real

    def cloud(points: Tensor) -> Tensor:
        return states_of(error_hamiltonian(operators, points), operators).expectations

    for index in range(4):
        shift = torch.zeros(4, dtype=torch.float64)
        shift[index] = step
        slope = (cloud(x + shift) - cloud(x - shift)) / (2 * step)
        assert torch.allclose(metric[:, index], slope, atol=1e-5)
        before, after = at(operators, x - shift).ground, at(operators, x + shift).ground
        distance = 1 - (before.conj() * after).sum(dim=1).abs().square()
        assert torch.allclose(fubini_study[:, index, index], distance / (2 * step) ** 2, rtol=1e-4)


@pytest.mark.parametrize(("features", "dimension"), [(3, 6), (12, 3), (4, 2)])
def test_the_spectrum_and_the_size_of_the_curvature_are_those_of_the_matrices(features: int, dimension: int) -> None:
    operators = random_operators(features, dimension)
    states = at(operators, directions(7, features))
    elements = matrix_elements(operators, states)
    expected = torch.linalg.eigvalsh(quantum_metric(operators, states)).flip(-1)
    assert torch.allclose(metric_spectrum(elements, states), expected, atol=1e-10)
    assert (expected[:, 2 * dimension - 2 :].abs() < 1e-10).all()
    curvature = berry_curvature(operators, states)
    assert torch.allclose(curvature, -curvature.mT)
    assert torch.allclose(curvature_size(elements, states), (curvature.square().sum(dim=(1, 2)) / 2).sqrt(), atol=1e-10)


def test_many_features_of_few_levels_make_no_matrix_of_all_their_pairs() -> None:
    features, levels, count = 400, 2, 20
    model = model_of(random_operators(features, levels), standardize="none")
    with TensorMemory() as memory:
        matrix_geometry(model, directions(count, features))
    assert memory.peak < 8 * count * features**2 / 4


def test_the_geometry_does_not_depend_on_the_basis_nor_on_the_chunks() -> None:
    operators = random_operators(3, 4)
    turn = torch.linalg.qr(random_operators(1, 4, seed=5)[0] + 1j * random_operators(1, 4, seed=6)[0])[0]
    x = directions(50)
    found = matrix_geometry(model_of(operators, standardize="none"), x)
    turned = matrix_geometry(model_of(turn @ operators @ turn.mH, standardize="none"), x, memory_bytes=20_000)
    for name in ("cloud", "spectrum", "curvature", "gap", "bias", "fluctuation"):
        assert torch.allclose(getattr(found, name), getattr(turned, name), atol=1e-9), name
    assert torch.allclose(laplacian_spectrum(operators), laplacian_spectrum(turn @ operators @ turn.mH), atol=1e-10)
    # 2 E_0 = |y - x|^2 + variance
    energy = 2 * model_of(operators).states(x).energy / 3
    assert torch.allclose(found.bias + found.fluctuation, energy, atol=1e-10)


def test_real_operators_have_no_curvature() -> None:
    operators = random_operators(3, 4).real.contiguous()
    found = matrix_geometry(model_of(operators, standardize="none"), directions(5))
    assert (found.curvature == 0).all() and (found.spectrum[:, 0] > 0).all()
    assert (berry_curvature(operators, at(operators, directions(5))) == 0).all()


def test_degenerate_levels_are_left_out_and_counted() -> None:
    """Pauli matrices at the origin: all levels coincide. Blocks of them: every level twice."""
    pauli = 2 * spin(2)
    twice = torch.einsum("kij,lm->kiljm", pauli, torch.eye(2, dtype=torch.complex128)).reshape(3, 4, 4)
    states = at(twice, directions(9))
    assert states.degenerate().all()
    n = directions(9)
    expected = torch.eye(3) - n[:, :, None] * n[:, None, :]
    assert torch.allclose(quantum_metric(twice, states), expected, atol=1e-10)
    found = matrix_geometry(model_of(pauli, standardize="none"), torch.cat([torch.zeros(1, 3), directions(3)]).double())
    assert found.degenerate.tolist() == [True, False, False, False]
    assert all(torch.isfinite(getattr(found, name)).all() for name in ("cloud", "spectrum", "curvature", "gap", "bias"))
    excited = torch.diag(torch.tensor([0.0, 1.0, 1.0], dtype=torch.complex128))[None]  # an excited level that is degenerate
    assert matrix_geometry(model_of(excited, standardize="none"), torch.zeros(1, 1)).degenerate.tolist() == [False]


def test_a_single_level_is_a_point() -> None:
    found = matrix_geometry(model_of(torch.full((2, 1, 1), 0.5, dtype=torch.complex128)), directions(4, 2))
    assert (found.cloud == 0.5).all() and (found.spectrum == 0).all() and (found.gap == 0).all()
    assert found.dimension == 0 and found.votes.tolist() == [1, 0, 0]


# ---- the exact solution on the sphere --------------------------------------------------------------------------------


@pytest.mark.parametrize(("dimension", "weight"), [(2, 0.1), (4, 0.1), (4, 1.0), (7, 0.3)])
def test_spin_matrices_solve_the_sphere(dimension: int, weight: float) -> None:
    j = (dimension - 1) / 2
    operators = spin(dimension) / (j + weight)
    x = directions(200)
    model = model_of(operators, standardize="none", fluctuation_weight=weight)
    found = matrix_geometry(model, x)
    assert torch.allclose(3 * found.bias, torch.full((200,), (weight / (j + weight)) ** 2).double(), atol=1e-12)
    assert torch.allclose(3 * found.fluctuation, torch.full((200,), j / (j + weight) ** 2).double(), atol=1e-12)
    assert float(3 * model.compute_metrics(x, 0)["loss"].detach()) == pytest.approx(weight / (j + weight), rel=1e-12)
    assert torch.allclose(found.cloud, x * j / (j + weight), atol=1e-12)
    assert torch.allclose(found.spectrum, torch.tensor([1.0, 1.0, 0.0]).double().expand(200, 3), atol=1e-12)
    if dimension > 2:  # two levels have no room for a dimension after the second eigenvalue
        assert found.dimension == 2 and (found.dimensions == 2).all() and found.votes[2] == 1
    assert found.tangents == 2
    # l (l + 1), 2 l + 1 times, for l = 0 ... 2 j
    expected = torch.cat([torch.full((2 * ell + 1,), ell * (ell + 1.0)) for ell in range(dimension)]).double() / (j + weight) ** 2
    assert torch.allclose(laplacian_spectrum(operators), expected, atol=1e-10)


def test_the_spin_matrices_are_a_minimum_of_the_loss() -> None:
    """The gradient vanishes up to the noise of a finite sample, which an even set of points does not have."""
    from itertools import product

    # The directions of a cube's corners, edges and faces, weighted as in Lebedev's rule with 26 points (exact to degree 7).
    grid = torch.tensor([p for p in product((-1.0, 0.0, 1.0), repeat=3) if any(p)], dtype=torch.float64)
    shares = torch.tensor([(1 / 21, 4 / 105, 9 / 280)[int(count) - 1] for count in grid.abs().sum(dim=1)]).double()
    points = grid / grid.norm(dim=1, keepdim=True)
    assert float(shares.sum()) == pytest.approx(1)
    model = model_of(spin(4) / (1.5 + 0.1), standardize="none", fluctuation_weight=0.1)
    loss = sum(share * model.compute_metrics(point[None], 0)["loss"] for share, point in zip(shares, points, strict=True))
    loss.backward()
    assert max(float(parameter.grad.abs().max()) for parameter in model.parameters()) < 1e-6


def test_laplacians_that_are_too_large_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"hilbert_space_dims=41: the matrix Laplacian is diagonalised up to 40"):
        laplacian_spectrum(torch.zeros(1, 41, 41))


# ---- dimension -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spectrum", "levels", "dimension"),
    [
        ([1.08, 0.93, 0.045, 0.001, 0.0], 8, 2),
        ([1.22, 1.05, 0.89, 0.71, 0.38, 0.014, 1e-9], 16, 5),
        ([1.0, 0.9, 1e-3, 1e-12], 4, 2),  # small ratios of small numbers: the floor
        ([1.2, 1.0, 0.9, 0.8, 0.0, 0.0, 0.0], 3, 1),  # rank 4 of three levels is no dimension
        ([0.9, 0.1], 2, 1),
        ([0.7], 4, 1),
        ([0.0, 0.0], 1, 0),
        ([0.0, 0.0, 0.0], 4, 1),
    ],
)
def test_the_dimension_is_where_the_spectrum_drops(spectrum: list[float], levels: int, dimension: int) -> None:
    assert int(intrinsic_dimension(torch.tensor(spectrum), levels)) == dimension


def test_the_votes_are_of_the_points_and_the_estimate_of_the_mean() -> None:
    found = matrix_geometry(model_of(random_operators(5, 6), standardize="none"), directions(30, 5))
    each = [int(intrinsic_dimension(row, 6)) for row in found.spectrum]
    assert found.dimensions.tolist() == each
    assert found.votes.tolist() == [each.count(dimension) / 30 for dimension in range(6)]
    assert found.dimension == int(intrinsic_dimension(found.spectrum.mean(dim=0), 6))


# ---- any model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"hsm_model": "general", "hilbert_space_dims": 4, "weighted_layer": True},
        {"hsm_model": "general", "hilbert_space_dims": 4, "complex": False, "degenerate": "average"},
        {"hsm_model": "general", "hilbert_space_dims": 4, "energy_form": "linear"},
        {"hsm_model": "general_fullenergy", "hilbert_space_dims": 4},
        {"hsm_model": "pauli", "qubits_count": 2, "input_operator_pauli_weight": 1},
        {"hsm_model": "geometry", "hilbert_space_dims": 4},
    ],
)
def test_every_model_has_a_geometry(settings: dict[str, object]) -> None:
    outputs = {} if settings["hsm_model"] == "geometry" else {"output_operator_count": 2}
    torch.manual_seed(3)
    model = HilbertSpaceModel(HSM(input_operator_count=3, **outputs, **settings))
    model.x_mean += 5.0
    model.x_scale *= 2.0
    x = 5 + 2 * directions(20)
    found = matrix_geometry(model, x)
    assert found.cloud.dtype == torch.float64 and found.spectrum.shape == (20, 3)
    model.double()
    assert torch.allclose(found.points, model.scaled_inputs(x), atol=1e-6)
    with torch.no_grad():  # the metric of the states at the cloud point, not at x
        metric = quantum_metric(model.operators().inputs, model.states(found.cloud))
    assert torch.allclose(found.spectrum, torch.linalg.eigvalsh(metric).flip(-1), atol=1e-6)
    assert not found.spectrum.requires_grad


def test_features_without_a_value_are_put_on_the_cloud() -> None:
    model = model_of(random_operators(3, 4), missing="drop_terms", standardize="none")
    x = directions(5)
    x[2, 1] = math.nan
    found = matrix_geometry(model, x)
    assert torch.isfinite(found.cloud).all() and torch.isfinite(found.spectrum).all()
    seen = torch.tensor([0, 2])
    assert float(found.bias[2]) == pytest.approx(float((found.cloud[2, seen] - x[2, seen]).square().mean()))
    with pytest.raises(ConfigError, match="missing=drop_terms"):
        matrix_geometry(model_of(random_operators(3, 4)), x)
    with pytest.raises(ConfigError, match=r"data: expected 3 features for each point, found shape \(5, 2\)"):
        matrix_geometry(model, x[:, :2])
