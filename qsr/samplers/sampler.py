"""The Sampler protocol: what every normalised model can do, and how it is called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from qsr.hparams.base import ConfigError
from qsr.samplers.memory import CountedMemory

DEFAULT_MEMORY_BYTES = 1024 * 2**20  # for intermediate results; the default of train.memory_MiB


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Dropout off and no gradients, both as they were on exit, in every module; the network in its number format."""
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), model.network() if isinstance(model, Sampler) else nullcontext():
            yield
    finally:
        for module, flag in training:
            module.training = flag


@contextmanager
def networks_in(dtype: torch.dtype | None, *samplers: Sampler) -> Iterator[None]:
    """Set `Sampler.autocast_dtype`; what it was comes back on exit."""
    before = [sampler.autocast_dtype for sampler in samplers]
    for sampler in samplers:
        sampler.autocast_dtype = dtype
    try:
        yield
    finally:
        for sampler, value in zip(samplers, before, strict=True):
            sampler.autocast_dtype = value


def draw_samples(
    sampler: Sampler, num_samples: int, generator: torch.Generator | None, memory_bytes: int, context: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`sampler.sample` within a memory, where the sampler knows how."""
    if isinstance(sampler, CountedSampler):
        return sampler.sample(num_samples, generator, context, memory_bytes)
    return sampler.sample(num_samples, generator, context)


class Sampler(nn.Module):
    """A normalised probability model on {0..local_dim-1}^N, with an optional phase: psi = sqrt(p) exp(i phi).

    Shapes: `configs` (B, N) uint8, log-probabilities (B,), masks (M, N) bool; `context` is (B, C) or None.
    """

    num_sites: int
    local_dim: int = 2
    has_phase: bool = False
    autocast_dtype: torch.dtype | None = None  # what matrix products are rounded to; None: the parameters' format

    def network(self) -> AbstractContextManager[Any]:
        """In here the layers compute in `autocast_dtype`; sums of log-probabilities stay in the parameters' format."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast_dtype)

    def sample(
        self, num_samples: int, generator: torch.Generator | None = None, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Independent exact draws: configs (B, N) and their log p (B,), without gradient.

        Without a generator torch's global one is used.
        """
        raise TypeError(f"{type(self).__name__} does not define sample")

    def log_prob(self, configs: Tensor, context: Tensor | None = None) -> Tensor:
        """log p(configs), (B,), differentiable."""
        raise TypeError(f"{type(self).__name__} does not define log_prob")

    def phase(self, configs: Tensor, context: Tensor | None = None) -> Tensor:
        """phi(configs), (B,), in radians; zeros unless the model has a phase head."""
        return torch.zeros(configs.shape[0], dtype=self.dtype, device=configs.device)

    def flip_phase(
        self, configs: Tensor, masks: Tensor, context: Tensor | None = None, memory_bytes: int = DEFAULT_MEMORY_BYTES
    ) -> Tensor:
        """phi(configs XOR mask) - phi(configs), (B, M), without gradient; one full evaluation for each unless overridden."""
        with evaluation_mode(self):
            return self.plain_flip_phase(configs, masks, context) - self.phase(configs, context)[:, None]

    def flip_log_prob(
        self, configs: Tensor, masks: Tensor | None = None, context: Tensor | None = None, **options: Any
    ) -> Tensor:
        """log p(configs XOR mask), (B, M), without gradient; default masks: every single site.

        Options as in `flip_log_ratio`.
        """
        log_prob, log_ratio = self.flip_log_ratio(configs, masks, context, **options)
        return log_prob[:, None] + log_ratio

    def flip_log_ratio(
        self,
        configs: Tensor,
        masks: Tensor | None = None,
        context: Tensor | None = None,
        num_loops: int | None = None,
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
    ) -> tuple[Tensor, Tensor]:
        """log p(configs) (B,) and log p(configs XOR mask) - log p(configs) (B, M), without gradient.

        Args:
            masks: (M, N) bool, True where a site is flipped; default: every single site.
            num_loops: number of groups of flips that are evaluated one after the other (samplers choose by default).
            memory_bytes: bound on intermediate results; changes results only by rounding.
        """
        with evaluation_mode(self):
            log_prob = self.log_prob(configs, context)
            return log_prob, self.plain_flip_log_prob(configs, masks, context) - log_prob[:, None]

    def plain_flip_log_prob(self, configs: Tensor, masks: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """As `flip_log_prob`, by one full evaluation for every flipped configuration; differentiable."""
        masks = self.single_flips(configs.device) if masks is None else masks
        return self.log_prob(*_flipped(configs, masks, context)).view(len(configs), len(masks))

    def plain_flip_phase(self, configs: Tensor, masks: Tensor, context: Tensor | None = None) -> Tensor:
        """phi(configs XOR mask), (B, M), by one full evaluation for each; differentiable."""
        return self.phase(*_flipped(configs, masks, context)).view(len(configs), len(masks))

    def single_flips(self, device: torch.device) -> Tensor:
        """(N, N) bool: row i flips site i.

        Raises:
            ConfigError: if a site has more than two states, where a flip means nothing.
        """
        if self.local_dim != 2:
            raise ConfigError(f"flips need two states per site; this sampler has local_dim={self.local_dim}")
        return torch.eye(self.num_sites, dtype=torch.bool, device=device)

    def resized_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of the same model on another lattice, made to fit this one: only learned positions depend on it."""
        return dict(weights)

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the parameters."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(self.parameters()).device


def _flipped(configs: Tensor, masks: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Configurations (B*M, N), those of a row adjacent, and the context of each."""
    flipped = (configs[:, None, :] ^ masks[None].to(configs.dtype)).flatten(0, 1)
    return flipped, None if context is None else context.repeat_interleave(len(masks), dim=0)


class CountedSampler(Sampler, CountedMemory):
    """A sampler that counts the memory that its rows take, so that work can be cut to a memory."""

    def sample(
        self,
        num_samples: int,
        generator: torch.Generator | None = None,
        context: Tensor | None = None,
        memory_bytes: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `Sampler.sample`; with `memory_bytes` as many rows at a time as fit into it, which changes no row's draws."""
        raise TypeError(f"{type(self).__name__} does not define sample")

    def gradient_bytes(self, per_sample: bool = False) -> int:
        """As `graph_bytes`, of log p and the phase."""
        return self.graph_bytes(per_sample)
