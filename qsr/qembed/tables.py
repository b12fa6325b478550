"""Tables of V tokens: parameters, or sums of Kronecker products of which only the rows that are asked for are computed."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from qsr.hparams.base import ConfigError

_PRIOR_FLOOR = 1e-4  # of initial sense probabilities, so that superposition_strength=0 can still learn
_LOGIT_NOISE = 0.3
_TURN = 2 * math.pi


def initial_log_prior(states: int, strength: float) -> Tensor:
    """(K,) ln of the sense probabilities around which tokens start: the first sense, or all for `strength` 1."""
    prior = torch.full((states,), strength / states)
    prior[0] += 1 - strength
    return (prior + _PRIOR_FLOOR).log()


def token_tables(vocab_size: int, width: int, log_prior: Tensor) -> dict[str, nn.Parameter]:
    """Random tables of V tokens with K senses of C = `width` dimensions, by the names of `QuantumEmbeddings`."""
    states = len(log_prior)
    return {
        "amplitude_logits": nn.Parameter(log_prior + _LOGIT_NOISE * torch.randn(vocab_size, states)),
        "phases": nn.Parameter(_TURN * torch.rand(vocab_size, states)),
        "sense_real": nn.Parameter(torch.randn(vocab_size, states, width)),
        "sense_imag": nn.Parameter(torch.randn(vocab_size, states, width)),
    }


def factorised_tables(vocab_size: int, width: int, states: int, rank: int, order: int) -> dict[str, KroneckerTable]:
    """The same as Kronecker products, with logits around 0."""
    # Standard deviations of what stands above; angles of this width are spread over the whole circle.
    deviations = {"amplitude_logits": _LOGIT_NOISE, "phases": _TURN / 12**0.5, "sense_real": 1.0, "sense_imag": 1.0}
    columns = {name: states * width if name.startswith("sense") else states for name in deviations}
    return {name: KroneckerTable(vocab_size, columns[name], rank, order, size) for name, size in deviations.items()}


class KroneckerTable(nn.Module):
    """sum_{r=1..R} kron_{j=1..n} F_jr, (V, F), of leaves F_j (R, v, f) with v = ceil(V^(1/n)) and f = ceil(F^(1/n)).

    The first leaf holds the most significant digits of row and column. (word2ketXS: Panahi, Saeedi, Arodz, ICLR 2020,
    arXiv 1911.04975.)

    Args:
        deviation: standard deviation of the elements at the start.
        generator: draws the leaves; None: torch's global one.

    Raises:
        ConfigError: for a rank or order below 1.
    """

    def __init__(
        self, rows: int, columns: int, rank: int, order: int, deviation: float, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        for name, value in (("rank", rank), ("order", order)):
            if value < 1:
                raise ConfigError(f"{name}={value}: must be at least 1")
        self.columns = columns
        self.base, width = ceil_root(rows, order), ceil_root(columns, order)
        # The variance of a sum of R products of n factors is R s^(2n).
        scale = (deviation**2 / rank) ** (0.5 / order)
        leaves = (scale * torch.randn(rank, self.base, width, generator=generator) for _ in range(order))
        self.leaves = nn.ParameterList(nn.Parameter(leaf) for leaf in leaves)

    def forward(self, ids: Tensor) -> Tensor:
        """Rows (..., F) of ids (...) int64 in [0, V)."""
        found = None
        rest = ids
        for leaf in reversed(self.leaves):
            digit, rest = rest % self.base, torch.div(rest, self.base, rounding_mode="floor")
            part = leaf[:, digit]  # (R, ..., f)
            if found is None:
                found = part[..., : self.columns]
                continue
            # More significant digits of columns that the table does not have are left out.
            needed = -(-self.columns // found.shape[-1])
            found = (part[..., :needed, None] * found[..., None, :]).flatten(-2)[..., : self.columns]
        assert found is not None
        return found.sum(dim=0)

    def row_graph(self) -> int:
        """Numbers that autograd keeps of a row: the factors of its n - 1 products, for each of R terms."""
        rank, _, width = self.leaves[0].shape
        order = len(self.leaves)
        return rank * sum(min(width**digits, self.columns) + width for digits in range(1, order))


def ceil_root(number: int, order: int) -> int:
    """The smallest integer b with b^order >= number; floating-point roots miss it at exact powers."""
    base = max(1, round(number ** (1 / order)) - 1)
    while base**order < number:
        base += 1
    return base
