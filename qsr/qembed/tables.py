"""A table of V rows stored as a sum of Kronecker products, of which only the rows that are asked for are computed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qsr.hparams.base import ConfigError


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
