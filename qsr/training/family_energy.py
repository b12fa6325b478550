"""The objective of a whole phase diagram: the mean energy over the ranges of a family of Hamiltonians."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qsr.hamiltonians.base import Hamiltonian
from qsr.hamiltonians.family import RydbergFamily
from qsr.training.objectives import Conditions, VariationalEnergy
from qsr.training.protocols import BatchKey
from qsr.training.random import generator_for

LEAST_SAMPLES = 2  # at a point: its own mean is the baseline


class FamilyEnergy(VariationalEnergy):
    """The mean of <H(lambda)> over lambda uniform in a box, for a sampler whose context is lambda.

    Every minibatch has `train.points` points of a Latin hypercube, a new one in each step, with equally many samples: each of
    so many slices of every range has one point, so that a step sees all of the diagram. Samples of a point have their own mean
    energy as baseline, and natural gradients their own mean of grad log psi.

    The metric `energy` is the mean over the points, `energy_error` its noise from the samples, and `variance` the mean of the
    points' variances: that energies differ between points is in neither.

    Args:
        family: the Hamiltonians.
        settings, stage, most_noise, scale: as for `VariationalEnergy`.
    """

    def __init__(self, family: RydbergFamily, *arguments: Any) -> None:
        super().__init__(family, *arguments)  # type: ignore[arg-type]  # the Hamiltonian of a batch is `_problem`
        self.family = family

    def _of_groups(self, num_samples: int) -> int:
        points = self.settings.points_per_minibatch
        return points * max(LEAST_SAMPLES, round(num_samples / points))

    def _conditions(self, key: BatchKey, num_samples: int, device: torch.device, purpose: str = "points") -> Conditions:
        points = self.settings.points_per_minibatch
        generator = generator_for("cpu", key.seed, purpose, key.step, key.minibatch)
        ends = torch.tensor([[found.low, found.high] for found in self.family.ranges.values()], dtype=torch.float64)
        values = torch.lerp(ends[:, 0], ends[:, 1], latin_hypercube(points, len(ends), generator))
        groups = torch.arange(points, device=device).repeat_interleave(num_samples // points)
        return Conditions(values.to(device), groups)

    def _problem(self, context: Tensor | None) -> Hamiltonian:
        assert context is not None
        return self.family.rows(context)


def latin_hypercube(count: int, dimensions: int, generator: torch.Generator) -> Tensor:
    """(count, dimensions) float64 points, each uniform in the unit cube, one in each of `count` slices of every axis.

    M. McKay, R. Beckman, W. Conover, Technometrics 21, 239 (1979). With one axis: stratified.
    """
    slices = [torch.randperm(count, generator=generator) for _ in range(dimensions)]
    offsets = torch.rand(count, dimensions, generator=generator, dtype=torch.float64)
    return (torch.stack(slices, dim=1) + offsets) / count
