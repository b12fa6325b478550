"""The objectives of sampler training: the variational energy, and the likelihood of a teacher's samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from qsr.estimators.flip_choice import NUM_FLIPS, flip_costs
from qsr.estimators.local_energy import deviations, differentiable_local_energy, leave_one_out, local_energy, weighted_loss
from qsr.estimators.sampled_flips import EXACT, FlipSampling, can_sample, sampled_local_energy
from qsr.hamiltonians.base import Hamiltonian
from qsr.hparams import ConfigError
from qsr.samplers.base import CountedSampler, Sampler, draw_samples
from qsr.samplers.heap import HEAP_SHARE, make_room
from qsr.training.distribution import ALONE, Processes
from qsr.training.protocols import BatchKey, Metrics
from qsr.training.random import generator_for, seed_dropout
from qsr.training.schedule import Stage
from qsr.training.settings import TrainHparams

CHOOSE_EVERY = 100  # steps between choices of flips
PILOT_SAMPLES = 128  # whose exact flips a choice is made from: a few hundredths of the work of 100 steps


def endless_steps(seed: int, first: int, minibatches: int) -> Iterator[list[BatchKey]]:
    """Keys of the minibatches of step `first`, `first` + 1, ...: a sampler is an endless source."""
    step = first
    while True:
        yield [BatchKey(seed, step, minibatch) for minibatch in range(minibatches)]
        step += 1


def graph_rows(model: Sampler, memory_bytes: int) -> int:
    """Rows whose graph of log p fits into the memory; all of them for a model that does not count what it takes."""
    if not isinstance(model, CountedSampler):
        return 2**62
    return max(1, int(HEAP_SHARE * memory_bytes) // model.gradient_bytes())


def room_for_graph(model: Sampler, rows: int, memory_bytes: int) -> None:
    """Before the gradient of so many rows."""
    if isinstance(model, CountedSampler):
        make_room(rows * model.gradient_bytes(), memory_bytes)


@dataclass(frozen=True)
class Conditions:
    """Which state each sample is of, where a sampler has several.

    Attributes:
        points: (G, C) contexts of the sampler, one for each group of samples.
        groups: (K,) number of each sample's group; all groups are equally large.
    """

    points: Tensor
    groups: Tensor

    @property
    def context(self) -> Tensor:
        """(K, C) of the samples."""
        return self.points[self.groups]


@dataclass
class EnergyBatch:
    """Samples of a minibatch, equal ones joined: U <= K distinct configurations (U, N) and the sums over their copies.

    `terms` are the sums of the centred, weighted local energies over the scale, `weights` the counts over B; `log_prob` is
    there if its graph was kept.
    """

    key: BatchKey
    configs: Tensor
    terms: Tensor  # (U,) sum of (E_i - mean of the others of its group) / (B scale)
    weights: Tensor  # (U,) count / B
    num_samples: int  # B, of all minibatches of the step
    log_prob: Tensor | None = None
    num_groups: int = 1  # of the step; the mean of its group is the baseline of a sample
    context: Tensor | None = None  # (U, C), of a sampler with several states
    groups: Tensor | None = None  # (U,) among those of the step


@dataclass
class _Draw:
    configs: Tensor  # (U, N)
    inverse: Tensor  # (K,) which configuration each sample is
    energies: Tensor  # (K,)
    log_prob: Tensor | None
    sampling_variance: Tensor | None  # (U,) of the energies of `configs`, from drawing flips; None for exact flips
    conditions: Conditions | None = None  # of `configs`


class VariationalEnergy:
    """<H> of psi = sqrt(p) exp(i phi) by exact, independent samples (variational Monte Carlo).

    The gradient is E[(E_loc - baseline) grad log p] with the leave-one-out baseline over all B = Q*K samples of a step.

    With sampled flips (`train.flips`) the local energies carry noise of their own. The reported error has it; from the
    reported variance, which is to say how far the state is from an eigenstate, it is taken off.

    Args:
        hamiltonian: the problem.
        settings: K, flips and window, sgrad, true_grad, NLOOPS, the memory of a chunk of flips, and the seed of the draws.
        most_noise: bound on what `flips=auto` may add to the variance, as a share of it; None: whatever pays for a mean energy.
        stage: the steps over which the number of samples grows to `K_final`; default: all.
        scale: the gradient is that of <H>/scale, so that rates mean the same in every unit; metrics stay in the unit of H.
        processes: that share the minibatches of a step; mean energies are those of all samples.

    Attributes:
        sampling: how local energies are computed now; kept in checkpoints.

    Raises:
        ConfigError: for `true_grad` with a number of sampled flips.
    """

    def __init__(
        self,
        hamiltonian: Hamiltonian,
        settings: TrainHparams,
        stage: Stage | None = None,
        most_noise: float | None = None,
        scale: float = 1.0,
        processes: Processes = ALONE,
    ) -> None:
        if settings.true_grad and isinstance(settings.flips, int):
            raise ConfigError(f"train.true_grad=True: differentiates all flips; not with flips={settings.flips}")
        self.hamiltonian = hamiltonian
        self.settings = settings
        self.stage = stage or settings.stages()[0]
        self.most_noise = most_noise
        self.scale = scale
        self.processes = processes
        self.memory_bytes = settings.memory_MiB * 2**20
        self.sampling = EXACT

    def batches(self, epoch: int, first: int, minibatches: int) -> Iterator[list[BatchKey]]:
        return endless_steps(self.settings.seed, first, minibatches)

    def prepare(self, model: Sampler, keys: Sequence[BatchKey]) -> tuple[list[EnergyBatch], Metrics]:
        self._choose_flips(model, replace(keys[0], minibatch=0))  # one choice, of all processes
        drawn = [self._draw(model, key) for key in keys]
        # Of all processes, in the order of the minibatches, of which each has equally many samples.
        own_energies = torch.cat([draw.energies for draw in drawn])
        energies = self.processes.gather(own_energies)
        # Groups are numbered through all minibatches; without conditions all samples of the step are one.
        named = [(draw, draw.conditions) for draw in drawn if draw.conditions is not None]
        before = self.processes.rank * len(keys)
        numbers = [found.groups + (before + index) * len(found.points) for index, (_, found) in enumerate(named)]
        groups = None
        if named:
            own_groups = torch.cat([own[draw.inverse] for own, (draw, _) in zip(numbers, named, strict=True)])
            groups = self.processes.gather(own_groups)
        count = sum(len(found.points) for _, found in named) * self.processes.size or 1
        own_terms = self.processes.share(leave_one_out(energies / self.scale, groups))
        all_terms = own_terms.split([len(draw.energies) for draw in drawn])
        batches = []
        per_row = 1
        if self.settings.true_grad:
            first = drawn[0].conditions
            problem = self._problem(None if first is None else first.context[:1])
            per_row += problem.connected(drawn[0].configs[:1])[1].shape[1]
        rows = graph_rows(model, self.memory_bytes // per_row)
        all_weights = [torch.bincount(draw.inverse, minlength=len(draw.configs)).double() / len(energies) for draw in drawn]
        for index, (key, draw, terms, weights) in enumerate(zip(keys, drawn, all_terms, all_weights, strict=True)):
            summed = terms.new_zeros(len(draw.configs)).index_add(0, draw.inverse, terms)
            size = len(draw.configs) if draw.log_prob is not None else rows
            for start in range(0, len(draw.configs), size):
                part = slice(start, start + size)
                batch = EnergyBatch(key, draw.configs[part], summed[part], weights[part], len(energies), draw.log_prob, count)
                if draw.conditions is not None:
                    batch.context, batch.groups = draw.conditions.context[part], numbers[index][part]
                batches.append(batch)
        # |E - mean|^2 also for complex local energies; real ones stay what they are. The mean is real, and so is its error.
        # With groups it is the mean over their states: that these differ is no noise of it.
        deviation, freedom = deviations(energies, groups), len(energies) - count
        variance = deviation.abs().square().sum().item() / freedom
        error = (deviation.real.square().sum().item() / freedom if energies.is_complex() else variance) / len(energies)
        added = []
        for draw, weights in zip(drawn, all_weights, strict=True):
            if draw.sampling_variance is not None:
                noise = weights * draw.sampling_variance
                # Copies of a configuration share its noise: it averages out less than over as many independent samples. (All
                # of a complex noise is taken for real, which errs on the safe side.)
                added.append(torch.stack([noise.sum(), (noise * (weights - 1 / len(energies))).sum()]))
        for of_one, of_mean in self.processes.gather(torch.stack(added)).tolist() if added else ():
            variance -= of_one
            error += of_mean
        error = math.sqrt(error) if math.isfinite(error) else math.nan
        metrics = {"energy": energies.mean().real.item(), "energy_error": error, "variance": variance}
        chosen = {"samples": len(energies), "flips": self.sampling.num_flips or 0, "window": len(self.sampling.window)}
        return batches, {**metrics, **chosen}

    def _choose_flips(self, model: Sampler, key: BatchKey) -> None:
        """Every `CHOOSE_EVERY` steps: measure what `flips=auto` and `window=auto` leave open."""
        flips, window = self.settings.flips, self.settings.window
        if flips == "exact" or self.settings.true_grad or (flips == "auto" and not can_sample(model)):
            return
        if isinstance(flips, int) and isinstance(window, int):
            self.sampling = FlipSampling(flips, tuple(range(1, window + 1)))
        elif (key.step - self.stage.first) % CHOOSE_EVERY == 0:
            generator = generator_for(model.device, key.seed, "pilot", key.step)
            count = self._of_groups(PILOT_SAMPLES)
            conditions = self._conditions(key, count, model.device, "pilot points")
            context, groups = (None, None) if conditions is None else (conditions.context, conditions.groups)
            configs, _ = draw_samples(model, count, generator, self.memory_bytes, context)
            windows = None if window == "auto" else [tuple(range(1, window + 1))]
            costs = flip_costs(model, self._problem(context), configs, windows, self.memory_bytes, context, groups)
            if isinstance(flips, int):
                self.sampling = costs.best((flips,), allow_exact=False)
            else:
                self.sampling = costs.best(most_noise=self.most_noise)
            self.load_state_dict(self.processes.told(self.state_dict()))  # rounding must not tip the scales in one process

    def _num_samples(self, step: int) -> int:
        return self._of_groups(round(self.stage.geometric(self.settings.K, self.settings.K_final, step)))

    def _of_groups(self, num_samples: int) -> int:
        """About so many samples, in equally large groups."""
        return num_samples

    def _conditions(self, key: BatchKey, num_samples: int, device: torch.device, purpose: str = "points") -> Conditions | None:
        """Of the samples of a minibatch; None for a sampler of one state."""
        return None

    def _problem(self, context: Tensor | None) -> Hamiltonian:
        """The Hamiltonian of a batch with these conditions."""
        return self.hamiltonian

    def _draw(self, model: Sampler, key: BatchKey) -> _Draw:
        generator = generator_for(model.device, key.seed, "sample", key.step, key.minibatch)
        count = self._num_samples(key.step)
        conditions = self._conditions(key, count, model.device)
        samples, _ = draw_samples(model, count, generator, self.memory_bytes, None if conditions is None else conditions.context)
        # Small lattices give the same configuration many times; its local energy is computed once, unless a single drawn
        # flip would leave the copies with a common noise of unknown size.
        configs, inverse = samples, torch.arange(len(samples), device=samples.device)
        if self.sampling.num_flips != 1 and conditions is None:
            configs, inverse = samples.unique(dim=0, return_inverse=True)
        elif self.sampling.num_flips != 1 and conditions is not None:
            named, inverse = torch.cat([conditions.groups[:, None], samples.long()], dim=1).unique(dim=0, return_inverse=True)
            configs, conditions = named[:, 1:].to(samples.dtype), Conditions(conditions.points, named[:, 0])
        context = None if conditions is None else conditions.context
        log_prob = None
        if self.settings.sgrad:
            seed_dropout(key)
            log_prob = model.log_prob(configs, *_given(context))
        if self.sampling.num_flips is None:
            exact = local_energy(model, self._problem(context), configs, context, self.settings.NLOOPS, self.memory_bytes)
            return _Draw(configs, inverse, exact.values[inverse], log_prob, None, conditions)
        shape = len(configs), self.sampling.num_flips
        uniforms = torch.rand(shape, generator=generator, dtype=torch.float64, device=configs.device)
        sampled = sampled_local_energy(
            model, self._problem(context), configs, self.sampling, uniforms, context, memory_bytes=self.memory_bytes
        )
        return _Draw(configs, inverse, sampled.values[inverse], log_prob, sampled.sampling_variance, conditions)

    def loss(self, model: Sampler, batch: EnergyBatch) -> tuple[Tensor, Metrics]:
        log_prob, batch.log_prob = batch.log_prob, None  # a kept graph serves once; a second call builds its own
        if log_prob is None:
            room_for_graph(model, len(batch.configs), self.memory_bytes)
            log_prob = model.log_prob(batch.configs, *_given(batch.context))
        phase = model.phase(batch.configs, *_given(batch.context)) if model.has_phase else None
        through = None
        if self.settings.true_grad:
            problem = self._problem(batch.context)
            through = differentiable_local_energy(model, problem, batch.configs, batch.context) / self.scale
        return weighted_loss(log_prob, batch.terms, batch.weights, phase, through), {}

    def residuals(self, batch: EnergyBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Configurations (U, N), weights w_u (U,) and (E_u - <E>) / scale (U,), <E> = sum_u w_u E_u over all batches of the step.

        A configuration drawn c_u times has w_u = c_u / B and terms_u = c_u (E_u - <E>) / (B - G), see `leave_one_out`, so
        that E_u - <E> = terms_u / w_u * (B - G) / B. With G > 1 groups <E> is the mean of the configuration's group.
        """
        factor = (batch.num_samples - batch.num_groups) / batch.num_samples
        return batch.configs, batch.weights, batch.terms / batch.weights * factor

    def conditions(self, batch: EnergyBatch) -> tuple[Tensor, Tensor] | None:
        """Context (U, C) and group (U,) of each configuration, where the sampler has several states."""
        return None if batch.context is None or batch.groups is None else (batch.context, batch.groups)

    def summarise(self, found: Sequence[Metrics]) -> Metrics:
        """Nothing: the energies of the whole step are known before the losses."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The choice of flips, which holds until the next one is made."""
        chosen = self.sampling
        return {"num_flips": chosen.num_flips, "window": list(chosen.window), "weights": chosen.weights and list(chosen.weights)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        number, window, weights = state["num_flips"], tuple(state["window"]), state["weights"]
        most = max(
            self.hamiltonian.num_sites, *NUM_FLIPS, *(n for n in (self.settings.flips, self.settings.window) if type(n) is int)
        )
        if not all(type(n) is int and 0 <= n <= most for n in (*window, len(window), number or 0)):
            raise ConfigError(f"checkpoint: flips={number!r:.60}, window={window!r:.60}: must be whole numbers of at most {most}")
        self.sampling = FlipSampling(number, window, weights and tuple(map(float, weights)))


def _given(context: Tensor | None) -> tuple[Tensor, ...]:
    """An argument only where there is one: a model of somebody's own need not know of contexts."""
    return () if context is None else (context,)


@dataclass
class TeacherBatch:
    """Samples (R, N) of the teacher and their log-probability under it (R,): R of the K of a minibatch."""

    key: BatchKey
    configs: Tensor
    teacher_log_prob: Tensor


class TeacherLikelihood:
    """KL(teacher || model), minimised by the likelihood of samples drawn from a frozen teacher."""

    def __init__(self, teacher: Sampler, settings: TrainHparams) -> None:
        self.teacher = teacher
        self.settings = settings
        self.memory_bytes = settings.memory_MiB * 2**20
        self._samples = settings.Q * settings.K  # of a step

    def batches(self, epoch: int, first: int, minibatches: int) -> Iterator[list[BatchKey]]:
        return endless_steps(self.settings.seed, first, minibatches)

    def prepare(self, model: Sampler, keys: Sequence[BatchKey]) -> tuple[list[TeacherBatch], Metrics]:
        batches = []
        rows = graph_rows(model, self.memory_bytes)
        for key in keys:
            generator = generator_for(self.teacher.device, key.seed, "sample", key.step, key.minibatch)
            drawn = draw_samples(self.teacher, self.settings.K, generator, self.memory_bytes)
            batches += [TeacherBatch(key, *part) for part in zip(*(column.split(rows) for column in drawn), strict=True)]
        return batches, {}

    def loss(self, model: Sampler, batch: TeacherBatch) -> tuple[Tensor, Metrics]:
        room_for_graph(model, len(batch.configs), self.memory_bytes)
        log_prob = model.log_prob(batch.configs)
        divergence = batch.teacher_log_prob.double() - log_prob.detach().double()
        metrics = {"kl": divergence.sum().item(), "kl_square": divergence.square().sum().item()}
        return -log_prob.sum() / self._samples, metrics

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def summarise(self, found: Sequence[Metrics]) -> Metrics:
        """Mean and variance of log p_teacher - log p_model over all B samples of a step."""
        samples = self._samples
        mean, square = (sum(part[name] for part in found) / samples for name in ("kl", "kl_square"))
        return {"kl": mean, "kl_variance": max(square - mean**2, 0.0) * samples / (samples - 1)}
