"""A sampler averaged over the images of a configuration under symmetries of the lattice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from qsr.hparams.base import ConfigError
from qsr.samplers.base import DEFAULT_MEMORY_BYTES, AutoregressiveSampler, CountedSampler, evaluation_mode
from qsr.samplers.generators import default_generator
from qsr.samplers.group import NO_PHASE


class SymmetrizedSampler(CountedSampler):
    """p(n) = 1/G sum_g p_0(g n) over a group of G permutations of the sites: normalised, and the same for all images of n.

    A sample of p_0 of which a random image is taken is an exact, independent sample of p (M. Hibat-Allah et al., Phys. Rev.
    Research 2, 023358 (2020), arXiv 2002.02973, "Imposing discrete symmetries"). For a stoquastic H with these symmetries the
    energy of psi = sqrt(p) is never above that of sqrt(p_0), whatever p_0 is: <sqrt(p)|H|sqrt(p)> = sum_n H_nn p(n) -
    sum_{n != n'} |H_nn'| sqrt(p(n) p(n')) is convex in p, as sqrt(xy) is jointly concave, and every image p_0(g n) has the energy
    of p_0.

    Every evaluation costs G of the base. The state dict is that of the base: the symmetry is a setting, not a weight.

    Args:
        base: p_0, without a phase.
        permutations: (G, N) int64, a group: the image of configs (B, N) under element g is configs[:, permutations[g]].

    Raises:
        ConfigError: for a base with a phase.
        ValueError: for permutations that are not those of the base's sites.
    """

    permutations: Tensor  # (G, N)

    def __init__(self, base: AutoregressiveSampler, permutations: Tensor) -> None:
        super().__init__()
        if base.has_phase:
            raise ConfigError(f"symmetry: {NO_PHASE}")
        if not torch.equal(permutations.sort(dim=1).values.cpu(), torch.arange(base.num_sites).expand(len(permutations), -1)):
            raise ValueError(f"permutations: rows must be permutations of {base.num_sites} sites")
        self.base = base
        self.num_sites, self.local_dim = base.num_sites, base.local_dim
        self.register_buffer("permutations", permutations, persistent=False)

    @property
    def order(self) -> int:
        """G, the number of elements of the group."""
        return len(self.permutations)

    def sample(
        self,
        num_samples: int,
        generator: torch.Generator | None = None,
        context: Tensor | None = None,
        memory_bytes: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        source = default_generator(self.device) if generator is None else generator
        with evaluation_mode(self):
            drawn, _ = self.base.sample(num_samples, source, context, memory_bytes)
            element = torch.randint(self.order, (num_samples,), generator=source, device=drawn.device)
            configs = drawn.gather(1, self.permutations[element])
            rows = max(1, num_samples if memory_bytes is None else memory_bytes // self.pass_bytes())
            parts = [slice(first, first + rows) for first in range(0, max(1, num_samples), rows)]
            found = [self.log_prob(configs[part], None if context is None else context[part]) for part in parts]
            return configs, torch.cat(found)

    def log_prob(self, configs: Tensor, context: Tensor | None = None) -> Tensor:
        with self.network():
            log_prob = self.base.log_prob(*self._images(configs, context))
        return log_prob.view(len(configs), self.order).logsumexp(dim=1) - math.log(self.order)

    def flip_log_ratio(
        self,
        configs: Tensor,
        masks: Tensor | None = None,
        context: Tensor | None = None,
        num_loops: int | None = None,
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
        **options: Any,
    ) -> tuple[Tensor, Tensor]:
        """As `Sampler.flip_log_ratio`: the image of n XOR mask is the image of n, flipped at the image of the mask.

        All images of n are flipped in all images of the masks: the same masks in another order, where H has the symmetry.
        """
        masks = self.single_flips(configs.device) if masks is None else masks
        moved = masks[:, self.permutations]  # (M, G, N)
        distinct, place = moved.flatten(0, 1).unique(dim=0, return_inverse=True)
        place = place.view(moved.shape[:2]).T  # (G, M)
        images, contexts = self._images(configs, context)
        with evaluation_mode(self):
            log_prob, log_ratio = self.base.flip_log_ratio(images, distinct, contexts, num_loops, memory_bytes, **options)
        log_prob = log_prob.view(len(configs), self.order).double()
        log_ratio = log_ratio.view(len(configs), self.order, len(distinct))
        total = log_prob.logsumexp(dim=1)
        # log sum_g w_g p_0(g n') / p_0(g n) with w_g = p_0(g n) / sum: of ratios, since totals cancel in float32.
        weights = log_prob - total[:, None]
        flipped = torch.full((len(configs), len(masks)), -math.inf, dtype=torch.float64, device=configs.device)
        for element, columns in enumerate(place):
            flipped = torch.logaddexp(flipped, weights[:, element, None] + log_ratio[:, element, columns].double())
        return (total - math.log(self.order)).to(self.dtype), flipped.to(self.dtype)

    def _images(self, configs: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(B*G, N) all images, those of a configuration in adjacent rows, and the context of each.

        Gradients sample by sample rely on that order (`qsr.training.layer_gradients`).
        """
        images = configs[:, self.permutations].flatten(0, 1)
        return images, None if context is None else context.repeat_interleave(self.order, dim=0)

    def resized_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.base.resized_weights(weights)

    # --- the weights are those of the base ----------------------------------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.base.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.base.load_state_dict(*args, **kwargs)

    # --- memory: that of all images -----------------------------------------------------------------------------------

    def pass_bytes(self) -> int:
        return self.order * self.base.pass_bytes()

    def graph_bytes(self, per_sample: bool = False) -> int:
        return self.order * self.base.graph_bytes(per_sample)

    def sample_bytes(self) -> int:
        return self.base.sample_bytes()
