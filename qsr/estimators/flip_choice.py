"""How many flips to draw, and which window: the cheapest error, from variances measured on a pilot batch and counted costs.

At equal work the squared error of the mean energy goes with (work per sample) x (variance per sample). Work is counted in
token-forwards, never in seconds, so that a run's choices can be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qsr.estimators.local_energy import deviations
from qsr.estimators.sampled_flips import EXACT, FlipSampling, check_sampled, proposal, turned, uncovered_flips
from qsr.hamiltonians.base import Hamiltonian
from qsr.samplers.base import DEFAULT_MEMORY_BYTES, AutoregressiveSampler, Sampler
from qsr.samplers.flips import STRETCHES, Window, first_changed

# Sampling, the base pass, and the gradient's forward and backward pass (two forwards) over the n tokens of every sample.
FIXED_PASSES = 5
CLEAR_GAIN = 0.8  # the variances of a pilot batch are uncertain, and equal samples share exact flips: ties go to exact flips
NUM_FLIPS = (2, 4, 8, 16, 32)  # with one draw its variance could not be told from that of the state


@dataclass(frozen=True)
class WindowCost:
    """What a window costs and leaves over, per sample.

    Attributes:
        window: its distances.
        window_tokens: token-forwards for the windowed terms of all flips.
        flip_tokens: token-forwards for one full flip, averaged over the proposals.
        flip_variance: variance of the local energy that a single drawn flip adds (M add it divided by M), estimated upwards.
        weights: how far the windowed terms are off, per flip: factors for the proposals.
    """

    window: Window
    window_tokens: float
    flip_tokens: float
    flip_variance: float
    weights: tuple[float, ...]


@dataclass(frozen=True)
class FlipCosts:
    """Costs and variances on a pilot batch.

    Attributes:
        exact_tokens: token-forwards per sample for all flips.
        exact_variance: variance of the exact local energy.
        bulk_variance: the same of a normal distribution with its quartiles: without the outliers that a pilot batch may hold.
        fixed_tokens: token-forwards per sample of everything else in a step.
        windows: one entry for every window.
    """

    exact_tokens: float
    exact_variance: float
    bulk_variance: float
    fixed_tokens: float
    windows: list[WindowCost]

    def best(
        self, num_flips: Sequence[int] = NUM_FLIPS, allow_exact: bool = True, most_noise: float | None = None
    ) -> FlipSampling:
        """The sampling with the smallest (cost x variance); exact flips if nothing beats them clearly.

        Args:
            num_flips: numbers M to choose from.
            allow_exact: whether exact flips may be chosen.
            most_noise: largest variance that drawing flips may add, as a share of the state's own in the bulk; None: any.
        """
        best = EXACT
        least = CLEAR_GAIN * self.score(None, 0) if allow_exact else float("inf")
        for entry in self.windows:
            for number in num_flips:
                score = self.score(entry, number)
                if most_noise is not None and entry.flip_variance / number > most_noise * self.bulk_variance:
                    continue
                if score < least:
                    best, least = FlipSampling(number, entry.window, entry.weights), score
        return best

    def score(self, entry: WindowCost | None, num_flips: int) -> float:
        """Token-forwards x variance per sample; None for exact flips."""
        if entry is None:
            return (self.fixed_tokens + self.exact_tokens) * self.exact_variance
        tokens = self.fixed_tokens + entry.window_tokens + num_flips * entry.flip_tokens
        return tokens * (self.exact_variance + entry.flip_variance / num_flips)


def flip_costs(
    sampler: Sampler,
    hamiltonian: Hamiltonian,
    configs: Tensor,
    windows: Sequence[Window] | None = None,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    context: Tensor | None = None,
    groups: Tensor | None = None,
) -> FlipCosts:
    """Measure windows (default: those that the sampler suggests) on configs (B, N), by exact flips.

    Args:
        context: (B, C) of a conditioned sampler.
        groups: (B,) samples whose energies have a mean of their own (see `leave_one_out`): variances are those within groups.

    Raises:
        ConfigError: for models whose flips cannot be sampled.
    """
    model = check_sampled(sampler, hamiltonian)
    masks, coefficients = hamiltonian.connected(configs)
    coefficients = turned(model, configs, masks, coefficients, context, memory_bytes)
    xor = model.encode(masks.to(torch.uint8))
    start = first_changed(xor)
    rest = (model.num_tokens - 1 - start).clamp_min(0)

    def terms(window: Window | None) -> Tensor:
        log_ratio = model.flip_log_ratio(configs, masks, context, memory_bytes=memory_bytes, window=window)[1]
        return coefficients * (0.5 * log_ratio.double()).exp()

    exact = terms(None)
    energies = deviations(hamiltonian.diagonal(configs) + exact.sum(dim=1), groups)
    begin = start.clamp_max(model.num_tokens - 1) // -(-model.num_tokens // STRETCHES) * -(-model.num_tokens // STRETCHES)
    entries = []
    for window in model.windows() if windows is None else windows:
        windowed = terms(window)
        missing = exact - windowed
        possible = (coefficients != 0) & uncovered_flips(xor, window)
        size = windowed.abs().sum(dim=0)
        weights = missing.abs().sum(dim=0) / size.clamp_min(torch.finfo(size.dtype).tiny)
        proposals = proposal(windowed, possible, weights)
        square = torch.where(proposals > 0, missing.abs().square() / proposals.clamp_min(torch.finfo(proposals.dtype).tiny), 0.0)
        entries.append(
            WindowCost(
                window,
                window_tokens=float(sum(_window_tokens(model, window, int(r)) for r in rest)),
                flip_tokens=float((proposals * (model.num_tokens - begin)).sum(dim=1).mean()),
                flip_variance=_upper_mean((square.sum(dim=1) - missing.sum(dim=1).abs().square()).clamp_min(0)),
                weights=tuple(weights.tolist()),
            )
        )
    return FlipCosts(
        exact_tokens=float(sum(_window_tokens(model, tuple(range(1, int(r) + 1)), int(r)) for r in rest)),
        exact_variance=float(energies.var()),
        bulk_variance=_bulk_variance(energies),
        fixed_tokens=float(FIXED_PASSES * model.num_tokens),
        windows=entries,
    )


def _upper_mean(values: Tensor) -> float:
    """Mean plus twice its standard error: a few samples carry most of it, and a pilot batch may hold none of them."""
    return float(values.mean() + 2 * values.std() / len(values) ** 0.5)


def _bulk_variance(values: Tensor) -> float:
    if values.is_complex():
        return _bulk_variance(values.real) + _bulk_variance(values.imag)
    quartiles = torch.quantile(values, torch.tensor([0.25, 0.75], dtype=values.dtype, device=values.device))
    spread = min(float(quartiles[1] - quartiles[0]) / 1.349, float(values.std()))
    return spread * spread  # inf beyond the range of numbers, where a power would raise


def _window_tokens(model: AutoregressiveSampler, window: Window, rest: int) -> int:
    return model.replaced_tokens(tuple(offset for offset in window if offset <= rest))
