"""Natural gradients by the kernel of the samples: MinSR and, with momentum, SPRING.

A step theta -> theta - rate*phi of imaginary time on the manifold of psi (stochastic reconfiguration) solves
(S + shift) phi = F with as many unknowns as parameters. With U samples and O_u = grad log psi(n_u), let row u of Obar be
sqrt(w_u) (O_u - sum_v w_v O_v), and eps_u = sqrt(w_u) (E_u - <E>): then S = Obar^T Obar, F = Obar^T eps, and
phi = Obar^T x with (T + shift) x = eps, T = Obar Obar^T: as many unknowns as samples
(MinSR: Chen & Heyl, arXiv 2302.01941; Rende et al., arXiv 2310.05715). SPRING (Goldshlager, Abrahamsen & Lin,
arXiv 2401.10190) takes the phi that minimises |Obar phi - eps|^2 + shift |phi - mu phi_prev|^2.

For psi = sqrt(p) exp(i phase) with real parameters, the rows are those of the real and imaginary parts of O stacked, and
eps its real and imaginary parts: the sums over rows are then Re S and Re F.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qsr.hparams import ConfigError, RunSettings
from qsr.training.distribution import ALONE, Processes
from qsr.training.optimizers import NaturalGradientArguments
from qsr.training.per_sample import PerSampleGradients
from qsr.training.protocols import BatchKey, Metrics, Objective, ResidualObjective
from qsr.training.rate import ScheduledStep
from qsr.training.schedule import Stage

RELATIVE_CUT = 1e-12  # eigenvalues of the kernel below this share of the largest one are rounding errors
COLUMNS = 1024  # of the Jacobian in float64 at once: they stay in the cache


def check_natural_gradient(settings: RunSettings) -> None:
    """Refuse what natural gradients cannot do, before any work; nothing for the optimizers of torch.

    Raises:
        ConfigError: for learning from samples (a transfer, snapshots), and for `true_grad` and `sgrad`.
    """
    if settings.optimizer.natural_gradient() is None:
        return
    name = f"optimizer.name={settings.optimizer.name}"
    if settings.objective.name != "energy":
        raise ConfigError(f"{name}: needs the local energies of a Hamiltonian, and learning from samples computes none; use Adam")
    if settings.train.true_grad:
        raise ConfigError(f"train.true_grad=True: {name} does not differentiate local energies; use an optimizer of torch")
    if settings.train.sgrad:
        raise ConfigError(f"train.sgrad=True: {name} makes its own graphs, and none of them while sampling")


class NaturalGradient(ScheduledStep):
    """MinSR and SPRING, with a step of bounded length: sqrt(phi^T S phi) * rate, the Fisher norm, is at most `cap`.

    Metrics of a step: `gradient_norm` of the energy's gradient 2 Obar^T eps, `lr`, `shift`, and `fisher_norm`, the length
    of the step before the cap.

    Args:
        model: its parameters are optimised, in training mode.
        settings: `optimizer`, `scheduler`, and rate, steps and memory in `train`; `gradient_clipping` is not read.
        stage: the steps over which rate and shift change; default: the run's first.
        processes: that share the samples of a step, the columns of the Jacobian and its products; the first one solves.

    Raises:
        ConfigError: see `check_natural_gradient`.
    """

    def __init__(self, model: nn.Module, settings: RunSettings, stage: Stage | None = None, processes: Processes = ALONE) -> None:
        check_natural_gradient(settings)
        arguments = settings.optimizer.natural_gradient()
        if arguments is None:
            raise ConfigError(f"optimizer.name={settings.optimizer.name}: is no natural gradient")
        # Plain gradient descent along phi: every scheduler of torch works on its rate.
        self.stage = stage or settings.train.stages()[0]
        super().__init__(torch.optim.SGD(model.parameters(), lr=settings.train.lr), settings, self.stage)
        self.name = settings.optimizer.name
        self.arguments: NaturalGradientArguments = arguments
        self.processes = processes
        self.gradients = PerSampleGradients(model, settings.train.memory_MiB * 2**20)
        self.direction: Tensor | None = None  # (P,) phi of the last step, for the momentum

    def update(self, model: nn.Module, objective: Objective, keys: Sequence[BatchKey]) -> Metrics:
        if not isinstance(objective, ResidualObjective):
            raise ConfigError(f"optimizer.name={self.name}: needs local energies, and {type(objective).__name__} has none")
        model.train()
        self.gradients.memory_bytes = objective.memory_bytes
        batches, metrics = objective.prepare(model, keys)
        parts = [objective.residuals(batch) for batch in batches]
        configs, own_weights, own_residuals = (torch.cat(column) for column in zip(*parts, strict=True))
        conditions = [found for batch in batches if (found := objective.conditions(batch)) is not None]
        context, own_groups = (torch.cat(column) for column in zip(*conditions, strict=True)) if conditions else (None, None)
        shift = self.shift(keys[0].step)

        counts = self.processes.counts(len(configs))
        weights, residuals = self.processes.gather(own_weights), self.processes.gather(own_residuals)
        groups = None if own_groups is None else self.processes.gather(own_groups)
        functions = len(self.gradients.functions)
        centring = Centring(weights, functions, groups)
        kernel, kept, jacobian = self._kernel(configs, keys[0], counts, context)
        solution, length, gradient_norm = self._solved(kernel, kept, centring, centring.targets(residuals), shift)
        first = sum(counts[: self.processes.rank])
        coefficients = centring.transposed(solution).view(functions, -1)[:, first : first + len(configs)].flatten()
        if jacobian is not None:
            direction = jacobian.T @ coefficients.to(jacobian.dtype)
        else:
            direction = self.gradients.weighted_sum(configs, coefficients, keys[0], context)
        direction = self.processes.sum(direction)
        if self.direction is not None:
            direction = direction + self.arguments.momentum * self.direction
        if self.arguments.momentum:
            self.direction = direction

        length = self.rate * length
        cap = self.arguments.cap
        self._set_gradients(direction if cap is None or not length > cap else direction * (cap / length))
        lengths = {"gradient_norm": gradient_norm, "lr": self.step(), "shift": shift, "fisher_norm": length}
        return {**metrics, **lengths}

    def shift(self, step: int) -> float:
        """What the kernel's diagonal is shifted by in a step of the run: over the final stage it goes to `final_shift`."""
        return self.stage.geometric(self.arguments.shift, self.arguments.final_shift, step)

    def _kernel(
        self, configs: Tensor, key: BatchKey, counts: Sequence[int], context: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """J J^T (F*U, F*U) and J phi_prev (F*U,) in float64, of the samples of all processes, and this one's rows of J.

        What is returned first is complete in the first process only, and of the products just the lower triangle; J is None
        unless it is made in one piece.

        Args:
            configs: (U_r, N) of this process.
            counts: U_r of each process.
        """
        functions = len(self.gradients.functions)
        rows = functions * sum(counts)
        kernel = torch.zeros(rows, rows, dtype=torch.float64, device=configs.device)
        kept = kernel.new_zeros(rows)
        whole = None
        # All processes make the same blocks. Beside each there is what is sent of it, and what arrives.
        held = max(counts) * (1 if self.processes.size == 1 else 3)
        for columns, block in self.gradients.blocks(configs, key, context, held):
            if block.shape[1] == self.gradients.num_parameters:
                whole = block
            share = self.processes.columns(block.shape[1])[self.processes.rank]
            part = self.processes.exchange(block.view(functions, len(configs), -1), counts).flatten(0, 1)
            del block  # before the next one is made
            add_gram(kernel, part)
            if self.direction is not None:
                kept += (part @ self.direction[columns][share]).double()
            del part
        self.processes.sum_in_first(kernel)
        self.processes.sum_in_first(kept)
        return kernel, kept, whole

    def _solved(
        self, kernel: Tensor, kept: Tensor, centring: Centring, target: Tensor, shift: float
    ) -> tuple[Tensor, float, float]:
        """x (F*U,), |Obar phi| and the norm of the energy's gradient, as the first process finds them."""
        found = target.new_empty(len(target) + 2)
        if self.processes.first:
            kernel = kernel.tril() + kernel.tril(-1).T
            # Centred at the end: two products with a projector, in place of a mean over blocks that are gone.
            kernel, kept = centring.apply(centring.apply(kernel).T), self.arguments.momentum * centring.apply(kept)
            solution = solve_shifted(kernel, target - kept, shift)
            length = (kernel @ solution + kept).norm()  # without another look at Obar
            gradient_norm = 2 * (target @ kernel @ target).clamp(min=0).sqrt()
            found = torch.cat([solution, torch.stack([length, gradient_norm])])
        self.processes.from_first(found)
        return found[:-2], found[-2].item(), found[-1].item()

    def _set_gradients(self, direction: Tensor) -> None:
        parameters = self.gradients.parameters
        for parameter, part in zip(parameters, direction.split(self.gradients.sizes), strict=True):
            parameter.grad = part.view_as(parameter)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "direction": self.direction}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        direction = state["direction"]
        self.direction = None if direction is None else direction.to(self.gradients.parameters[0].device)


