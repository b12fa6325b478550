"""Measurements with trainable bases and effects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from qsr.hparams.base import ConfigError
from qsr.qembed.functional import (
    at_least_single,
    born_probabilities,
    effect_probabilities,
    povm,
    resolution_of_identity,
    weak_kraus,
    weak_measurement,
)
from qsr.qembed.roles import Tagged


class _Trainable(Tagged):
    """Complex matrices as two real parameters, which every optimizer understands."""

    roles: ClassVar[Mapping[str, str]] = {"real": "measurement", "imag": "measurement"}

    def __init__(self, shape: tuple[int, ...], generator: torch.Generator | None) -> None:
        super().__init__()
        if min(shape) < 1:
            raise ConfigError(f"{type(self).__name__}: sizes must be at least 1, found {shape}")
        self.real = nn.Parameter(torch.randn(shape, generator=generator))
        self.imag = nn.Parameter(torch.randn(shape, generator=generator))
        self.tag()

    def matrices(self) -> Tensor:
        """The parameters as complex numbers, at least single precision."""
        return torch.complex(at_least_single(self.real), at_least_single(self.imag))


class ProjectiveMeasurement(_Trainable):
    """p_m = |<u_m|psi>|^2 in an orthonormal basis of C dimensions, from the QR decomposition of a trainable matrix."""

    def __init__(self, dimension: int, generator: torch.Generator | None = None) -> None:
        super().__init__((dimension, dimension), generator)

    def vectors(self) -> Tensor:
        """(C, C): row m is u_m."""
        return torch.linalg.qr(self.matrices())[0].mT

    def forward(self, states: Tensor) -> Tensor:
        """Probabilities (..., C) of pure states (..., C)."""
        return born_probabilities(states, self.vectors())


class VectorMeasurement(_Trainable):
    """p_m = |<u_m|psi>|^2 of M trainable vectors in C dimensions that resolve the identity, sum_m |u_m><u_m| = 1.

    Raises:
        ConfigError: for M < C, which cannot.
    """

    def __init__(self, dimension: int, num_outcomes: int, generator: torch.Generator | None = None) -> None:
        if num_outcomes < dimension:
            raise ConfigError(f"num_measurements={num_outcomes}: must be at least the {dimension} dimensions of a sense vector")
        super().__init__((num_outcomes, dimension), generator)

    def vectors(self) -> Tensor:
        """(M, C): row m is u_m."""
        return resolution_of_identity(self.matrices())

    def forward(self, states: Tensor) -> Tensor:
        """Probabilities (..., M) of pure states (..., C)."""
        return born_probabilities(states, self.vectors())


class POVMMeasurement(_Trainable):
    """p_m = tr(rho E_m) of M trainable effects in C dimensions."""

    def __init__(self, dimension: int, num_outcomes: int, generator: torch.Generator | None = None) -> None:
        super().__init__((num_outcomes, dimension, dimension), generator)

    def effects(self) -> Tensor:
        """(M, C, C) positive semidefinite, of sum 1."""
        return povm(self.matrices())

    def forward(self, density: Tensor) -> Tensor:
        """Probabilities (..., M) of density matrices (..., C, C)."""
        return effect_probabilities(density, self.effects())


class WeakMeasurement(nn.Module):
    """An unread measurement of the basis states with strength eps in [0, 1]: dephasing.

    Raises:
        ConfigError: for a strength outside.
    """

    strength: Tensor

    def __init__(self, strength: float) -> None:
        super().__init__()
        if not 0 <= strength <= 1:
            raise ConfigError(f"strength={strength}: must be between 0 and 1")
        self.register_buffer("strength", torch.tensor(float(strength)))

    def kraus(self, dimension: int) -> Tensor:
        """(C + 1, C, C) operators sqrt(1 - eps) 1 and sqrt(eps) |k><k|."""
        return weak_kraus(dimension, self.strength)

    def forward(self, density: Tensor) -> Tensor:
        """The state (..., C, C) afterwards."""
        return weak_measurement(density, self.strength)
