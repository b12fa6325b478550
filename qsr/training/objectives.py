"""The objectives of sampler training: the variational energy, and the likelihood of a teacher's samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qsr.estimators.local_energy import differentiable_local_energy, leave_one_out, local_energy, weighted_loss
from qsr.hamiltonians.base import Hamiltonian
from qsr.samplers.base import Sampler
from qsr.training.protocols import BatchKey, Metrics
from qsr.training.random import generator_for, seed_dropout
from qsr.training.settings import TrainHparams


def endless_steps(seed: int, first: int, minibatches: int) -> Iterator[list[BatchKey]]:
    """Keys of the minibatches of step `first`, `first` + 1, ...: a sampler is an endless source."""
    step = first
    while True:
        yield [BatchKey(seed, step, minibatch) for minibatch in range(minibatches)]
        step += 1


@dataclass
class EnergyBatch:
    """One minibatch of samples, equal ones joined: U <= K distinct configurations (U, N) and the sums over their copies.

    `terms` are the sums of the centred, weighted local energies, `weights` the counts over B; `log_prob` is there if
    its graph was kept.
    """

    key: BatchKey
    configs: Tensor
    terms: Tensor  # (U,) sum of (E_i - mean of the others) / B
    weights: Tensor  # (U,) count / B
    log_prob: Tensor | None = None


@dataclass
class _Draw:
    configs: Tensor  # (U, N)
    inverse: Tensor  # (K,) which configuration each sample is
    energies: Tensor  # (K,)
    log_prob: Tensor | None


class VariationalEnergy:
    """<H> of psi = sqrt(p) exp(i phi) by exact, independent samples (variational Monte Carlo).

    The gradient is E[(E_loc - baseline) grad log p] with the leave-one-out baseline over all B = Q*K samples of a step.

    Args:
        hamiltonian: the problem.
        settings: K, sgrad, true_grad, NLOOPS, the memory of a chunk of flips, and the seed of the draws.
    """

    def __init__(self, hamiltonian: Hamiltonian, settings: TrainHparams) -> None:
        self.hamiltonian = hamiltonian
        self.settings = settings

    def batches(self, epoch: int, first: int, minibatches: int) -> Iterator[list[BatchKey]]:
        return endless_steps(self.settings.seed, first, minibatches)

    def prepare(self, model: Sampler, keys: Sequence[BatchKey]) -> tuple[list[EnergyBatch], Metrics]:
        drawn = [self._draw(model, key) for key in keys]
        energies = torch.cat([draw.energies for draw in drawn])
        all_terms = leave_one_out(energies).split([len(draw.energies) for draw in drawn])
        batches = []
        for key, draw, terms in zip(keys, drawn, all_terms, strict=True):
            summed = terms.new_zeros(len(draw.configs)).index_add(0, draw.inverse, terms)
            weights = torch.bincount(draw.inverse, minlength=len(draw.configs)).double() / len(energies)
            batches.append(EnergyBatch(key, draw.configs, summed, weights, draw.log_prob))
        # |E - mean|^2 also for complex local energies; real ones stay what they are.
        variance = (energies - energies.mean()).abs().square().sum().item() / (len(energies) - 1)
        error = math.sqrt(variance / len(energies)) if math.isfinite(variance) else math.nan
        return batches, {"energy": energies.mean().real.item(), "energy_error": error, "variance": variance}

    def _draw(self, model: Sampler, key: BatchKey) -> _Draw:
        generator = generator_for(model.device, key.seed, "sample", key.step, key.minibatch)
        samples, _ = model.sample(self.settings.K, generator)
        # Small lattices give the same configuration many times; its local energy is computed once.
        configs, inverse = samples.unique(dim=0, return_inverse=True)
        log_prob = None
        if self.settings.sgrad:
            seed_dropout(key)
            log_prob = model.log_prob(configs)
        memory = self.settings.memory_MiB * 2**20
        energy = local_energy(model, self.hamiltonian, configs, num_loops=self.settings.NLOOPS, memory_bytes=memory)
        return _Draw(configs, inverse, energy.values[inverse], log_prob)

    def loss(self, model: Sampler, batch: EnergyBatch) -> tuple[Tensor, Metrics]:
        log_prob, batch.log_prob = batch.log_prob, None  # a kept graph serves once; a second call builds its own
        if log_prob is None:
            log_prob = model.log_prob(batch.configs)
        phase = model.phase(batch.configs) if model.has_phase else None
        through = differentiable_local_energy(model, self.hamiltonian, batch.configs) if self.settings.true_grad else None
        return weighted_loss(log_prob, batch.terms, batch.weights, phase, through), {}

    def summarise(self, found: Sequence[Metrics]) -> Metrics:
        """Nothing: the energies of the whole step are known before the losses."""
        return {}


@dataclass
class TeacherBatch:
    """Samples (K, N) of the teacher and their log-probability under it (K,)."""

    key: BatchKey
    configs: Tensor
    teacher_log_prob: Tensor


class TeacherLikelihood:
    """KL(teacher || model), minimised by the likelihood of samples drawn from a frozen teacher."""

    def __init__(self, teacher: Sampler, settings: TrainHparams) -> None:
        self.teacher = teacher
        self.settings = settings

    def batches(self, epoch: int, first: int, minibatches: int) -> Iterator[list[BatchKey]]:
        return endless_steps(self.settings.seed, first, minibatches)

    def prepare(self, model: Sampler, keys: Sequence[BatchKey]) -> tuple[list[TeacherBatch], Metrics]:
        batches = []
        for key in keys:
            generator = generator_for(self.teacher.device, key.seed, "sample", key.step, key.minibatch)
            batches.append(TeacherBatch(key, *self.teacher.sample(self.settings.K, generator)))
        return batches, {}

    def loss(self, model: Sampler, batch: TeacherBatch) -> tuple[Tensor, Metrics]:
        log_prob = model.log_prob(batch.configs)
        divergence = batch.teacher_log_prob.double() - log_prob.detach().double()
        metrics = {"kl": divergence.mean().item(), "kl_square": divergence.square().mean().item()}
        return -log_prob.mean() / self.settings.Q, metrics

    def summarise(self, found: Sequence[Metrics]) -> Metrics:
        """Mean and variance of log p_teacher - log p_model over all B samples of a step."""
        mean, square = (sum(part[name] for part in found) / len(found) for name in ("kl", "kl_square"))
        samples = self.settings.K * len(found)
        return {"kl": mean, "kl_variance": max(square - mean**2, 0.0) * samples / (samples - 1)}
