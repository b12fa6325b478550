"""Data points as quantum states: psi(x) with a phase that can be relied on, and the similarity of two points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qsr.hparams import ConfigError
from qsr.hsm.start import feature_rows

if TYPE_CHECKING:
    from qsr.hsm.model import HilbertSpaceModel, Operators

CHUNK_BYTES = 256 * 2**20  # for the Hamiltonians of the points that are worked on at once
TIES = 1e-6  # components that differ by less than this share count as equally large: rounding must not choose between them


@torch.no_grad()
def transform(model: HilbertSpaceModel, x: Any) -> Tensor:
    """The ground states psi(x) (B, d) of features x (B, K), complex128 (float64 for real operators).

    The phase is fixed: of the largest components the first is real and positive. (Where the ground level is degenerate the state
    is one of it, as the solver gives it.)

    Raises:
        ConfigError: for a model of thermal states, and for x of another width.
    """
    points = model.scaled_inputs(ground_state_rows(model, x), torch.float64)
    made = double_operators(model)
    chunks = points.split(max(1, CHUNK_BYTES // (2 * model.memory_bytes)))  # twice: of double precision
    return with_fixed_phase(torch.cat([model.states(chunk, made).ground for chunk in chunks]))


@torch.no_grad()
def similarity(model: HilbertSpaceModel, x: Any, others: Any = None) -> Tensor:
    """(B, B') fidelities |<psi(x)|psi(x')>|^2 of features x (B, K) and `others` (B', K), or of x with each other; in float64.

    1 for points that the model does not tell apart, 0 for orthogonal states. (Rosaler et al., arXiv 2502.01495.)

    Raises:
        ConfigError: as `transform`.
    """
    first = transform(model, x)
    second = first if others is None else transform(model, others)
    return (first @ second.mH).abs().square()


def with_fixed_phase(states: Tensor) -> Tensor:
    """States (B, d), each times the phase that makes the first of its largest components real and positive."""
    sizes = states.abs()
    large = sizes >= (1 - TIES) * sizes.amax(dim=-1, keepdim=True)
    chosen = states.gather(-1, large.int().argmax(dim=-1, keepdim=True))
    return states * (chosen.conj() / chosen.abs())


# ---- states in double precision --------------------------------------------------------------------------------------


def ground_state_rows(model: HilbertSpaceModel, x: Any) -> Tensor:
    """x as (B, K) float64 on the model's device.

    Raises:
        ConfigError: for a model of thermal states, x of another width, and features without a value where the model takes none.
    """
    if model.thparams.beta is not None:
        raise ConfigError(f"hsm.beta={model.thparams.beta:g}: a model of thermal states; ground states (no beta) are needed here")
    return feature_rows(model, x)


def unscaled(model: HilbertSpaceModel, points: Tensor) -> Tensor:
    """(B, K) points as the operators see them, in the units of the features; the mean for a feature with the weight 0."""
    if model.thparams.weighted_layer:
        weights = model.input_weights.double().to(points.device)
        points = torch.where(weights == 0, 0.0, points / weights)
    return points * model.x_scale.to(points) + model.x_mean.to(points)


def double_operators(model: HilbertSpaceModel) -> Operators:
    """The input operators of a model in double precision, whatever it computes in; without outputs, which nothing here reads."""
    from qsr.hsm.model import Operators

    made = model.operators()
    wide = torch.complex128 if made.inputs.is_complex() else torch.float64
    offset = None if made.offset is None else made.offset.detach().to(wide)
    return Operators(made.inputs.detach().to(wide), made.outputs.detach().to(wide)[:0], offset)
