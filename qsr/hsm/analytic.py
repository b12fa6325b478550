"""The closed-form update of full-energy models: for given states the best operators are the solution of linear equations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from qsr.hamiltonians.base import configurations
from qsr.hamiltonians.pauli import PauliBasis
from qsr.hparams import ConfigError, RunSettings
from qsr.hsm.states import States
from qsr.training.protocols import BatchKey, Metrics
from qsr.training.schedule import Stage

if TYPE_CHECKING:
    from qsr.hsm.model import HilbertSpaceModel

UNKNOWN = 1e-9  # of the largest occupation: elements between emptier levels are not determined and stay what they are
RIDGE = 1e-6  # of the mean diagonal, for coefficients of strings that the states do not tell apart


class ClosedForm:
    """Alternates between states and operators; the mean energy of the training data never rises.

    An epoch gathers S = sum_b rho_b and R_k = sum_b z_bk rho_b over the ground states rho_b of the points z = (x, y). At its
    end the operators minimise sum_b Tr rho_b (A_k - z_bk)^2, that is S A_k + A_k S = 2 R_k (for Pauli strings: among their
    sums). There is no learning rate.
    """

    rate = 0.0

    def __init__(self, model: HilbertSpaceModel, settings: RunSettings, stage: Stage) -> None:
        if settings.model.missing != "error":
            raise ConfigError(f"hsm.missing={settings.model.missing}: not with method=analytic, which needs every feature")
        for name, given in (
            ("scheduler", settings.scheduler.name != "none"),
            ("gradient_clipping", settings.gradient_clipping.max_norm is not None),
        ):
            if given:
                raise ConfigError(f"{name}: has no effect with hsm.method=analytic, which follows no gradient")
        self.model = model
        self._empty()

    def update(self, model: nn.Module, objective: Any, keys: Sequence[BatchKey]) -> Metrics:
        model.train()
        batches, metrics = objective.prepare(model, keys)
        self.model.watch_states = self._gather
        try:
            found = [objective.loss(model, batch)[1] for batch in batches]
        finally:
            self.model.watch_states = None
        if (keys[-1].step + 1) % objective.steps_per_epoch == 0:  # before the epoch is evaluated
            self._solve()
        return {**metrics, **objective.summarise(found), "gradient_norm": 0.0, "lr": self.rate}

    def _gather(self, points: Tensor, states: States) -> None:
        psi = states.ground.to(torch.promote_types(states.ground.dtype, torch.float64))
        self.occupation += torch.einsum("bi,bj->ij", psi, psi.conj())
        self.moments += torch.einsum("bk,bi,bj->kij", points.to(psi.dtype), psi, psi.conj())

    def end_epoch(self, metrics: Metrics) -> None:
        """The last step of the epoch has changed the operators."""

    @torch.no_grad()
    def _solve(self) -> None:
        model = self.model
        for side, moments in zip(("input", "output"), self.moments.split([model.num_features, model.num_outputs]), strict=True):
            basis = model.bases.get(side)
            if basis is not None:
                coefficients = getattr(model, f"{side}_pauli_coeffs")
                coefficients.copy_(best_coefficients(basis, self.occupation, moments))
            else:
                before = model.operators_of(side).to(moments.dtype)
                model.set_operators(side, best_operators(before, self.occupation, moments))
        self._empty()

    def slow_down(self) -> None:
        """There is no rate to halve."""

    def _empty(self) -> None:
        settings, device = self.model.thparams, self.model.x_mean.device
        dtype = torch.complex128 if settings.complex or settings.pauli else torch.float64
        dimension, count = settings.dimension, self.model.num_features + self.model.num_outputs
        self.occupation = torch.zeros(dimension, dimension, dtype=dtype, device=device)
        self.moments = torch.zeros(count, dimension, dimension, dtype=dtype, device=device)

    def state_dict(self) -> dict[str, Any]:
        return {"occupation": self.occupation, "moments": self.moments}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.occupation = state["occupation"].to(self.occupation)
        self.moments = state["moments"].to(self.moments)


def best_operators(before: Tensor, occupation: Tensor, moments: Tensor) -> Tensor:
    """(K, d, d) Hermitian solutions of S A_k + A_k S = 2 R_k, elements that S does not determine as they were.

    Args:
        before: (K, d, d) operators until now.
        occupation: (d, d) S.
        moments: (K, d, d) R_k.
    """
    levels, basis = torch.linalg.eigh(occupation)
    sums = levels[:, None] + levels[None]
    known = sums > UNKNOWN * levels[-1]
    right = basis.mH @ moments @ basis
    solved = torch.where(known, 2 * right / torch.where(known, sums, 1.0), basis.mH @ before @ basis)
    found = basis @ solved @ basis.mH
    return 0.5 * (found + found.mH)


def best_coefficients(basis: PauliBasis, occupation: Tensor, moments: Tensor) -> Tensor:
    """(K, P) coefficients of the strings: G a_k = m_k with G_PQ = Re Tr(S P Q) and m_kP = Re Tr(R_k P).

    Args:
        basis: the P strings.
        occupation, moments: (d, d) S and (K, d, d) R_k.
    """
    dimension, device = len(occupation), occupation.device
    index = torch.arange(dimension, device=device)
    elements = basis.elements(configurations(dimension.bit_length() - 1).to(device))  # (d, P) <n|P|n ^ flip>
    masks, which = basis.flips.to(device), basis.flip_index.to(device)
    # Tr(R P) = sum_n <n|P|n ^ f> R[n ^ f, n]
    columns = moments[:, index[:, None] ^ masks, index[:, None]]  # (K, d, F)
    right = (columns[:, :, which] * elements).sum(dim=1).real  # (K, P)
    rows = []
    for string in range(len(basis)):
        # Tr(S P Q) = sum_m e_P[m ^ f_P] e_Q[m] S[m ^ f_Q, m ^ f_P], with m the configuration between P and Q
        start = index ^ masks[which[string]]
        weighted = elements[start, string][:, None] * occupation[index[:, None] ^ masks, start[:, None]]
        rows.append((weighted[:, which] * elements).sum(dim=0).real)
    gram = torch.stack(rows)
    gram = 0.5 * (gram + gram.T)
    ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=device)
    return torch.linalg.solve(gram + ridge, right.T).T