@dataclass(frozen=True)
class Centring:
    """The matrix C in Obar = C J: log psi = log p / 2 + i phase, minus the weighted mean, times sqrt(weight).

    With groups, of samples of different states, each has its own mean: Obar^T Obar is then the sum of the states' matrices S,
    with the shares of the groups in the weights, as for the mean energy of the states (arXiv 2502.09488).

    Attributes:
        weights: (U,) w_u, adding up to one.
        functions: F, 1 for log p alone and 2 for log p and the phase; rows are F*U.
        groups: (U,) number of each sample's group; None: all are one.
    """

    weights: Tensor
    functions: int
    groups: Tensor | None = None

    def _factors(self) -> Tensor:
        return torch.tensor([0.5, 1.0], dtype=self.weights.dtype, device=self.weights.device)[: self.functions, None, None]

    def apply(self, rows: Tensor) -> Tensor:
        """C times (F*U, ...)."""
        blocks = rows.reshape(self.functions, len(self.weights), -1) * self._factors()
        if self.groups is None:
            mean = (self.weights[:, None] * blocks).sum(dim=1, keepdim=True)
        else:
            mean = (self._shares() @ blocks)[:, self.groups]
        return (self.weights.sqrt()[:, None] * (blocks - mean)).reshape(rows.shape)

    def transposed(self, vector: Tensor) -> Tensor:
        """C^T times (F*U,): sums of rows of Obar as sums of rows of J."""
        scaled = self.weights.sqrt()[:, None] * vector.view(self.functions, -1, 1)
        if self.groups is None:
            centred = scaled - self.weights[:, None] * scaled.sum(dim=1, keepdim=True)
        else:
            shares = self._shares()
            centred = scaled - shares.T @ ((shares != 0).to(scaled.dtype) @ scaled)
        return (self._factors() * centred).flatten()

    def _shares(self) -> Tensor:
        """(G, U) weight of each sample in the mean of its group."""
        assert self.groups is not None
        member = nn.functional.one_hot(self.groups).T * self.weights
        return member / member.sum(dim=1, keepdim=True)

    def targets(self, residuals: Tensor) -> Tensor:
        """eps (F*U,): real parts, then imaginary parts, of the residuals (U,), each times sqrt(weight)."""
        scaled = self.weights.sqrt() * residuals
        return scaled.real if self.functions == 1 else torch.cat([scaled.real, _imaginary(scaled)])


