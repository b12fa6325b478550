"""States of data points: exact values, and gradients that are right everywhere and finite at every degeneracy."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from qsr.hamiltonians.pauli import PauliBasis, pauli_strings
from qsr.hsm.operators import (
    combined,
    error_hamiltonian,
    half_norm,
    hermitian,
    linear_hamiltonian,
    parameters_of,
    random_parameters,
)
from qsr.hsm.states import states_of

SIGMA = PauliBasis(["X", "Y", "Z"]).operators(torch.eye(3, dtype=torch.float64))
KINDS = {"ground": (None, False), "average": (None, True), "thermal": (1.7, False)}


def operators(count: int, dimension: int, is_complex: bool = True, seed: int = 0) -> Tensor:
    generator = torch.manual_seed(seed)
    del generator
    diags, trius = random_parameters(count, dimension, is_complex, 0.7)
    return hermitian(diags.double(), trius.double())


def points(count: int, features: int, seed: int = 1) -> Tensor:
    return torch.randn(count, features, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def naive(made: Tensor, x: Tensor) -> Tensor:
    """1/2 sum_k (A_k - x_k)^2 with all B*K matrices."""
    shifted = made[None] - x[:, :, None, None] * torch.eye(made.shape[-1], dtype=made.dtype)
    return 0.5 * (shifted @ shifted).sum(dim=1)


@pytest.mark.parametrize("is_complex", [True, False])
def test_the_hamiltonian_is_the_sum_of_squares(is_complex: bool) -> None:
    made, x = operators(5, 4, is_complex), points(7, 5)
    identity = torch.eye(4, dtype=made.dtype)
    found = error_hamiltonian(made, x) + half_norm(x)[:, None, None] * identity
    assert torch.allclose(found, naive(made, x), rtol=0, atol=1e-12)
    assert torch.equal(hermitian(*parameters_of(made)), made)
    missing = torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) < 0.4
    for row in range(len(x)):  # terms that are not observed are as if the feature did not exist
        seen = ~missing[row]
        alone = error_hamiltonian(made[seen], x[row : row + 1, seen])
        holes = x[row : row + 1].masked_fill(missing[row], torch.nan)
        assert torch.allclose(error_hamiltonian(made, holes, seen[None]), alone, rtol=0, atol=1e-12)
        assert half_norm(holes, seen[None]).item() == pytest.approx(half_norm(x[row : row + 1, seen]).item(), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["complex", "real", "pauli", "linear"])
def test_gradients_are_those_of_finite_differences(family: str, kind: str) -> None:
    beta, average = KINDS[kind]
    torch.manual_seed(2)
    x = points(3, 2).requires_grad_()
    basis = PauliBasis(pauli_strings(2, 2))
    if family == "pauli":
        parameters = [torch.randn(count, len(basis), dtype=torch.float64) * 0.4 for count in (2, 3)]
    else:
        pairs = [random_parameters(count, 4, family != "real", 0.7) for count in (2, 3, 1)]
        parameters = [part.double() for pair in pairs[: 3 if family == "linear" else 2] for part in pair]
    parameters = [part.requires_grad_() for part in parameters]

    def outputs(x: Tensor, *given: Tensor) -> tuple[Tensor, Tensor]:
        if family == "pauli":
            inputs, read = basis.operators(given[0]), basis.operators(given[1])
        else:
            inputs, read = hermitian(*given[:2]), hermitian(*given[2:4])
        linear = family == "linear"
        hamiltonian = linear_hamiltonian(hermitian(*given[4:]), inputs, x) if linear else error_hamiltonian(inputs, x)
        states = states_of(hamiltonian, read, beta, average)
        return states.energy, states.expectations

    assert gradcheck(outputs, (x, *parameters))


@pytest.mark.parametrize("kind", KINDS)
def test_the_energy_alone_has_its_gradient(kind: str) -> None:
    beta, average = KINDS[kind]
    diags, trius = (part.double().requires_grad_() for part in random_parameters(2, 3, True, 0.7))
    none = torch.zeros(0, 3, 3, dtype=torch.complex128)
    x = points(4, 2)
    assert gradcheck(lambda d, t: states_of(error_hamiltonian(hermitian(d, t), x), none, beta, average).energy, (diags, trius))


def degenerate_cases() -> dict[str, tuple[Tensor, Tensor]]:
    eye = torch.eye(4, dtype=torch.complex128)
    excited = torch.diag(torch.tensor([0.0, 1.0, 1.0, 2.0], dtype=torch.complex128))
    return {
        "zero operators": (torch.zeros(3, 4, 4, dtype=torch.complex128), points(2, 3)),
        "two excited levels coincide": (torch.stack([excited, 0 * eye, eye]), torch.zeros(2, 3, dtype=torch.float64)),
        "the origin of three spins": (SIGMA, torch.zeros(2, 3, dtype=torch.float64)),
        "one feature twice": (operators(1, 4).repeat(3, 1, 1), points(2, 3)),
        "a constant": (torch.stack([eye, eye, 2 * eye]), points(2, 3)),
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", degenerate_cases())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_at_degeneracies(case: str, kind: str, dtype: torch.dtype) -> None:
    made, x = degenerate_cases()[case]
    made = made.clone().to(torch.complex64 if dtype == torch.float32 else made.dtype).requires_grad_()
    x = x.to(dtype).requires_grad_()
    read = operators(2, made.shape[-1], seed=4).to(made.dtype).requires_grad_()
    beta, average = KINDS[kind]
    states = states_of(error_hamiltonian(made, x), read, beta, average)
    gradients = torch.autograd.grad(states.energy.sum() + states.expectations.square().sum(), (made, x, read))
    assert all(bool(torch.isfinite(torch.view_as_real(g) if g.is_complex() else g).all()) for g in gradients)
    if kind == "ground" and case == "two excited levels coincide":  # where autograd through eigh is not
        levels, vectors = torch.linalg.eigh(error_hamiltonian(made, x))
        value = torch.einsum("bi,tij,bj->", vectors[..., 0].conj(), read, vectors[..., 0]).real
        plain = torch.autograd.grad(value + 0 * levels.sum(), made)[0]
        assert not bool(torch.isfinite(torch.view_as_real(plain)).all())
        assert not bool(states.degenerate().any())
    if case in ("zero operators", "the origin of three spins", "a constant"):
        assert bool(states.degenerate().all())


def test_an_excited_degeneracy_has_the_gradient_of_points_beside_it() -> None:
    """d<B>/dA in a case that finite differences decide."""
    diagonal = torch.tensor([0.0, 1.0, 1.0, 2.0], dtype=torch.float64)
    read, mixing = operators(1, 4, seed=5), operators(1, 4, seed=6)[0]

    def value(step: float) -> Tensor:
        return states_of((torch.diag(diagonal).to(mixing.dtype) + step * mixing)[None], read).expectations[0, 0]

    hamiltonian = torch.diag(diagonal).to(mixing.dtype)[None].requires_grad_()
    gradient = torch.autograd.grad(states_of(hamiltonian, read).expectations.sum(), hamiltonian)[0][0]
    slope = torch.einsum("ij,ij->", gradient.conj(), mixing).real
    assert slope.item() == pytest.approx(((value(1e-6) - value(-1e-6)) / 2e-6).item(), abs=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_results_do_not_depend_on_the_basis_or_the_origin(kind: str) -> None:
    beta, average = KINDS[kind]
    made, read, x = operators(3, 5), operators(2, 5, seed=8), points(6, 3)
    first = states_of(error_hamiltonian(made, x), read, beta, average)
    unitary = torch.linalg.qr(torch.randn(5, 5, dtype=torch.complex128, generator=torch.Generator().manual_seed(1)))[0]
    turned = states_of(error_hamiltonian(unitary @ made @ unitary.mH, x), unitary @ read @ unitary.mH, beta, average)
    shift = torch.tensor([0.3, -2.0, 5.0], dtype=torch.float64)
    moved = x + shift
    shifted = states_of(
        error_hamiltonian(made + shift[:, None, None] * torch.eye(5), moved) + half_norm(moved)[:, None, None] * torch.eye(5),
        read,
        beta,
        average,
    )
    for found, norm in ((turned, half_norm(x)), (shifted, 0.0)):
        assert torch.allclose(found.energy + norm, first.energy + half_norm(x), rtol=0, atol=1e-11)
        assert torch.allclose(found.expectations, first.expectations, rtol=0, atol=1e-11)


def test_bias_and_variance_add_up_to_the_energy() -> None:
    made, x = operators(4, 6), points(5, 4)
    states = states_of(error_hamiltonian(made, x), torch.cat([made, made @ made]))
    mean, second = states.expectations.split(4, dim=1)
    twice = (mean - x).square().sum(dim=1) + (second - mean.square()).sum(dim=1)
    assert torch.allclose(2 * (states.energy + half_norm(x)), twice, rtol=0, atol=1e-12)


# --- closed forms ---------------------------------------------------------------------------------------------------


def test_three_pauli_matrices_are_a_spin_that_points_along_x() -> None:
    x = points(8, 3)
    length = x.norm(dim=1)
    read = combined(torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64), SIGMA) + 0.7 * torch.eye(2, dtype=torch.float64)
    states = states_of(error_hamiltonian(SIGMA, x), torch.cat([SIGMA, read]))
    assert torch.allclose(states.energy + half_norm(x), 0.5 * (3 + length**2) - length, rtol=0, atol=1e-12)
    assert torch.allclose(states.expectations[:, :3], x / length[:, None], rtol=0, atol=1e-12)
    expected = 0.7 + (x / length[:, None]) @ torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    assert torch.allclose(states.expectations[:, 3], expected, rtol=0, atol=1e-12)
    assert torch.allclose(states.gap, 2 * length, rtol=0, atol=1e-12)


def test_a_warm_spin_follows_the_hyperbolic_tangent() -> None:
    x, beta = points(8, 3), 0.9
    length = x.norm(dim=1)
    states = states_of(error_hamiltonian(SIGMA, x), SIGMA, beta)
    assert torch.allclose(states.expectations, (torch.tanh(beta * length) / length)[:, None] * x, rtol=0, atol=1e-12)
    free = 1.5 - torch.log(2 * torch.cosh(beta * length)) / beta
    assert torch.allclose(states.energy, free, rtol=0, atol=1e-12)


def test_commuting_operators_choose_the_nearest_prototype() -> None:
    prototypes = points(5, 3, seed=9)  # (d, K)
    made = torch.diag_embed(prototypes.T).to(torch.complex128)
    values = torch.arange(5, dtype=torch.float64)
    x = points(40, 3, seed=10)
    states = states_of(error_hamiltonian(made, x), torch.diag(values).to(torch.complex128)[None])
    nearest = torch.cdist(x, prototypes).argmin(dim=1)
    assert torch.allclose(states.expectations[:, 0], nearest.double(), rtol=0, atol=1e-12)
    assert torch.allclose(states.energy + half_norm(x), 0.5 * torch.cdist(x, prototypes).amin(dim=1) ** 2, rtol=0, atol=1e-12)


def test_one_dimension_predicts_a_constant() -> None:
    states = states_of(error_hamiltonian(operators(3, 1), points(4, 3)), operators(2, 1, seed=2))
    assert torch.equal(states.expectations, operators(2, 1, seed=2)[:, 0, 0].real.expand(4, 2))
    assert states.gap.tolist() == [0.0] * 4 and not bool(states.degenerate().any())


def test_the_limits_of_temperature() -> None:
    made, read, x = operators(3, 4), operators(2, 4, seed=3), points(5, 3)
    hamiltonian = error_hamiltonian(made, x)
    ground = states_of(hamiltonian, read)
    cold, hot = states_of(hamiltonian, read, 1e4), states_of(hamiltonian, read, 1e-9)
    assert torch.allclose(cold.expectations, ground.expectations, rtol=0, atol=1e-12)
    assert torch.allclose(cold.energy, ground.energy, rtol=0, atol=1e-12)
    trace = torch.einsum("tii->t", read).real / 4
    assert torch.allclose(hot.expectations, trace.expand(5, 2), rtol=0, atol=1e-7)
    spins = torch.zeros(1, 3, dtype=torch.float64)  # a degenerate ground level: the average is the limit of cold states
    average = states_of(error_hamiltonian(SIGMA, spins), SIGMA, average=True)
    assert torch.allclose(average.expectations, torch.zeros(1, 3, dtype=torch.float64), rtol=0, atol=1e-12)
    assert average.weights[0].tolist() == [0.5, 0.5] and math.isclose(average.energy.item(), 1.5)


def test_a_second_derivative_is_refused() -> None:
    hamiltonian = error_hamiltonian(operators(2, 3), points(1, 2)).requires_grad_()
    value: Any = states_of(hamiltonian, operators(1, 3, seed=1)).expectations.sum()
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(value, hamiltonian, create_graph=True)
