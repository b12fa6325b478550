"""One sampler for a whole phase diagram: p(n | lambda), lambda the parameters of the Hamiltonian of every sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qsr.hamiltonians.family import checked_point
from qsr.hparams.base import ConfigError
from qsr.hparams.ranges import Range
from qsr.samplers.base import DEFAULT_MEMORY_BYTES, AutoregressiveSampler
from qsr.samplers.flips import Window

BASE = "base."
FIRST_LAYER = "parameter_network.0"


def parameter_network(num_parameters: int, width: int) -> nn.Module:
    """(B, P) parameters in [-1, 1] to contexts (B, `width`): Linear-GELU-Linear, twice as wide inside."""
    return nn.Sequential(nn.Linear(num_parameters, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


class ConditionedSampler(AutoregressiveSampler):
    """A sampler whose context (B, P) are the values of the ranges, one column for each, in the unit of the Hamiltonian.

    They are scaled to [-1, 1] and go through a small network, whose output is the context of the sampler inside. States that
    read the parameters of their Hamiltonian: R. Rende et al., "Foundation neural-network quantum states", arXiv 2502.09488.

    Args:
        base: a sampler that was built with a context.
        network: makes that context.
        ranges: by name, in the order of the columns.
        point: (P,) values for calls without a context; None: they are refused.
    """

    point: Tensor | None

    def __init__(
        self, base: AutoregressiveSampler, network: nn.Module, ranges: Mapping[str, Range], point: Tensor | None = None
    ) -> None:
        super().__init__(base.lattice, base.token_sites, base.local_dim)
        self.base, self.parameter_network, self.ranges = base, network, dict(ranges)
        self.replaces_together, self.replaces_pairs = base.replaces_together, base.replaces_pairs
        self.has_phase = base.has_phase
        self.point = point

    def at(self, **values: float) -> ConditionedSampler:
        """The sampler of one Hamiltonian, which needs no context; it shares its weights with this one.

        Raises:
            ConfigError: for a name that is no range, a range without a value, and a value outside its range.
        """
        chosen = checked_point(self.ranges, values)
        point = torch.tensor(list(chosen.values()), dtype=torch.float64, device=self.device)
        made = ConditionedSampler(self.base, self.parameter_network, self.ranges, point)
        made.autocast_dtype = self.autocast_dtype
        return made.train(self.training)

    # --- what the sampler inside does, with the context that the network makes ----------------------------------------

    def prefill(self, tokens: Tensor, context: Tensor | None = None) -> tuple[Tensor, Any]:
        return self.base.prefill(tokens, self._inner(len(tokens), context))

    def extend(self, state: Any, tokens: Tensor) -> tuple[Tensor, Any]:
        return self.base.extend(state, tokens)

    def replace(self, state: Any, tokens: Tensor, start: int, values: Tensor, offsets: Window) -> Tensor:
        return self.base.replace(state, tokens, start, values, offsets)

    def replace_each(self, state: Any, tokens: Tensor, start: int, values: Tensor, offsets: Window) -> Tensor:
        return self.base.replace_each(state, tokens, start, values, offsets)

    def replace_pairs(self, state: Any, begin: int, rows: Tensor, starts: Tensor, values: Tensor) -> Tensor:
        return self.base.replace_pairs(state, begin, rows, starts, values)

    def phase(self, configs: Tensor, context: Tensor | None = None) -> Tensor:
        return self.base.phase(configs, self._inner(len(configs), context))

    def flip_phase(
        self, configs: Tensor, masks: Tensor, context: Tensor | None = None, memory_bytes: int = DEFAULT_MEMORY_BYTES
    ) -> Tensor:
        with torch.no_grad():
            inner = self._inner(len(configs), context)
        return self.base.flip_phase(configs, masks, inner, memory_bytes)

    def resized_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        inside = {name.removeprefix(BASE): tensor for name, tensor in weights.items() if name.startswith(BASE)}
        resized = {BASE + name: tensor for name, tensor in self.base.resized_weights(inside).items()}
        return {**weights, **resized}

    # --- choices and memory: those of the sampler inside --------------------------------------------------------------

    def windows(self) -> list[Window]:
        return self.base.windows()

    def replaced_tokens(self, offsets: Window) -> int:
        return self.base.replaced_tokens(offsets)

    def gradient_bytes(self, per_sample: bool = False) -> int:
        return self.base.gradient_bytes(per_sample)

    def row_bytes(self, length: int, alone: bool = False) -> int:
        return self.base.row_bytes(length, alone)

    def window_bytes(self, window: Window) -> int:
        return self.base.window_bytes(window)

    def pair_bytes(self, length: int) -> int:
        return self.base.pair_bytes(length)

    def prefix_bytes(self, length: int) -> int:
        return self.base.prefix_bytes(length)

    def state_bytes(self, shortcut: bool = False) -> int:
        return self.base.state_bytes(shortcut)

    def pass_bytes(self) -> int:
        return self.base.pass_bytes()

    def graph_bytes(self, per_sample: bool = False) -> int:
        return self.base.graph_bytes(per_sample)

    def sample_bytes(self) -> int:
        return self.base.sample_bytes()

    def _inner(self, rows: int, context: Tensor | None) -> Tensor:
        """(B, C) the context of the sampler inside."""
        if context is None:
            if self.point is None:
                box = " ".join(f"{name}={found}" for name, found in self.ranges.items())
                example = ", ".join(f"{name}={found.middle:g}" for name, found in self.ranges.items())
                raise ConfigError(f"this model is for all Hamiltonians with {box}: choose one, model.at({example})")
            context = self.point.to(self.device).expand(rows, -1)
        # No buffers: `module.to(float32)` would round the ends, and a small range of large numbers is to keep its digits.
        ends = [[found.low, found.high] for found in self.ranges.values()]
        low, high = torch.tensor(ends, dtype=torch.float64, device=context.device).unbind(dim=1)
        scaled = (2 * context - low - high) / (high - low)
        made: Tensor = self.parameter_network(scaled.to(self.dtype))
        return made


def rescaled_weights(weights: Mapping[str, Tensor], old: Mapping[str, Range], new: Mapping[str, Range]) -> dict[str, Tensor]:
    """Weights of a `ConditionedSampler` over some ranges as those of the same function of the parameters over others.

    What was a in [-1, 1] is r a' + o with the a' of the new ranges, which the first layer takes up.
    """
    pairs = [(old[name], new[name]) for name in old]
    ratio, offset = (
        torch.tensor(numbers, dtype=torch.float64)
        for numbers in (
            [(b.high - b.low) / (a.high - a.low) for a, b in pairs],
            [2 * (b.middle - a.middle) / (a.high - a.low) for a, b in pairs],
        )
    )
    weight, bias = (weights[f"{FIRST_LAYER}.{name}"] for name in ("weight", "bias"))
    return {
        **weights,
        f"{FIRST_LAYER}.weight": (weight * ratio).to(weight.dtype),
        f"{FIRST_LAYER}.bias": (bias + weight.double() @ offset).to(bias.dtype),
    }
