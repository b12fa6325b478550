"""The linear algebra of natural gradients: the kernel, its centring, and the solution of its equations."""

import math

import pytest
import torch
from torch import Tensor

from qsr.training.spring import Centring, add_gram, solve_shifted


def positive(rows: int, rank: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    factor = torch.randn(rows, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return scale * factor @ factor.T


def vector(rows: int) -> Tensor:
    return torch.linspace(-1, 2, rows, dtype=torch.float64)


@pytest.mark.parametrize("shift", [1.0, 1e-2, 1e-6])
@pytest.mark.parametrize("rank", [0, 1, 5, 20, 40])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
def test_the_solution_solves(rank: int, shift: float, scale: float) -> None:
    """Full rank, singular, rank one, and zero."""
    matrix, right = positive(20, rank, scale=scale), vector(20)
    found = solve_shifted(matrix, right, shift)
    assert (matrix @ found + shift * found - right).norm() < 1e-14 * matrix.norm() * found.norm() + 1e-10
    if shift > 1e-9 * scale:
        expected = torch.linalg.solve(matrix + shift * torch.eye(20, dtype=torch.float64), right)
        assert torch.allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("shift", [0.0, 1e-30])
@pytest.mark.parametrize("rank", [1, 5, 19])
def test_a_shift_below_rounding_errors_gives_the_pseudo_inverse(rank: int, shift: float) -> None:
    matrix = positive(20, rank)
    right = matrix @ vector(20)
    found = solve_shifted(matrix, right, shift)
    assert (found - torch.linalg.pinv(matrix, hermitian=True, rtol=1e-10) @ right).norm() < 1e-8
    outside = torch.linalg.eigh(matrix)[1][:, 0]  # nothing maps there
    assert solve_shifted(matrix, outside, shift).norm() < 1e-6


def test_a_shift_that_cholesky_alone_would_trust() -> None:
    """It succeeds here, and divides a rounding error by a rounding error."""
    matrix = torch.tensor([1.0, 1e-17], dtype=torch.float64).diag()
    found = solve_shifted(matrix, torch.ones(2, dtype=torch.float64), 1e-18)
    assert torch.allclose(found, torch.tensor([1.0, 0.0], dtype=torch.float64))


def test_a_zero_kernel() -> None:
    assert torch.allclose(solve_shifted(torch.zeros(4, 4, dtype=torch.float64), vector(4), 0.5), vector(4) / 0.5)
    assert torch.equal(solve_shifted(torch.zeros(4, 4, dtype=torch.float64), vector(4), 0.0), torch.zeros(4).double())


def test_a_huge_range() -> None:
    diagonal = torch.tensor([1e12, 1e3, 1.0, 1e-3, 0.0], dtype=torch.float64)
    turn = torch.linalg.qr(positive(5, 5))[0]
    right = vector(5)
    found = turn.T @ solve_shifted(turn @ diagonal.diag() @ turn.T, turn @ right, 1e-1)
    # Rounding errors of a matrix with an entry of 1e12 are 1e-4.
    assert torch.allclose(found, right / (diagonal + 1e-1), rtol=1e-1, atol=1e-9)
    diagonal[0] = 1e300
    assert solve_shifted(diagonal.diag(), right, 1e-3).isfinite().all()


def test_a_negative_eigenvalue_of_rounding_is_left_out() -> None:
    """Cholesky fails on it."""
    diagonal = torch.tensor([1.0, 0.5, -1e-13], dtype=torch.float64)
    found = solve_shifted(diagonal.diag(), torch.ones(3, dtype=torch.float64), 5e-14)
    assert torch.allclose(found, torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_comes_out_as_nan(bad: float) -> None:
    matrix, right = positive(4, 4), vector(4)
    matrix[1, 1] = bad
    assert solve_shifted(matrix, right, 1e-2).isnan().all()
    right[0] = bad
    assert solve_shifted(positive(4, 4), right, 1e-2).isnan().all()


@pytest.mark.parametrize("shape", [(5, 3), (64, 10), (65, 1030), (200, 2100), (700, 5)])
def test_the_kernel_is_the_product(shape: tuple[int, int]) -> None:
    jacobian = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    kernel = torch.zeros(shape[0], shape[0], dtype=torch.float64)
    for block in jacobian.split(700, dim=1):
        add_gram(kernel, block)
    expected = jacobian.double() @ jacobian.double().T
    assert torch.allclose(kernel.tril(), expected.tril(), atol=1e-10)


def test_centring_and_its_transpose() -> None:
    weights = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    centring = Centring(weights, 2)
    matrix = centring.apply(torch.eye(6, dtype=torch.float64))
    block = weights.sqrt().diag() @ (torch.eye(3) - weights)
    assert torch.allclose(matrix, torch.block_diag(0.5 * block, block))
    assert torch.allclose(centring.transposed(vector(6)), matrix.T @ vector(6))
