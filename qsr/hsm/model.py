"""The Hilbert-space model: operators for features and targets, and the state of a data point that joins them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from qsr.hamiltonians.pauli import PauliBasis, pauli_strings
from qsr.hparams import ConfigError, RunSettings
from qsr.hsm.metrics import finished
from qsr.hsm.operators import (
    error_hamiltonian,
    half_norm,
    hermitian,
    linear_hamiltonian,
    parameters_of,
    random_parameters,
)
from qsr.hsm.rows import check_rows, features_and_targets
from qsr.hsm.scores import loss_of, prediction_metrics, state_metrics
from qsr.hsm.settings import HSM, STANDARDISED
from qsr.hsm.states import States, states_of, variances
from qsr.training.model import Model
from qsr.training.protocols import UpdateRule
from qsr.training.schedule import Stage

SELF_CONSISTENT = (1e-6, 50)  # largest change of a standardised prediction at the end, and most iterations
CLUSTER_NOISE = 0.05  # off-diagonal elements next to clusters on the diagonal, where they would stay zero for ever
_SCALER = ("x_mean", "x_scale", "y_mean", "y_scale", "y_center")


@dataclass(frozen=True)
class Operators:
    """The operators of a model, made from its parameters once for many points.

    Attributes:
        inputs: (K, d, d) A_k.
        outputs: (T, d, d) B_t.
        offset: (1, d, d) A_0 of the linear form, or None.
    """

    inputs: Tensor
    outputs: Tensor
    offset: Tensor | None


@dataclass(frozen=True)
class Measured:
    """What predictions are made of, at standardised points.

    Attributes:
        expectations, variances: (B, T) <B_t> and <B_t^2> - <B_t>^2, in the state of x alone.
        energy: (B,).
    """

    expectations: Tensor
    variances: Tensor
    energy: Tensor


class HilbertSpaceModel(Model[HSM]):
    """y_t(x) = <psi(x)| B_t |psi(x)>, psi(x) the ground state of H(x) = 1/2 sum_k (A_k - x_k)^2.

    Parameters: `input_diags` (K, d) and `input_trius` (K, d(d-1)/2, 2) (without the last axis for real operators), or
    `input_pauli_coeffs` (K, P) with the strings in the order of `qsr.hamiltonians.pauli.pauli_strings`; `output_...` the same;
    `offset_...` of the linear form; `input_weights` (K,) with `weighted_layer`. Features and targets are standardised in here.

    Raises:
        ConfigError: for settings without the numbers of features and targets, which the data give.
    """

    named_by_module = False

    def __init__(self, hparams: HSM | Mapping[str, Any]) -> None:
        super().__init__(hparams)
        settings = self.thparams
        unsupervised = settings.hsm_model == "geometry"
        outputs = 0 if unsupervised else settings.output_operator_count
        if settings.input_operator_count is None or outputs is None:
            name = "input_operator_count" if settings.input_operator_count is None else "output_operator_count"
            raise ConfigError(f"hsm.{name}: missing; the data of a run tell it, or give it")
        self.num_features, self.num_outputs = settings.input_operator_count, outputs
        self.bases: dict[str, PauliBasis] = {}
        self.watch_states: Callable[[Tensor, States], None] | None = None  # sees the points and states of a training batch
        scale = settings.init_scale
        self._add_operators("input", self.num_features, scale)
        if not unsupervised:
            self._add_operators("output", self.num_outputs, 2 * scale if settings.loss.of_classes else scale)
        if settings.energy_form == "linear":
            self._add_operators("offset", 1, scale)
        if settings.weighted_layer:
            self.input_weights = nn.Parameter(torch.ones(self.num_features))
        self.loss_function = nn.Identity() if unsupervised or settings.loss.name == "auto" else settings.loss.build()
        for name in _SCALER:
            start = torch.ones if name.endswith("scale") else torch.zeros
            size = self.num_features if name.startswith("x") else self.num_outputs
            self.register_buffer(name, start(size, dtype=torch.float64))

    x_mean: Tensor
    x_scale: Tensor
    y_mean: Tensor
    y_scale: Tensor
    y_center: Tensor  # mean of the targets as they are standardised: sums of squares are taken around it

    def _add_operators(self, side: str, count: int, scale: float) -> None:
        settings = self.thparams
        if settings.pauli:
            weight = settings.output_operator_pauli_weight if side == "output" else settings.input_operator_pauli_weight
            self.bases[side] = PauliBasis(pauli_strings(settings.qubits_count or 0, weight or 0))
            strings = len(self.bases[side])
            # Tr A^2 / d = sum of the squared coefficients
            self.register_parameter(f"{side}_pauli_coeffs", nn.Parameter(scale / strings**0.5 * torch.randn(count, strings)))
            return
        diags, trius = random_parameters(count, settings.dimension, settings.complex, scale)
        self.register_parameter(f"{side}_diags", nn.Parameter(diags))
        self.register_parameter(f"{side}_trius", nn.Parameter(trius))

    def _apply(self, fn: Any, recurse: bool = True) -> HilbertSpaceModel:
        """Moved and converted as every module, but the scaler keeps its float64: features may be large and change little."""
        kept = {name: getattr(self, name) for name in _SCALER}
        super()._apply(fn, recurse)
        device = next(self.parameters()).device
        for name, value in kept.items():
            setattr(self, name, value.to(device))
        return self

    # --- operators --------------------------------------------------------------------------------------------------

    def operators(self) -> Operators:
        """The operators, differentiable."""
        inputs = self.operators_of("input")
        outputs = self.operators_of("output") if self.num_outputs else inputs.new_zeros(0, *inputs.shape[1:])
        return Operators(inputs, outputs, self.operators_of("offset") if self.thparams.energy_form == "linear" else None)

    def operators_of(self, side: str) -> Tensor:
        """(K, d, d) operators: `input`, `output` or `offset`."""
        if side in self.bases:
            return self.bases[side].operators(getattr(self, f"{side}_pauli_coeffs"))
        return hermitian(getattr(self, f"{side}_diags"), getattr(self, f"{side}_trius"))

    @torch.no_grad()
    def set_operators(self, side: str, operators: Tensor) -> None:
        """Put Hermitian matrices (K, d, d) in place (real parts, for a model with real ones).

        Raises:
            ConfigError: for a Pauli model, matrices of another shape, and matrices that are not Hermitian.
        """
        if side in self.bases:
            raise ConfigError(f"hsm.{side}_operators: a Pauli model has coefficients; set {side}_pauli_coeffs")
        diags, trius = getattr(self, f"{side}_diags"), getattr(self, f"{side}_trius")
        expected = (len(diags), diags.shape[1], diags.shape[1])
        if tuple(operators.shape) != expected:
            raise ConfigError(f"hsm.{side}_operators shape mismatch: found {tuple(operators.shape)}, expected {expected}")
        if not torch.allclose(operators, operators.mH, rtol=0, atol=1e-6 * float(operators.abs().max())):
            raise ConfigError(f"hsm.{side}_operators: must be Hermitian")
        if self.thparams.complex:
            operators = operators.to(torch.promote_types(operators.dtype, torch.complex64))
        elif operators.is_complex():
            operators = operators.real
        found = parameters_of(operators)
        diags.copy_(found[0])
        trius.copy_(found[1])

    # --- states -----------------------------------------------------------------------------------------------------

    def scaled_inputs(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """(B, K) standardised (and weighted) features, in the number format of the operators or another."""
        scaled = ((x.double() - self.x_mean) / self.x_scale).to(dtype or self.dtype)
        if not self.thparams.weighted_layer:
            return scaled
        missing = torch.isnan(scaled)  # kept out of the product: its gradient would be 0 * NaN
        return (scaled.masked_fill(missing, 0.0) * self.input_weights.to(scaled.dtype)).masked_fill(missing, torch.nan)

    def scaled_targets(self, y: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """(B, T) standardised targets, in the number format of the operators or another; for classes 1 in the class's column."""
        if self.thparams.classes is not None:
            return nn.functional.one_hot(self.class_numbers(y), self.num_outputs).to(dtype or self.dtype)
        return ((y.view(len(y), -1).double() - self.y_mean) / self.y_scale).to(dtype or self.dtype)

    def class_numbers(self, y: Tensor) -> Tensor:
        """(B,) int64 number of the class of targets (B, 1), which hold numbers for names and values for values.

        Raises:
            ConfigError: for a value that no class has.
        """
        settings = self.thparams
        flat = y.reshape(-1).double()
        if settings.classes is None or isinstance(settings.classes[0], str):
            return flat.long()
        values = torch.tensor(settings.classes, dtype=torch.float64, device=y.device)
        found = torch.searchsorted(values, flat).clamp_max(len(values) - 1)
        if not torch.equal(values[found], flat):
            other = float(flat[values[found] != flat][0])
            raise ConfigError(f"data: {other:g} is no class of the training data; those are {list(settings.classes)}")
        return found

    def states(self, points: Tensor, operators: Operators | None = None, joint: bool = False) -> States:
        """States of standardised points (B, K); with `joint` of points (B, K + T) of features and targets.

        Features that are NaN are not observed: with missing=drop_terms their terms are left out.

        Raises:
            ConfigError: for other points that are not finite.
        """
        settings = self.thparams
        made = self.operators() if operators is None else operators
        observed = None
        if not bool(torch.isfinite(points).all()):
            check_rows(points, settings.missing, "data")
            observed = ~torch.isnan(points)
        if made.offset is not None:
            hamiltonian, norm = linear_hamiltonian(made.offset, made.inputs, points), points.new_zeros(len(points))
        else:
            inputs = torch.cat([made.inputs, made.outputs]) if joint else made.inputs
            hamiltonian, norm = error_hamiltonian(inputs, points, observed), half_norm(points, observed)
        shift = settings.eigh_eps or 0.0
        if shift:
            hamiltonian = hamiltonian + shift * torch.eye(hamiltonian.shape[-1], dtype=hamiltonian.dtype, device=points.device)
        readout = made.outputs.new_zeros(0, *made.outputs.shape[1:]) if joint else self._readout(made)
        found = states_of(hamiltonian, readout, settings.beta, settings.degenerate == "average")
        return replace(found, energy=found.energy + norm - shift)

    def _readout(self, made: Operators) -> Tensor:
        """The operators whose expectations are asked for: B_t, and B_t^2 for a loss that looks at the variance."""
        if self.thparams.hsm_model == "geometry":
            return made.inputs
        if self.thparams.loss.name == "GaussianNLLLoss" and not self.thparams.full_energy:
            return torch.cat([made.outputs, made.outputs @ made.outputs])
        return made.outputs

    def forward(self, x: Tensor) -> Tensor:
        """Predictions (B, T) of features (B, K): in the units of the targets, or one number for each class.

        For hsm_model=geometry the point cloud (B, K), <A_k> in the units of the features.
        """
        with torch.autocast(x.device.type, enabled=False):
            points = self.scaled_inputs(x)
            expectations = self.predicted(points)
            if self.thparams.hsm_model == "geometry":
                return expectations * self.x_scale + self.x_mean
            return expectations if self.thparams.classes is not None else expectations * self.y_scale + self.y_mean

    def predicted(self, points: Tensor, operators: Operators | None = None) -> Tensor:
        """(B, T) expectation values at standardised points (B, K), as the targets are standardised."""
        settings = self.thparams
        made = self.operators() if operators is None else operators
        found = self.states(points, made).expectations[:, : self.num_outputs or self.num_features]
        if settings.predict_mode == "self_consistent":
            found = self._self_consistent(points, found, made)
        return found / self.target_scale

    def _self_consistent(self, points: Tensor, found: Tensor, made: Operators) -> Tensor:
        """Expectations (B, T) that are those of the state of features and themselves; every row stops where it has converged."""
        tolerance, most = SELF_CONSISTENT
        tolerance = self.target_scale * max(tolerance, 8 * torch.finfo(found.dtype).eps)
        moving = torch.ones(len(points), dtype=torch.bool, device=points.device)
        for _ in range(most):
            joint = self.states(torch.cat([points[moving], found[moving]], dim=1), made, joint=True)
            new = joint.expectations_of(made.outputs)
            change = (new - found[moving]).abs().amax(dim=1)
            found = found.index_put((moving,), new)
            moving = moving.index_put((moving,), change >= tolerance)
            if not bool(moving.any()):
                break
        return found

    def measured(self, points: Tensor) -> Measured:
        """Expectations and variances (B, T) of the outputs, and energies (B,), in the states of x alone."""
        made = self.operators()
        states = self.states(points, made)
        return Measured(states.expectations[:, : self.num_outputs], variances(states, made.outputs), states.energy)

    @property
    def target_scale(self) -> float:
        """Factor on standardised targets in the energy of features and targets; 1 where targets are not in the energy."""
        settings = self.thparams
        if not settings.full_energy:
            return 1.0
        return settings.target_scale or (2.0 if settings.classes is not None or settings.loss.of_classes else 1.0)

    def transform(self, x: Any) -> Tensor:
        """The ground states psi(x) (B, d), with a fixed phase; see `qsr.hsm.overlaps.transform`."""
        from qsr.hsm.overlaps import transform

        return transform(self, x)

    def similarity(self, x: Any, others: Any = None) -> Tensor:
        """(B, B') fidelities |<psi(x)|psi(x')>|^2; see `qsr.hsm.overlaps.similarity`."""
        from qsr.hsm.overlaps import similarity

        return similarity(self, x, others)

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters (real)."""
        return next(self.parameters()).dtype

    # --- training ---------------------------------------------------------------------------------------------------

    def compute_metrics(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """The loss and metrics of a batch (x (B, K), y (B, T)), or of x alone for hsm_model=geometry."""
        x, y = features_and_targets(batch)
        with torch.autocast(x.device.type, enabled=False):
            points = self.scaled_inputs(x)
            if self.thparams.hsm_model == "geometry":
                return self._geometry_metrics(points)
            assert y is not None
            if self.thparams.full_energy:
                return self._energy_metrics(points, y)
            return self._loss_metrics(points, y)

    def _loss_metrics(self, points: Tensor, y: Tensor) -> dict[str, Tensor]:
        states = self.states(points)
        predictions = states.expectations
        found = {"loss": loss_of(self, predictions, y), "energy": states.energy.mean()}
        return {**found, **state_metrics(self, states), **prediction_metrics(self, predictions[:, : self.num_outputs], y)}

    def _energy_metrics(self, points: Tensor, y: Tensor) -> dict[str, Tensor]:
        made = self.operators()
        joint = torch.cat([points, self.target_scale * self.scaled_targets(y)], dim=1)
        states = self.states(joint, made, joint=True)
        if self.watch_states is not None:
            self.watch_states(joint, states)
        energy = states.energy.mean()
        found = {"loss": energy, "energy": energy, **state_metrics(self, states)}
        if self.training:  # predictions need other states, of the features alone
            return found
        predictions = self.predicted(points, made)
        return {**found, "pred_loss": loss_of(self, predictions, y), **prediction_metrics(self, predictions, y)}

    def _geometry_metrics(self, points: Tensor) -> dict[str, Tensor]:
        """(<A_k> - x_k)^2 + w Var A_k, averaged over k: with 2 E_0 = bias + variance it is bias (1 - w) + 2 w E_0."""
        states = self.states(points)
        weight = self.thparams.fluctuation_weight
        bias = (states.expectations - points).nan_to_num(0.0).square().sum(dim=1).mean() / self.num_features
        energy = states.energy.mean()
        whole = 2 * energy / self.num_features
        found = {"loss": (1 - weight) * bias + weight * whole, "bias": bias, "fluctuation": whole - bias, "energy": energy}
        return {**found, **state_metrics(self, states)}

    def describe_data(self, objective: Any) -> list[str]:
        settings = self.thparams
        features = (
            f"features {', '.join(settings.features)}" if settings.features is not None else f"{self.num_features} features"
        )
        classes = f"; classes {', '.join(map(str, settings.classes))}" if settings.classes is not None else ""
        loss = "" if settings.loss.name == "auto" else f"; {settings.loss.name}"
        sizes = [getattr(part, "samples", 0) for part in (objective.training, objective.validation)]
        return [f"{features}{classes}{loss}; {sizes[0]} rows to train on, {sizes[1]} to validate"]

    def finish_metrics(self, means: Mapping[str, float]) -> dict[str, float]:
        return finished(means)

    def prepare_fit(self, batches: Iterable[Any]) -> None:
        from qsr.hsm.start import prepare

        prepare(self, batches)

    def configure_update(self, settings: RunSettings, stage: Stage) -> UpdateRule:
        if settings.train.precision == "bf16":
            raise ConfigError("train.precision=bf16: has no effect on states, which need float32 or float64")
        if self.thparams.method == "analytic":
            from qsr.hsm.analytic import ClosedForm

            return ClosedForm(self, settings, stage)
        return super().configure_update(settings, stage)

    @property
    def standardises_targets(self) -> bool:
        """Whether targets are numbers that a loss takes differences of."""
        settings = self.thparams
        differences = settings.full_energy or settings.loss.name in STANDARDISED
        return settings.standardize == "auto" and settings.classes is None and not settings.loss.of_classes and differences

    @property
    def memory_bytes(self) -> int:
        """Of the Hamiltonian and the eigenvectors of one point."""
        return 2 * self.thparams.dimension**2 * (8 if self.thparams.complex or self.thparams.pauli else 4)
