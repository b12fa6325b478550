"""The phase of psi = sqrt(p) exp(i phi): a feed-forward network over all sites, beside any sampler of p."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn


class PhaseNetwork(nn.Module):
    """phi(n) = w.s + MLP(s) in radians, s_i = 1 - 2 n_i, as in arXiv 2109.12606: p and phi have no weights in common.

    The linear part holds sign rules such as Marshall's, w_i = pi/2 on one sublattice, which a network alone learns slowly. All
    starts as torch's layers do, about half a radian in all: at phi = 0 the gradient of the energy of a real Hamiltonian with
    respect to phi vanishes, and a start from w = 0 takes twice as many steps.

    Args:
        num_sites: N.
        width: H, of the hidden layers.
        num_layers: hidden layers, at least one.
        context_size: width C of what phi is conditioned on, beside p; None for nothing.
    """

    def __init__(self, num_sites: int, width: int, num_layers: int, context_size: int | None = None) -> None:
        super().__init__()
        self.width, self.num_layers = width, num_layers
        self.linear = nn.Linear(num_sites, 1, bias=False)
        self.first = nn.Linear(num_sites, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(num_layers - 1))
        self.out = nn.Linear(width, 1, bias=False)  # a constant is a global phase
        self.context = None if context_size is None else nn.Linear(context_size, width, bias=False)

    def forward(self, configs: Tensor, context: Tensor | None = None) -> Tensor:
        """(B,) phases of configs (B, N), in the format of the parameters also where autocast is on."""
        with torch.autocast(configs.device.type, enabled=False):
            spins = self._spins(configs)
            return self.linear(spins).squeeze(-1) + self._rest(self._enter(spins, context))

    def change(self, configs: Tensor, masks: Tensor, context: Tensor | None = None, memory_bytes: int = 2**30) -> Tensor:
        """(B, M) phi(configs XOR mask) - phi(configs) for masks (M, N) bool; without gradient.

        The first layer sees the flipped sites only; the others are evaluated for all flips, a part of them at a time.
        """
        with torch.no_grad(), torch.autocast(configs.device.type, enabled=False):
            spins = self._spins(configs)
            entered = self._enter(spins, context)
            base = self._rest(entered)
            sites, inside = _flipped_sites(masks)
            result = spins.new_empty(len(configs), len(masks))
            for rows, flips in self._chunks(len(configs), len(masks), memory_bytes):
                step = -2 * spins[rows][:, sites[flips]] * inside[flips]  # (b, m, w)
                columns = self.first.weight.T[sites[flips]]  # (m, w, H)
                entering = torch.bmm(step.transpose(0, 1), columns).transpose(0, 1)  # (b, m, H)
                turned = torch.einsum("bmw,mw->bm", step, self.linear.weight[0, sites[flips]])
                result[rows, flips] = turned + self._rest(entering + entered[rows, None]) - base[rows, None]
            return result

    def graph_bytes(self) -> int:
        """Of a row while it is differentiated: each layer's input and output, and the gradients of all its weights."""
        return (3 * self.num_layers * self.width + 2 * self.first.in_features) * self.first.weight.element_size()

    def _chunks(self, rows: int, flips: int, memory_bytes: int) -> Iterator[tuple[slice, slice]]:
        """Configurations and flips that are worked on at once: four layers of numbers for each pair."""
        pairs = max(1, memory_bytes // (4 * self.width * self.first.weight.element_size()))
        height = max(1, pairs // max(1, flips))
        for first in range(0, rows, height):
            for begin in range(0, flips, pairs):
                yield slice(first, first + height), slice(begin, begin + pairs)

    def _spins(self, configs: Tensor) -> Tensor:
        return 1 - 2 * configs.to(self.first.weight.dtype)

    def _enter(self, spins: Tensor, context: Tensor | None) -> Tensor:
        """(B, H) what goes into the first nonlinearity."""
        entered: Tensor = self.first(spins)
        if self.context is not None:
            assert context is not None, "this phase was built with a context"
            entered = entered + self.context(context.to(entered.dtype))
        return entered

    def _rest(self, entered: Tensor) -> Tensor:
        """(...) from (..., H): everything after the first layer's sums."""
        x = entered.tanh()
        for layer in self.hidden:
            x = layer(x).tanh()
        return self.out(x).squeeze(-1)


def _flipped_sites(masks: Tensor) -> tuple[Tensor, Tensor]:
    """(M, w) the sites that each mask flips, filled up with others, and whether each one is flipped; w is the most of any."""
    most = max(1, int(masks.sum(dim=1).max())) if len(masks) else 1
    inside, sites = masks.to(torch.uint8).topk(most, dim=1)
    return sites, inside