def _imaginary(values: Tensor) -> Tensor:
    return values.imag if values.is_complex() else torch.zeros_like(values)


def add_gram(kernel: Tensor, jacobian: Tensor) -> None:
    """Add J J^T of (R, columns) to the lower triangle of a float64 kernel (R, R); some of the upper one is touched, too."""
    rows = len(kernel)
    height = max(64, -(-rows // 8))
    for part in jacobian.split(COLUMNS, dim=1):
        columns = part.double()
        for first in range(0, rows, height):
            last = first + height
            kernel[first:last, :last].addmm_(columns[first:last], columns[:last].T)


def solve_shifted(matrix: Tensor, right: Tensor, shift: float) -> Tensor:
    """x (R,) with (matrix + shift) x = right, for a symmetric positive semidefinite matrix (R, R) in float64.

    By Cholesky, unless the shift is below the matrix' rounding errors: then eigenvectors with eigenvalues below
    RELATIVE_CUT of the largest one are left out. What is not finite goes in and comes out as NaN.
    """
    if not (matrix.isfinite().all() and right.isfinite().all()):
        return torch.full_like(right, torch.nan)
    rounding = len(matrix) * torch.finfo(matrix.dtype).eps * matrix.diagonal().sum().item()  # the trace bounds the largest
    if shift > rounding:
        identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
        factor, failed = torch.linalg.cholesky_ex(matrix + shift * identity)
        if not failed:
            found = torch.cholesky_solve(right[:, None], factor)[:, 0]
            if found.isfinite().all():
                return found
    values, vectors = torch.linalg.eigh(matrix)
    kept = values > RELATIVE_CUT * values[-1].clamp(min=0)
    inverse = torch.where(kept, 1 / (values + shift), 0.0)
    return vectors @ (inverse * (vectors.T @ right))
