"""Pauli models with more qubits than a matrix has room for: the ground states are those of a sampler with a phase.

One network is conditioned on the data point. It is trained by variational Monte Carlo, with the operators of a full-energy model
or, for operators that are given, alone. Matrices, where they fit, are always faster and exact.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qsr.estimators.local_energy import amplitude_ratios, weighted_loss
from qsr.hamiltonians.pauli import PauliBasis
from qsr.hamiltonians.pauli_squares import PauliSquares, joined
from qsr.hparams import ConfigError
from qsr.hsm.model import HilbertSpaceModel, Measured, Operators
from qsr.hsm.operators import half_norm
from qsr.hsm.scores import loss_of, prediction_metrics
from qsr.hsm.settings import HSM
from qsr.hsm.states import States
from qsr.lattice import Lattice

logger = logging.getLogger(__name__)

MEASURED_SAMPLES = 1024  # of each point, for predictions
ENCODER_WIDTH = 64  # of its two hidden layers: with one layer of 64 energies of 4 qubits stay ten times further off


@dataclass(frozen=True)
class Drawn:
    """Distinct configurations of B points.

    Attributes:
        configs: (U, N) uint8.
        point: (U,) which point each belongs to.
        shares: (U,) float64, of the samples of its point.
        context: (U, H) differentiable, of its point.
        num_points: B.
    """

    configs: Tensor
    point: Tensor
    shares: Tensor
    context: Tensor
    num_points: int

    def mean(self, values: Tensor) -> Tensor:
        """(B, ...) means over the samples of each point, of values (U, ...)."""
        weighted = values * self.shares.view(-1, *[1] * (values.dim() - 1))
        return weighted.new_zeros(self.num_points, *values.shape[1:]).index_add(0, self.point, weighted)


class SampledHilbertSpaceModel(HilbertSpaceModel):
    """A Pauli model whose state psi(n; z) = sqrt(p(n; z)) exp(i phi(n; z)) is a sampler conditioned on the point z.

    The energy <psi| H(z) |psi> is the mean of local values H_loc(n) = sum_P h_P(z) <n|P|n'> psi(n')/psi(n) over samples of p;
    H has strings of twice the weight of the operators. Its gradient with respect to the network is the covariance of H_loc with
    log psi, that with respect to the operators is Hellmann and Feynman's.

    Full-energy models learn the states of points (x, y) and, with the same network, those of x alone, which predict. With
    hsm_model=pauli the operators stay as they are, and only their states are learnt: samples do not give the derivative of a
    ground state that a loss of its predictions would need.

    Raises:
        ConfigError: for a sampler without a phase, or one that does not fit the number of qubits.
    """

    def __init__(self, hparams: HSM | Mapping[str, Any]) -> None:
        super().__init__(hparams)
        settings: Any = self.thparams
        width = settings.sampler.Nh
        targets = self.num_outputs if settings.full_energy else 0
        # Targets, and whether they are known.
        inputs = self.num_features + (targets + 1 if targets else 0)
        hidden = [nn.Linear(inputs, ENCODER_WIDTH), nn.SiLU(), nn.Linear(ENCODER_WIDTH, ENCODER_WIDTH), nn.SiLU()]
        self.encoder = nn.Sequential(*hidden, nn.Linear(ENCODER_WIDTH, width))
        self.context_size = width
        self.sampler = settings.sampler.build(Lattice(settings.qubits_count, 1), context_size=width)
        for name, parameter in self.named_parameters():
            if name.endswith("_pauli_coeffs"):
                parameter.requires_grad_(settings.full_energy)
        linear = settings.energy_form == "linear"
        sides = ["input", "output"] if targets else ["input"]
        self._squares = {} if linear else {side: PauliSquares(self.bases[side]) for side in sides}
        # Where the strings of the operators, and those of the sums of their squares, are among those of H.
        self._places: dict[str, Tensor] = {}
        self._square_places: dict[str, Tensor] = {}
        if linear:
            strings, places = joined([self.bases[side].strings for side in ("offset", "input")])
            self._places = dict(zip(("offset", "input"), places, strict=True))
        else:
            strings, places = joined([squares.strings for squares in self._squares.values()])
            self._square_places = dict(zip(sides, places, strict=True))
            self._places = {side: self._square_places[side][squares.places] for side, squares in self._squares.items()}
        self.energy_basis = PauliBasis(strings)

    # --- local values -----------------------------------------------------------------------------------------------

    def _coefficients(self, joint: bool) -> Tensor:
        """(1 + K', R) over `energy_basis`: the part of H that no feature multiplies, and the operators that they multiply."""
        sides = ["input", "output"] if joint else ["input"]
        made = {side: getattr(self, f"{side}_pauli_coeffs") for side in sides}
        if self._squares:
            squares = {side: 0.5 * self._squares[side].sum_of_squares(made[side]) for side in sides}
            alone = [self._placed(squares[side][None], self._square_places[side]) for side in sides]
        else:
            alone = [self._placed(self.get_parameter("offset_pauli_coeffs"), self._places["offset"])]
        multiplied = [self._placed(made[side], self._places[side]) for side in sides]
        return torch.cat([torch.stack(alone).sum(dim=0), *multiplied])

    def _placed(self, coefficients: Tensor, places: Tensor) -> Tensor:
        """(K, R) over `energy_basis`, of coefficients (K, P) of strings that are at `places` in it."""
        empty = coefficients.new_zeros(len(coefficients), len(self.energy_basis))
        return empty.index_add(1, places.to(coefficients.device), coefficients)

    def _context(self, points: Tensor, joint: bool) -> Tensor:
        """(B, H) what the sampler is conditioned on; where targets are not known, zeros stand for them."""
        if not self.thparams.full_energy:
            found: Tensor = self.encoder(points)
            return found
        known = torch.full((len(points), 1), float(joint), dtype=points.dtype, device=points.device)
        targets = points[:, self.num_features :] if joint else points.new_zeros(len(points), self.num_outputs)
        found = self.encoder(torch.cat([points[:, : self.num_features], targets, known], dim=1))
        return found

    def sampled_energy(
        self, points: Tensor, joint: bool, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean energy of standardised points from `num_samples` configurations of each, variance of local energies, surrogate.

        The energy is differentiable with respect to the operators. The surrogate has the value 0 and the gradient of the energy
        with respect to the network.
        """
        samples = self.thparams.num_samples
        drawn = self._drawn(self._context(points, joint), samples, generator)
        ratios = self._ratios(self.energy_basis, drawn)
        values = self.energy_basis.local_values(self._coefficients(joint), drawn.configs, ratios)
        own = points[drawn.point]
        norm = half_norm(own) if self._squares else 0.0
        energies = values[:, 0] - (own.to(values.dtype) * values[:, 1:]).sum(dim=1) + norm
        mean = drawn.mean(energies.detach())
        # The mean of the others is the baseline of a sample, for every point by itself; copies of one add up.
        terms = drawn.shares * (energies.detach() - mean[drawn.point]) * samples / (samples - 1) / len(points)
        surrogate = weighted_loss(
            self.sampler.log_prob(drawn.configs, drawn.context),
            terms,
            drawn.shares,
            self.sampler.phase(drawn.configs, drawn.context),
        )
        variance = drawn.mean((energies.detach() - mean[drawn.point]).abs().square()).mean() * samples / (samples - 1)
        return drawn.mean(energies.real).mean(), variance, surrogate - surrogate.detach()

    def _drawn(self, context: Tensor, samples: int, generator: torch.Generator | None) -> Drawn:
        """Samples for every context (B, H), equal ones of a point joined."""
        repeated = context.detach().repeat_interleave(samples, dim=0)
        configs, _ = self.sampler.sample(len(repeated), generator, repeated)
        point = torch.arange(len(context), device=configs.device).repeat_interleave(samples)
        rows, counts = torch.cat([point[:, None], configs.long()], dim=1).unique(dim=0, return_counts=True)
        shares = counts.to(torch.float64) / samples
        return Drawn(rows[:, 1:].to(torch.uint8), rows[:, 0], shares, context[rows[:, 0]], len(context))

    def _ratios(self, basis: PauliBasis, drawn: Drawn) -> Tensor:
        """(U, M) psi(n')/psi(n) of the flips of a basis."""
        masks = basis.masks.to(drawn.configs.device)
        return amplitude_ratios(self.sampler, drawn.configs, masks, drawn.context.detach())[1]

    @torch.no_grad()
    def measured(self, points: Tensor) -> Measured:
        """Expectations and variances (B, T) of the outputs, and energies (B,), in the states of x alone, from samples.

        The draws of a row depend on the rows beside it, so expectations change by their statistical error,
        sqrt(variance / 1024), with these.
        """
        generator = torch.Generator(points.device).manual_seed(0)
        drawn = self._drawn(self._context(points, joint=False), MEASURED_SAMPLES, generator)
        values = {}
        for side, basis in self.bases.items():
            values[side] = basis.local_values(getattr(self, f"{side}_pauli_coeffs"), drawn.configs, self._ratios(basis, drawn))
        expectations = drawn.mean(values["output"].real)
        variances = (drawn.mean(values["output"].abs().square()) - expectations.square()).clamp_min(0.0)
        own = points[drawn.point]
        if self._squares:  # <(A - x)^2> is the mean of |A_loc - x|^2: no strings of twice the weight
            energies = 0.5 * (values["input"] - own).abs().square().sum(dim=1)
        else:
            energies = (values["offset"][:, 0] - (own * values["input"]).sum(dim=1)).real
        return Measured(expectations, variances, drawn.mean(energies))

    def predicted(self, points: Tensor, operators: Operators | None = None) -> Tensor:
        return self.measured(points).expectations.to(points.dtype) / self.target_scale

    @property
    def memory_bytes(self) -> int:
        """Of the samples of one point: a ratio and a mask for every flip, and what the sampler holds."""
        flips = sum(basis.num_flips for basis in self.bases.values())
        qubits = self.thparams.qubits_count or 0
        return MEASURED_SAMPLES * (flips * (16 + qubits) + 64 * qubits * self.context_size)

    def states(self, points: Tensor, operators: Operators | None = None, joint: bool = False) -> States:
        raise ConfigError("hsm.sampler: this model has samples of its states, and no matrices or vectors to read")

    def operators(self) -> Operators:
        raise ConfigError("hsm.sampler: this model has coefficients of Pauli strings, and no matrices")

    def prepare_fit(self, batches: Iterable[Any]) -> None:
        super().prepare_fit(batches)
        if not self.thparams.full_energy:
            logger.warning("hsm_model=pauli with a sampler: the operators stay as they are, and only their states are learnt")

    # --- training ---------------------------------------------------------------------------------------------------

    def _energy_metrics(self, points: Tensor, y: Tensor) -> dict[str, Tensor]:
        joint = torch.cat([points, self.target_scale * self.scaled_targets(y)], dim=1)
        energy, variance, surrogate = self.sampled_energy(joint, True, self._generator())
        _, _, alone = self.sampled_energy(points, False, self._generator())
        return self._sampled_metrics({"loss": energy + surrogate + alone, "energy": energy, "variance": variance}, points, y)

    def _loss_metrics(self, points: Tensor, y: Tensor) -> dict[str, Tensor]:
        energy, variance, surrogate = self.sampled_energy(points, False, self._generator())
        return self._sampled_metrics({"loss": energy + surrogate, "energy": energy, "variance": variance}, points, y)

    def _sampled_metrics(self, found: dict[str, Tensor], points: Tensor, y: Tensor) -> dict[str, Tensor]:
        if self.training:
            return found
        predictions = self.predicted(points)
        return {**found, "pred_loss": loss_of(self, predictions, y), **prediction_metrics(self, predictions, y)}

    def _generator(self) -> torch.Generator | None:
        """That of the trainer, or a fixed one: an evaluation repeats itself."""
        return None if self.training else torch.Generator(self.x_mean.device).manual_seed(0)
