"""What autoregressive samplers share: sampling, log-probabilities and flips, written on the reading of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from qsr.lattice import Lattice
from qsr.samplers.flips import STRETCHES, BasePass, FlipGroup, Window, flip_groups, pick, replace_by_reading
from qsr.samplers.generators import default_generator
from qsr.samplers.heap import make_room
from qsr.samplers.phase import PhaseNetwork
from qsr.samplers.sampler import DEFAULT_MEMORY_BYTES as DEFAULT_MEMORY_BYTES
from qsr.samplers.sampler import CountedSampler as CountedSampler
from qsr.samplers.sampler import Sampler as Sampler
from qsr.samplers.sampler import draw_samples as draw_samples
from qsr.samplers.sampler import evaluation_mode as evaluation_mode
from qsr.samplers.sampler import networks_in as networks_in


class AutoregressiveSampler(CountedSampler):
    """p(n) = prod_j p(patch_j | patch_<j): a sequence of n tokens, token t holding the p sites `token_sites[t]`.

    A token is an integer in [0, V), V = local_dim^p, whose digit i is the i-th site of the patch. Subclasses define
    `prefill` and `extend`; sampling, `log_prob` and flips are written here once on those two.
    """

    replaces_together = False  # whether `replace_each` of all tokens by all distances is the fastest way to single flips
    replaces_pairs = False  # whether flips of single tokens, each in a row of its own, have a way of their own
    token_sites: Tensor  # (n, p)
    _digits: Tensor  # (p,) local_dim^i

    def __init__(self, lattice: Lattice, token_sites: Tensor, local_dim: int = 2) -> None:
        super().__init__()
        self.lattice = lattice
        self.num_sites = lattice.num_sites
        self.local_dim = local_dim
        self.num_tokens, self.sites_per_token = token_sites.shape
        self.num_values = local_dim**self.sites_per_token  # V
        self.register_buffer("token_sites", token_sites, persistent=False)
        self.register_buffer("_digits", local_dim ** torch.arange(self.sites_per_token), persistent=False)
        self.phase_network: PhaseNetwork | None = None

    def add_phase(self, network: PhaseNetwork) -> None:
        """Give psi the phase of a network."""
        self.phase_network = network
        self.has_phase = True

    def phase(self, configs: Tensor, context: Tensor | None = None) -> Tensor:
        network = self.phase_network
        return super().phase(configs, context) if network is None else network(configs, context)

    def flip_phase(
        self, configs: Tensor, masks: Tensor, context: Tensor | None = None, memory_bytes: int = DEFAULT_MEMORY_BYTES
    ) -> Tensor:
        arguments = configs, masks, context, memory_bytes
        return super().flip_phase(*arguments) if self.phase_network is None else self.phase_network.change(*arguments)

    # --- what a subclass defines ------------------------------------------------------------------------------------

    def prefill(self, tokens: Tensor, context: Tensor | None = None) -> tuple[Tensor, Any]:
        """Read the first t tokens (B, t), t < n: log-conditionals (B, t+1, V) of tokens 0..t, and the state."""
        raise TypeError(f"{type(self).__name__} does not define prefill")

    def extend(self, state: Any, tokens: Tensor) -> tuple[Tensor, Any]:
        """Read w more tokens (B, w): log-conditionals (B, w, V) of the w tokens that follow, and the new state."""
        raise TypeError(f"{type(self).__name__} does not define extend")

    def replace(self, state: Any, tokens: Tensor, start: int, values: Tensor, offsets: Window) -> Tensor:
        """Log-conditionals (B, m, w, V) of the w tokens at `start` + offset, when token `start` is replaced by `values` (B, m).

        The other tokens are those of `tokens` (B, n), which the state has read by one `prefill` without gradients. Networks in
        which one new token changes less than everything after it define this anew.
        """
        return replace_by_reading(self, state, tokens, start, values, offsets)

    def replace_each(self, state: Any, tokens: Tensor, start: int, values: Tensor, offsets: Window) -> Tensor:
        """Log-conditionals (B, s, m, w, V): as `replace`, for each of the s tokens from `start` on, one at a time.

        `values` are (B, s, m). Conditionals beyond the end of the sequence are undefined.
        """
        shape = (*values.shape, len(offsets), self.num_values)
        conditionals = torch.zeros(shape, dtype=self.dtype, device=self.device)
        for index in range(values.shape[1]):
            inside = tuple(offset for offset in offsets if start + index + offset < self.num_tokens)
            if inside:
                found = self.replace(state, tokens, start + index, values[:, index], inside)
                conditionals[:, index, :, : len(inside)] = found
        return conditionals

    def replace_pairs(self, state: Any, begin: int, rows: Tensor, starts: Tensor, values: Tensor) -> Tensor:
        """Log-conditionals (R, w, V) of the w tokens after `begin`: token starts[r] >= begin of row rows[r] becomes values[r].

        Defined where `replaces_pairs` is true. Conditionals up to the replaced token are undefined; the last token is never
        replaced, since nothing reads it.
        """
        raise TypeError(f"{type(self).__name__} does not define replace_pairs")

    def windows(self) -> list[Window]:
        """Windows worth trying for sampled flips (`qsr.estimators.sampled_flips`): none, and as far as neighbours reach."""
        near = [offset for offset in self.neighbour_offsets(1.5) if 2 * offset <= self.num_tokens]
        reach = near[-1] if near else 0
        lengths = sorted({length for length in (reach - 1, reach, 2 * reach) if 0 < length < self.num_tokens})
        return [(), *(tuple(range(1, length + 1)) for length in lengths)]

    def replaced_tokens(self, offsets: Window) -> int:
        """Number of token-forwards that `replace` takes for these offsets."""
        return offsets[-1] if offsets else 0

    def neighbour_offsets(self, distance: float) -> Window:
        """How far later in the sequence tokens come that have a site within `distance` (lattice constants) of a token's own."""
        sites = self.token_sites.flatten().cpu()
        close = torch.from_numpy(self.lattice.distances() <= distance)[sites][:, sites]
        n, p = self.token_sites.shape
        first, second = torch.nonzero(close.view(n, p, n, p).any(dim=3).any(dim=1), as_tuple=True)
        return tuple(sorted({int(offset) for offset in (second - first).unique() if offset > 0}))

    def gradient_bytes(self, per_sample: bool = False) -> int:
        phase = 0 if self.phase_network is None else self.phase_network.graph_bytes()
        return self.graph_bytes(per_sample) + phase

    def _bytes(self, numbers: int) -> int:
        return numbers * self.dtype.itemsize

    # --- tokens -----------------------------------------------------------------------------------------------------

    def encode(self, configs: Tensor) -> Tensor:
        """(B, N) configurations to (B, n) tokens."""
        return (configs[:, self.token_sites].long() * self._digits).sum(dim=-1)

    def decode(self, tokens: Tensor) -> Tensor:
        """(B, n) tokens to (B, N) configurations."""
        configs = torch.empty(len(tokens), self.num_sites, dtype=torch.uint8, device=tokens.device)
        configs[:, self.token_sites.flatten()] = self.token_values(tokens).flatten(1)
        return configs

    def token_values(self, tokens: Tensor) -> Tensor:
        """(..., n) tokens to the (..., n, p) uint8 states of their sites."""
        return (tokens[..., None] // self._digits % self.local_dim).to(torch.uint8)

    # --- the protocol -----------------------------------------------------------------------------------------------

    def conditionals(self, configs: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, n, V) teacher-forced log p(token_t | tokens before t), one forward pass, differentiable."""
        with self.network():
            return self.prefill(self.encode(configs)[:, :-1], context)[0]

    def log_prob(self, configs: Tensor, context: Tensor | None = None) -> Tensor:
        tokens = self.encode(configs)
        with self.network():
            return pick(self.prefill(tokens[:, :-1], context)[0], tokens).sum(dim=-1)

    def sample(
        self,
        num_samples: int,
        generator: torch.Generator | None = None,
        context: Tensor | None = None,
        memory_bytes: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        # Every row's random numbers are the same for every memory: each stretch of rows draws those of all, and takes its own.
        rows = num_samples if memory_bytes is None else max(1, memory_bytes // self.sample_bytes())
        if rows >= num_samples:
            return self._sample(slice(0, num_samples), num_samples, generator, context)
        source = default_generator(self.device) if generator is None else generator
        start = source.get_state()
        drawn = []
        for first in range(0, num_samples, rows):
            source.set_state(start)
            drawn.append(self._sample(slice(first, min(first + rows, num_samples)), num_samples, source, context))
        configs, log_prob = zip(*drawn, strict=True)
        return torch.cat(configs), torch.cat(log_prob)

    def _sample(
        self, part: slice, num_samples: int, generator: torch.Generator | None, context: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The rows `part` of `num_samples`."""
        count, device = part.stop - part.start, self.device
        with evaluation_mode(self):
            tokens = torch.empty(count, self.num_tokens, dtype=torch.long, device=device)
            log_prob = torch.zeros(count, dtype=self.dtype, device=device)
            conditional, state = self.prefill(tokens[:, :0], None if context is None else context[part])
            for t in range(self.num_tokens):
                if t:
                    conditional, state = self.extend(state, tokens[:, t - 1 : t])
                # An exponential race: argmin of e_v / p_v is v with probability p_v, and needs no host synchronisation.
                race = conditional.new_empty(num_samples, self.num_values).exponential_(generator=generator)[part]
                tokens[:, t] = (conditional[:, 0] - race.log()).argmax(dim=-1)
                log_prob += pick(conditional, tokens[:, t : t + 1]).squeeze(1)
            return self.decode(tokens), log_prob

    def flip_log_ratio(
        self,
        configs: Tensor,
        masks: Tensor | None = None,
        context: Tensor | None = None,
        num_loops: int | None = None,
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
        window: Window | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `Sampler.flip_log_ratio`, re-using the prefix: a flip in token k costs only the tokens after k.

        `num_loops` groups the first flipped token into that many stretches (NN-QSR's NLOOPS: fewer, larger matrix
        products for more work and memory); by default every position is a group, which is the least work. With a `window`
        only the conditionals of the first flipped token and of those at the window's distances after it are compared.
        """
        masks = self.single_flips(configs.device) if masks is None else masks
        groups = flip_groups(self.encode(masks.to(torch.uint8)), num_loops)
        log_prob = torch.empty(len(configs), dtype=self.dtype, device=configs.device)
        log_ratio = torch.zeros(len(configs), len(masks), dtype=self.dtype, device=configs.device)
        with evaluation_mode(self):
            for part, passed in self.base_passes(configs, context, groups, memory_bytes, window):
                log_prob[part] = passed.base.sum(dim=-1)
                log_ratio[part] = passed.changes(groups, len(masks), window)
                del passed  # before the next one is made
        return log_prob, log_ratio

    def base_passes(
        self,
        configs: Tensor,
        context: Tensor | None,
        groups: list[FlipGroup],
        memory_bytes: int,
        window: Window | None = None,
        pairs: int = 0,
    ) -> Iterator[tuple[slice, BasePass]]:
        """Passes over configurations (B, N), in chunks that fit into the memory with their largest group of flips.

        To be used in `evaluation_mode`.

        Args:
            window: as for `BasePass.changes`.
            pairs: flips per configuration that are computed one by one afterwards.
        """
        # `replace_each`, in its own way where `replaces_pairs` is true, does without.
        shortcut = window != () and any(group.alone for group in groups) and not (window and self.replaces_pairs)
        state = self.state_bytes(shortcut)
        work = [len(group.index) * group.bytes(self, window) for group in groups]
        # Pairs are computed a stretch of the sequence at a time, and may crowd in one.
        together = -(-2 * pairs // STRETCHES)
        work += [together * max(self.pair_bytes(self.num_tokens), self.pair_bytes(1))]
        chunk = max(1, memory_bytes // max(self.pass_bytes(), state + max(work)))
        tokens = self.encode(configs)
        for first in range(0, len(configs), chunk):
            part = slice(first, first + chunk)
            make_room(len(tokens[part]) * max(self.pass_bytes(), state + max(work)), memory_bytes)
            passed = BasePass(self, tokens[part], None if context is None else context[part])
            passed.spare_bytes = max(0, memory_bytes - len(passed.tokens) * state)
            yield part, passed
            del passed  # before the next one is made
