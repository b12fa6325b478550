"""Matrix geometry: the surface that the ground states of H(x) lay through the data, its metric, curvature and dimension.

With |n> and E_n the levels of H at one point, |0> the ground state:

- point cloud y_k(x) = <0|A_k|0>, where the states put the point x;
- quantum metric g_mn = 2 Re sum_{n>0} <0|A_m|n><n|A_n|0> / (E_n - E_0), at the cloud point: it is the Jacobian dy_m/dx_n, and
  for good operators the projector on the tangents of the data;
- geometric tensor Q_mn = sum_{n>0} <0|A_m|n><n|A_n|0> / (E_n - E_0)^2, whose real part is the Fubini-Study metric of the
  states and -2 Im Q their Berry curvature;
- matrix Laplacian Delta X = sum_k [A_k, [A_k, X]].

Everything is in the scale of the operators, that is of the standardised features. (Candelori et al., Sci. Rep. 15, 6933 (2025);
Abanov et al., arXiv 2507.21135; Schneiderbauer and Steinacker, arXiv 1601.08007.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qsr.hparams import ConfigError
from qsr.hsm.overlaps import double_operators, ground_state_rows
from qsr.hsm.states import States

if TYPE_CHECKING:
    from qsr.hsm.model import HilbertSpaceModel, Operators

FLOOR = 0.05  # of the largest eigenvalue: below it eigenvalues of the metric are noise, and their ratios mean nothing
TANGENT = 0.5  # eigenvalues of a projector are 0 and 1
MEMORY_BYTES = 2**28
DENSE_LAPLACIAN = 40  # largest d for a matrix of d^2 x d^2: 40 MiB, seconds


@dataclass(frozen=True)
class Geometry:
    """Matrix geometry at S points of K features, all on the CPU, in float64 and in the scale of the standardised features.

    Attributes:
        points: (S, K) x, standardised as the model does; NaN where a feature is missing.
        cloud: (S, K) y(x).
        spectrum: (S, K) eigenvalues of the quantum metric at the cloud point, descending.
        curvature: (S,) size of the Berry curvature there, (sum_{m<n} F_mn^2)^(1/2).
        gap: (S,) E_1 - E_0 there.
        bias: (S,) |y - x|^2 / K, over the features that are there.
        fluctuation: (S,) sum_k Var A_k / K in the state of x.
        degenerate: (S,) bool: the ground level of x or of its cloud point is. Levels of it are left out of all sums.
        levels: d.
    """

    points: Tensor
    cloud: Tensor
    spectrum: Tensor
    curvature: Tensor
    gap: Tensor
    bias: Tensor
    fluctuation: Tensor
    degenerate: Tensor
    levels: int

    @property
    def mean_spectrum(self) -> Tensor:
        """(K,) eigenvalues of the metric averaged over the points."""
        return self.spectrum.mean(dim=0)

    @property
    def dimension(self) -> int:
        """Intrinsic dimension of the data: that of the averaged spectrum."""
        return int(intrinsic_dimension(self.mean_spectrum, self.levels))

    @property
    def dimensions(self) -> Tensor:
        """(S,) int64 intrinsic dimension at every point."""
        return intrinsic_dimension(self.spectrum, self.levels)

    @property
    def votes(self) -> Tensor:
        """(K + 1,) share of the points with dimension 0, 1, ... K."""
        return torch.bincount(self.dimensions, minlength=self.spectrum.shape[1] + 1).double() / len(self.spectrum)

    @property
    def tangents(self) -> float:
        """Mean number of eigenvalues above 1/2: a count of the dimension that looks for no gap, and may be K."""
        return float((self.spectrum > TANGENT).sum(dim=1).double().mean())


# ---- at some points --------------------------------------------------------------------------------------------------


def matrix_elements(operators: Tensor, states: States) -> Tensor:
    """(B, K, d) <n|A_k|0>, zero for the levels that are degenerate with the ground level.

    Args:
        operators: (K, d, d) Hermitian.
        states: of B points.
    """
    applied = torch.einsum("kij,bj->bki", operators, states.ground)
    found = torch.einsum("bin,bki->bkn", states.vectors.conj(), applied)
    return found * states.excited[:, None]


def quantum_metric(operators: Tensor, states: States) -> Tensor:
    """(B, K, K) g_mn, symmetric and not negative; its rank is at most 2(d - 1). Arguments as `matrix_elements`."""
    elements = matrix_elements(operators, states) / _gaps(states).sqrt()[:, None]
    return 2 * torch.einsum("bmi,bni->bmn", elements.conj(), elements).real


def geometric_tensor(operators: Tensor, states: States) -> Tensor:
    """(B, K, K) Q_mn: the Fubini-Study metric and, times -1/2, in the imaginary part the Berry curvature.

    1 - |<psi(x)|psi(x + dx)>|^2 = sum_mn Re Q_mn dx_m dx_n. Arguments as `matrix_elements`.
    """
    elements = matrix_elements(operators, states) / _gaps(states)[:, None]
    return torch.einsum("bmi,bni->bmn", elements.conj(), elements)


def berry_curvature(operators: Tensor, states: States) -> Tensor:
    """(B, K, K) F_mn = -2 Im Q_mn, antisymmetric; zero for real operators. Arguments as `matrix_elements`."""
    tensor = geometric_tensor(operators, states)
    return -2 * tensor.imag if tensor.is_complex() else torch.zeros_like(tensor)


def metric_spectrum(elements: Tensor, states: States) -> Tensor:
    """(B, K) eigenvalues of the quantum metric, descending.

    They are those of the smaller of the metric (K x K) and the products of its 2d factors: with many features and few levels no
    matrix of K^2 elements is made.

    Args:
        elements: (B, K, d) of `matrix_elements`.
        states: that they belong to.
    """
    factors = _real_factors(2**0.5 * elements / _gaps(states).sqrt()[:, None])  # (B, K, 2d) R with g = R R^T
    features, width = factors.shape[1:]
    gram = factors @ factors.mT if features <= width else factors.mT @ factors
    found = torch.linalg.eigvalsh(gram).flip(-1).clamp_min(0.0)
    missing = features - found.shape[1]
    return torch.nn.functional.pad(found, (0, missing)) if missing > 0 else found


def curvature_size(elements: Tensor, states: States) -> Tensor:
    """(B,) (sum_{m<n} F_mn^2)^(1/2) of the Berry curvature, without its K^2 elements. Arguments as `metric_spectrum`."""
    scaled = elements / _gaps(states)[:, None]
    if not scaled.is_complex():
        return torch.zeros_like(states.energy)
    real, imaginary = scaled.real, scaled.imag  # (B, K, d) P and S: F = 2 (S P^T - P S^T)
    squares = ((real.mT @ real) * (imaginary.mT @ imaginary)).sum(dim=(1, 2))
    mixed = real.mT @ imaginary
    return 2 * (squares - (mixed * mixed.mT).sum(dim=(1, 2))).clamp_min(0.0).sqrt()


def intrinsic_dimension(spectrum: Tensor, levels: int, floor: float = FLOOR) -> Tensor:
    """(...) int64: after how many eigenvalues of the metric the largest drop comes, as a ratio of neighbours.

    Of K eigenvalues at most 2(d - 1) are not zero, and the drop to the others says nothing: only those before it are looked at.
    The answer is thus less than K and than 2(d - 1) where these are more than 1; d must leave room for it.

    Args:
        spectrum: (..., K) eigenvalues, descending.
        levels: d.
        floor: of the largest one; what is smaller counts as this.
    """
    candidates = min(spectrum.shape[-1], 2 * levels - 2) - 1
    if candidates < 1:
        return torch.full(spectrum.shape[:-1], min(candidates + 1, 1), dtype=torch.int64, device=spectrum.device)
    largest = spectrum[..., :1].clamp_min(torch.finfo(spectrum.dtype).tiny)
    ratios = spectrum[..., :candidates] / torch.maximum(spectrum[..., 1 : candidates + 1], floor * largest)
    return ratios.argmax(dim=-1) + 1


# ---- of the operators ------------------------------------------------------------------------------------------------


def laplacian_spectrum(operators: Tensor) -> Tensor:
    """(d^2,) eigenvalues of the matrix Laplacian Delta X = sum_k [A_k, [A_k, X]], ascending; the first is 0, of X = 1.

    For operators of a manifold the low ones follow those of its Laplace operator.

    Args:
        operators: (K, d, d) Hermitian.

    Raises:
        ConfigError: for a d whose d^2 x d^2 matrix is too large.
    """
    dimension = operators.shape[-1]
    if dimension > DENSE_LAPLACIAN:
        raise ConfigError(f"hilbert_space_dims={dimension}: the matrix Laplacian is diagonalised up to {DENSE_LAPLACIAN}")
    squares = torch.einsum("kij,kjl->il", operators, operators)
    identity = torch.eye(dimension, dtype=operators.dtype, device=operators.device)
    # Rows of X one after the other: A X is A x 1, and X A is 1 x A^T.
    sandwich = torch.einsum("kij,klm->iljm", operators, operators.mT).reshape(dimension**2, dimension**2)
    laplacian = torch.kron(squares, identity) + torch.kron(identity, squares.mT.contiguous()) - 2 * sandwich
    return torch.linalg.eigvalsh(laplacian).clamp_min(0.0)


# ---- of a model ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def matrix_geometry(model: HilbertSpaceModel, x: Tensor, memory_bytes: int = MEMORY_BYTES) -> Geometry:
    """The matrix geometry of a model at points x (S, K), in float64 whatever the model computes in.

    Args:
        x: features in their own units.
        memory_bytes: for the points that are computed at once.

    Raises:
        ConfigError: for a model of thermal states, and for x of another width.
    """
    x = ground_state_rows(model, x)
    made = double_operators(model)
    size = max(1, memory_bytes // _bytes_of_point(*made.inputs.shape[:2]))
    parts = [_of_chunk(model, chunk, made) for chunk in x.split(size)]
    columns = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
    return Geometry(**columns, levels=made.inputs.shape[-1])


def _of_chunk(model: HilbertSpaceModel, x: Tensor, made: Operators) -> dict[str, Tensor]:
    """The columns of `Geometry` for some points."""
    operators = made.inputs
    points = model.scaled_inputs(x, torch.float64)
    states = model.states(points, made)
    cloud, variance = _moments(operators, states)
    there = torch.isfinite(points)
    bias = (cloud - points).where(there, 0.0).square().sum(dim=1) / there.sum(dim=1).clamp_min(1)
    at_cloud = model.states(cloud, made)
    elements = matrix_elements(operators, at_cloud)
    return {
        "points": points,
        "cloud": cloud,
        "spectrum": metric_spectrum(elements, at_cloud),
        "curvature": curvature_size(elements, at_cloud),
        "gap": at_cloud.gap,
        "bias": bias,
        "fluctuation": variance.mean(dim=1),
        "degenerate": states.degenerate() | at_cloud.degenerate(),
    }


def _moments(operators: Tensor, states: States) -> tuple[Tensor, Tensor]:
    """(B, K) <A_k> and Var A_k in the ground states."""
    psi = states.ground
    applied = torch.einsum("kij,bj->bki", operators, psi)
    mean = torch.einsum("bi,bki->bk", psi.conj(), applied).real
    # |(A - <A>) psi|^2: the difference of <A^2> and <A>^2 would lose digits where features are far from 0
    return mean, (applied - mean[..., None] * psi[:, None]).abs().square().sum(dim=-1)


def _gaps(states: States) -> Tensor:
    """(B, d) E_n - E_0, and 1 for the levels of the ground level, whose matrix elements are left out."""
    return torch.where(states.excited, states.levels - states.levels[:, :1], 1.0)


def _real_factors(elements: Tensor) -> Tensor:
    return torch.cat([elements.real, elements.imag], dim=-1) if elements.is_complex() else elements


def _bytes_of_point(features: int, dimension: int) -> int:
    """Of complex128 arrays: H, its eigenvectors and their copies, the matrix elements with theirs, and the Gram matrices."""
    return 16 * (6 * dimension**2 + 5 * features * dimension + 3 * min(features, 2 * dimension) ** 2)
