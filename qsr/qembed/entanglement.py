"""Entanglement between the sense registers of tokens: couplings exp(J) on bonds, and the marginals and measures they give."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from qsr.hparams.base import ConfigError
from qsr.qembed.chain import (
    Messages,
    chain_bonds,
    chain_marginals,
    chain_messages,
    chain_subset_log_prob,
    draw_chain,
    left_messages,
)
from qsr.qembed.functional import at_least_single, bond_matrix, bond_measure, check_name, draw
from qsr.qembed.roles import Tagged

CORRELATION_TYPES = ("bell_state", "ghz_state", "custom")
DRAWINGS = ("batched", "sequential")
LAYOUTS = ("sparse", "dense")
_CUSTOM_SCALE = 0.1  # of random couplings at the start, relative to entanglement_strength


@dataclass(frozen=True)
class Bonds:
    """States of pairs of tokens.

    Attributes:
        matrices: (B, P, K, K) Schmidt matrices of Frobenius norm 1.
        mask: (B, P) bool: the bond is there (both tokens are valid, and in one group).
    """

    matrices: Tensor
    mask: Tensor

    def measure(self, kind: str = "entropy") -> Tensor:
        """(B, P) entanglement in [0, 1], see `functional.bond_measure`; 0 where there is no bond."""
        return bond_measure(kind, self.matrices).masked_fill(~self.mask, 0.0)

    def strength(self, kind: str = "entropy") -> Tensor:
        """Mean of `measure` over the bonds that are there; 0 if there are none."""
        return self.measure(kind).sum() / self.mask.sum().clamp_min(1)


@dataclass(frozen=True)
class Correlations:
    """What couplings make of the registers of a batch.

    Attributes:
        log_marginals: (B, L, K) ln of the outcome probabilities of each token.
        bonds: states of the pairs; None without entanglement.
        couplings: (B or 1, L-1, K, K) J of a chain; None where outcomes are drawn token by token.
        messages: of the chain; None as above.
        log_probs: (B, L, K) ln of the probabilities before they were coupled to a chain; None as above.
    """

    log_marginals: Tensor
    bonds: Bonds | None = None
    couplings: Tensor | None = None
    messages: Messages | None = None
    log_probs: Tensor | None = None

    @torch.no_grad()
    def draw(self, uniforms: Tensor, drawing: str = "batched") -> Tensor:
        """Outcomes (B, L) int64 from uniforms (B, L): jointly along a chain, else of each token by itself.

        Args:
            drawing: 'batched': all sequences at once, and all tokens where they are independent; 'sequential': one after the
                other, the reference for it, with the same outcomes.

        Raises:
            ConfigError: for another name.
        """
        check_name("drawing", drawing, DRAWINGS)
        if self.messages is None or self.couplings is None:
            probs = self.log_marginals.exp()
            if drawing == "batched":
                return draw(probs, uniforms)
            each = [draw(probs[b, i], uniforms[b, i]) for b in range(len(uniforms)) for i in range(uniforms.shape[1])]
            return uniforms.new_tensor(each, dtype=torch.int64).view(uniforms.shape)
        if drawing == "batched":
            return draw_chain(self.messages.right, self.couplings, uniforms)
        outcomes = torch.empty_like(uniforms, dtype=torch.int64)
        couplings = self.couplings.expand(len(uniforms), -1, -1, -1)
        for row in torch.arange(len(uniforms)).split(1):
            outcomes[row] = draw_chain(self.messages.right[row], couplings[row], uniforms[row])
        return outcomes

    def log_prob(self, outcomes: Tensor) -> Tensor:
        """ln of the joint probability, (B,), of outcomes (B, L); tokens with outcome -1 are summed over."""
        if self.log_probs is None or self.couplings is None or self.messages is None:
            found = self.log_marginals.gather(2, outcomes.clamp_min(0)[..., None]).squeeze(2)
            return found.masked_fill(outcomes < 0, 0.0).sum(dim=1)
        return chain_subset_log_prob(self.log_probs, self.couplings, outcomes, self.messages.log_norm)


class EntanglementCorrelation(Tagged):
    """Two-token gates exp(J), diagonal in the sense basis, on bonds between tokens; J = 0 leaves a product state.

    On a chain everything is exact (`qsr.qembed.chain`). On other graphs outcomes are drawn token by token, since exact
    sampling of a loopy graph is #P-hard, and the state of a bond is that of its two tokens alone.

    Args:
        num_states: K.
        correlation_type: 'bell_state': J = theta 1 with one learned theta (theta -> inf: sum_k |kk> / sqrt K); 'ghz_state':
            the same on the bonds inside groups of `ghz_size` neighbours; 'custom': a learned complex K x K matrix for each
            class of displacements.
        entanglement_strength: theta at the start, >= 0; custom matrices start at 0.1 of it times complex normal numbers.
        pairs: 'chain': neighbours in the sequence; 'grid:AxB': neighbours on A x B sites in row-major order; 'all'; or an
            int64 tensor (P, 2) of positions i < j.
        ghz_size: tokens in a group.
        max_range: for 'custom' on 'all' or given pairs: number of displacement classes j - i = 1, 2, ...; pairs that are
            farther apart belong to the last.
        generator: draws custom matrices; None: torch's global one.

    Attributes:
        layout: of the states of bonds on other graphs than a chain, while they are computed. 'sparse': a list of P bonds;
            'dense': all pairs of tokens, of which the bonds are then picked. The results are the same.
        frozen: couplings are constants: no gradient reaches them.

    Raises:
        ConfigError: for a value that is not understood or has no effect with the others.
    """

    roles: ClassVar[Mapping[str, str]] = {"coupling_theta": "coupling", "coupling_real": "coupling", "coupling_imag": "coupling"}
    given_pairs: Tensor | None

    def __init__(
        self,
        num_states: int,
        correlation_type: str = "bell_state",
        entanglement_strength: float = 0.5,
        pairs: str | Tensor = "chain",
        ghz_size: int = 4,
        max_range: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if num_states < 1:
            raise ConfigError(f"num_states={num_states}: must be at least 1")
        check_name("correlation_type", correlation_type, CORRELATION_TYPES)
        if not (math.isfinite(entanglement_strength) and entanglement_strength >= 0):
            raise ConfigError(f"entanglement_strength={entanglement_strength}: must be a finite number of at least 0")
        if ghz_size < 2:
            raise ConfigError(f"ghz_size={ghz_size}: must be at least 2")
        self.num_states, self.correlation_type, self.ghz_size = num_states, correlation_type, ghz_size
        self.grid = _grid(pairs) if isinstance(pairs, str) else None
        self.pairs = pairs if isinstance(pairs, str) else "given"
        self.register_buffer("given_pairs", None if isinstance(pairs, str) else _checked_pairs(pairs), persistent=False)
        if correlation_type == "ghz_state" and self.pairs != "chain":
            raise ConfigError(f"pairs={self.pairs!r}: ghz_state couples neighbours of a chain; write pairs='chain'")
        far = correlation_type == "custom" and self.pairs in ("all", "given")
        if max_range < 1 or (max_range > 1 and not far):
            expected = "at least 1" if far else "1, except for correlation_type='custom' on 'all' or given pairs"
            raise ConfigError(f"max_range={max_range}: must be {expected}")
        self.max_range = max_range
        self.layout = "sparse"
        self.frozen = False
        if correlation_type == "custom":
            shape = (2 if self.grid else max_range, num_states, num_states)
            scale = entanglement_strength * _CUSTOM_SCALE
            self.coupling_real = nn.Parameter(scale * torch.randn(shape, generator=generator))
            self.coupling_imag = nn.Parameter(scale * torch.randn(shape, generator=generator))
        else:
            self.coupling_theta = nn.Parameter(torch.tensor(float(entanglement_strength)))
        self.tag()

    @property
    def is_chain(self) -> bool:
        """Whether marginals, joint probabilities and draws are those of the entangled state."""
        return self.pairs == "chain"

    def bonds(self, length: int) -> Tensor:
        """(P, 2) int64 positions i < j of the bonds of L tokens.

        Raises:
            ConfigError: if grid or given pairs do not fit the length.
        """
        device = next(self.parameters()).device
        if self.pairs == "chain":
            first = torch.arange(length - 1, device=device)
            return torch.stack([first, first + 1], dim=1)
        if self.pairs == "all":
            return torch.triu_indices(length, length, 1, device=device).T
        if self.grid is not None:
            if self.grid[0] * self.grid[1] != length:
                raise ConfigError(f"pairs='{self.pairs}': has {self.grid[0] * self.grid[1]} sites; the input has {length} tokens")
            sites = torch.arange(length, device=device).view(self.grid)
            along = torch.stack([sites[:, :-1].flatten(), sites[:, 1:].flatten()], dim=1)
            across = torch.stack([sites[:-1].flatten(), sites[1:].flatten()], dim=1)
            return torch.cat([along, across])
        assert self.given_pairs is not None
        if len(self.given_pairs) and int(self.given_pairs.max()) >= length:
            raise ConfigError(f"pairs: position {int(self.given_pairs.max())} lies outside the input of {length} tokens")
        return self.given_pairs

    def couplings(self, bonds: Tensor) -> Tensor:
        """(P, K, K) J of bonds (P, 2), real or ('custom') complex, at least single precision."""
        found = self._couplings(bonds)
        return found.detach() if self.frozen else found

    def _couplings(self, bonds: Tensor) -> Tensor:
        if self.correlation_type != "custom":
            theta = at_least_single(self.coupling_theta)
            return (theta * torch.eye(self.num_states, dtype=theta.dtype, device=theta.device)).expand(len(bonds), -1, -1)
        matrices = torch.complex(at_least_single(self.coupling_real), at_least_single(self.coupling_imag))
        distance = bonds[:, 1] - bonds[:, 0]
        if self.grid is None:
            return matrices[distance.clamp_max(self.max_range) - 1]
        along = self.grid[0] * (self.grid[1] - 1)  # bonds along rows come first, also where both displacements are 1
        return matrices[(torch.arange(len(bonds), device=bonds.device) >= along).long()]

    def chain_couplings(self, length: int, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """J of a chain of L tokens, (B or 1, L-1, K, K), zero where there is no bond, and where there is one, (B or 1, L-1)."""
        bonds = self.bonds(length)
        there = self._there(bonds, mask)
        return self.couplings(bonds) * there[..., None, None], there

    def _there(self, bonds: Tensor, mask: Tensor | None) -> Tensor:
        """(B or 1, P) bool: both tokens are valid, and in one group."""
        same = torch.ones(1, len(bonds), dtype=torch.bool, device=bonds.device)
        if self.correlation_type == "ghz_state":
            groups = torch.div(bonds, self.ghz_size, rounding_mode="floor")
            same = (groups[:, 0] == groups[:, 1])[None]
        return same if mask is None else same & mask[:, bonds[:, 0]] & mask[:, bonds[:, 1]]

    def forward(self, log_probs: Tensor, mask: Tensor | None = None, causal: bool = False) -> Correlations:
        """Couple registers with outcome probabilities exp(log_probs), (B, L, K).

        Args:
            mask: (B, L) bool, the tokens that take part; None: all.
            causal: marginals of token i and the state of bond (i, i+1) are those of the chain cut after i and i+1: nothing
                depends on later tokens, and outcomes are drawn token by token.
        """
        with torch.autocast(log_probs.device.type, enabled=False):
            log_probs = at_least_single(log_probs)
            if self.is_chain:
                return self._chain(log_probs, mask, causal)
            pairs = self.bonds(log_probs.shape[1])
            there = self._there(pairs, mask).expand(len(log_probs), -1)
            couplings = self.couplings(pairs)[None] * there[..., None, None]
            return Correlations(log_probs, Bonds(self._bond_matrices(log_probs, couplings, pairs), there))

    def _bond_matrices(self, log_probs: Tensor, couplings: Tensor, pairs: Tensor) -> Tensor:
        """(B, P, K, K) states of pairs (P, 2) of tokens with J (B, P, K, K)."""
        check_name("layout", self.layout, LAYOUTS)
        first, second = pairs.unbind(dim=1)
        if self.layout == "sparse":
            return bond_matrix(log_probs[:, first], couplings, log_probs[:, second])
        length = log_probs.shape[1]
        place = pairs.new_zeros(length, length)  # 0: no bond
        place[first, second] = torch.arange(1, len(pairs) + 1, device=pairs.device)
        padded = nn.functional.pad(couplings, (0, 0, 0, 0, 1, 0))[:, place]
        return bond_matrix(log_probs[:, :, None], padded, log_probs[:, None])[:, first, second]

    def _chain(self, log_probs: Tensor, mask: Tensor | None, causal: bool) -> Correlations:
        couplings, there = self.chain_couplings(log_probs.shape[1], mask)
        there = there.expand(len(log_probs), -1)
        if causal:
            left, _ = left_messages(log_probs, couplings)
            matrices = bond_matrix(left[:, :-1], couplings, log_probs[:, 1:])
            return Correlations(left, Bonds(matrices, there))
        messages = chain_messages(log_probs, couplings)
        marginals = chain_marginals(messages, log_probs)
        bonds = Bonds(chain_bonds(messages, couplings), there)
        return Correlations(marginals, bonds, couplings, messages, log_probs)


def _grid(pairs: str) -> tuple[int, int] | None:
    """(A, B) of 'grid:AxB'; None for 'chain' and 'all'."""
    if pairs in ("chain", "all"):
        return None
    kind, _, size = pairs.partition(":")
    sides = size.split("x")
    if kind != "grid" or len(sides) != 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise ConfigError(f"pairs={pairs!r}: must be 'chain', 'all', 'grid:AxB' or an int64 tensor (P, 2)")
    return int(sides[0]), int(sides[1])


def _checked_pairs(pairs: Tensor) -> Tensor:
    if pairs.dtype != torch.int64 or pairs.dim() != 2 or pairs.shape[1] != 2:
        raise ConfigError(f"pairs: must be an int64 tensor (P, 2), found {pairs.dtype} of shape {tuple(pairs.shape)}")
    if bool((pairs < 0).any()) or bool((pairs[:, 0] >= pairs[:, 1]).any()):
        raise ConfigError("pairs: each row must hold two positions 0 <= i < j")
    return pairs.clone()
