"""Per-sample gradients of log p (and of the phase), put together layer by layer from one backward pass over a batch.

For a layer that is called on all rows at once, the gradient of sum_r log p(n_r) with respect to its output holds the
gradient of every sample in that sample's rows. Contracted with the layer's input, sample by sample, it is row r of the
Jacobian J = d log p(n_r) / d theta (Goodfellow, arXiv 1510.01799); what is needed is the layers' inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qsr.hparams import ConfigError
from qsr.samplers.base import CountedSampler, Sampler, networks_in
from qsr.samplers.heap import HEAP_SHARE, make_room
from qsr.training.layer_gradients import layer_gradients
from qsr.training.protocols import BatchKey
from qsr.training.random import seed_dropout

Function = Callable[..., Tensor]  # configs (R, N), and the context (R, C) of a conditioned sampler -> (R,)
Rows = tuple[Tensor, ...]  # what functions take

CHECKED_ROWS = 8
GRAPH_FACTOR = 3  # for a model that does not count its memory: its graph, over its parameters


@dataclass
class _Call:
    """One call of a module that owns parameters: what went in (detached) and what came out (in the graph)."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Tensor, ...]


class PerSampleGradients:
    """The Jacobian (F*R, P) of log p, and of the phase if the model has one (F = 1 or 2), over R configurations.

    Row f*R + r is the gradient of function f at configuration r; columns are the trainable parameters, flattened in the
    order of `model.named_parameters()`. It is made in blocks of columns, so that it is never held whole unless it fits.

    Every parameter must be used inside the forward pass of the module that owns it, on rows of which those of a sample
    are adjacent. This is checked against ordinary gradients on the first rows that come. A module with an attribute
    `differentiated_whole = True` owns all parameters inside it: its own forward pass is differentiated, not those of its parts.

    Args:
        model: a Sampler (`log_prob`, and `phase` where `has_phase`); its mode (dropout) is left as it is.
        memory_bytes: half of it is for a block, and what the block leaves for the intermediate results of a chunk of rows.
            One parameter and one row are the least that can be done at once.
    """

    def __init__(self, model: Any, memory_bytes: int) -> None:
        self.model = model
        self.memory_bytes = memory_bytes
        self.functions: list[Function] = [model.log_prob, *([model.phase] if model.has_phase else [])]
        named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.names = list(named)
        self.parameters = list(named.values())
        self.sizes = [parameter.numel() for parameter in self.parameters]
        self.num_parameters = sum(self.sizes)
        index = {id(parameter): position for position, parameter in enumerate(self.parameters)}
        # Which entry of `parameters` each module's own parameters are; the same one may be owned twice.
        self._owned: dict[nn.Module, dict[str, int]] = {}
        inside: set[nn.Module] = set()
        for module in model.modules():
            if module in inside:
                continue
            whole = getattr(module, "differentiated_whole", False)
            inside.update(module.modules() if whole else ())
            own = {name: index[id(value)] for name, value in module.named_parameters(recurse=whole) if id(value) in index}
            if own:
                self._owned[module] = own
        self._itemsize = max((parameter.element_size() for parameter in self.parameters), default=4)
        self._checked = False

    def groups(self, rows: int) -> list[range]:
        """Parameters, as ranges of positions, whose columns for `rows` configurations are held at once."""
        most = self.memory_bytes // (2 * self._itemsize * len(self.functions) * max(rows, 1))
        found, first, held = [], 0, 0
        for position, size in enumerate(self.sizes):
            if position > first and held + size > most:
                found.append(range(first, position))
                first, held = position, 0
            held += size
        return [*found, range(first, len(self.sizes))]

    def blocks(
        self, configs: Tensor, key: BatchKey, context: Tensor | None = None, held: int | None = None
    ) -> Iterator[tuple[slice, Tensor]]:
        """Columns of the Jacobian of configs (R, N) and their values (F*R, columns), one pass over the model for each.

        Args:
            key: seeds dropout, equally for every block.
            context: (R, C) of a conditioned sampler.
            held: rows for which there must be memory; default: R.

        Raises:
            ConfigError: for a model with parameters that are used outside the modules that own them.
        """
        rows = _rows(configs, context)
        if not self._checked:
            self._check(_part(rows, slice(CHECKED_ROWS)), key)
        for group in self.groups(len(configs) if held is None else held):
            first = sum(self.sizes[: group.start])
            # Not by a name: the caller's must be the only one, so that a block can go before the next is made.
            yield slice(first, first + self._width(group)), self._block(rows, key, group)

    def weighted_sum(self, configs: Tensor, coefficients: Tensor, key: BatchKey, context: Tensor | None = None) -> Tensor:
        """(P,) sum over rows of the Jacobian of configs (R, N), times `coefficients` (F*R,): an ordinary backward pass."""
        rows = _rows(configs, context)
        seed_dropout(key)
        total = self.parameters[0].new_zeros(self.num_parameters)
        per_function = coefficients.to(total.dtype).view(len(self.functions), -1)
        for part in self._chunks(len(configs)):
            for function, weights in zip(self.functions, per_function, strict=True):
                loss = (weights[part] * function(*_part(rows, part))).sum()
                if loss.requires_grad:
                    found = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
                    total += torch.cat([gradient.flatten() for gradient in found])
        return total

    def _width(self, group: range) -> int:
        return sum(self.sizes[group.start : group.stop])

    def _chunks(self, rows: int, group: range | None = None) -> Iterator[slice]:
        """Rows whose graph is held at once, for a group with their gradients of its parameters, beside the block of it."""
        graph = GRAPH_FACTOR * self.num_parameters * self._itemsize
        if isinstance(self.model, CountedSampler):
            graph = self.model.gradient_bytes(per_sample=group is not None)
        columns = 0 if group is None else self._width(group) * self._itemsize
        block = len(self.functions) * rows * columns
        chunk = max(1, int(HEAP_SHARE * (self.memory_bytes - block)) // (graph + columns))
        for first in range(0, rows, chunk):
            # The block is there already from the second chunk on; its pages are not in the heap unless it is small.
            make_room(min(chunk, rows) * (graph + columns) + block, self.memory_bytes)
            yield slice(first, min(first + chunk, rows))

    def _block(self, rows: Rows, key: BatchKey, group: range) -> Tensor:
        """(F*R, columns of the group)."""
        seed_dropout(key)
        shape = (len(self.functions), len(rows[0]), self._width(group))
        chunks = self._chunks(len(rows[0]), group)
        block = torch.empty(shape, dtype=self.parameters[group.start].dtype, device=rows[0].device)
        for part in chunks:
            for function, target in zip(self.functions, block, strict=True):
                values, calls = self._record(function, _part(rows, part), group)
                found = self._gradients(values, calls, group)
                torch.cat([self._column(found, position, values) for position in group], dim=1, out=target[part])
        return block.flatten(0, 1)

    def _column(self, found: dict[int, Tensor], position: int, values: Tensor) -> Tensor:
        """(R, numel) of one parameter; zeros if nothing depends on it."""
        if position in found:
            return found[position]
        return self.parameters[position].new_zeros(len(values), self.sizes[position])

    def _record(self, function: Function, rows: Rows, group: range) -> tuple[Tensor, list[_Call]]:
        """Values (R,) of a function, and the calls of the modules that own parameters of the group."""
        modules = [module for module, own in self._owned.items() if any(position in group for position in own.values())]
        with torch.enable_grad(), _recorded(modules) as calls:
            values = function(*rows)
        return values, calls

    def _gradients(self, values: Tensor, calls: list[_Call], group: range, keep_graph: bool = False) -> dict[int, Tensor]:
        """(R, numel) for the parameters of the group, by position; uses up the graph unless told to keep it."""
        outputs = [output for call in calls for output in call.outputs if output.requires_grad]
        if not outputs or not values.requires_grad:
            return {}
        gradients = iter(torch.autograd.grad(values.sum(), outputs, allow_unused=True, retain_graph=keep_graph))
        found: dict[int, Tensor] = {}
        for call in calls:
            arrived = [next(gradients) if output.requires_grad else None for output in call.outputs]
            if all(gradient is None for gradient in arrived):
                continue
            own = self._owned[call.module]
            parts = layer_gradients(call.module, call.args, call.kwargs, call.outputs, arrived, len(values), own)
            for name, part in parts.items():
                position = own[name]
                if position in group:
                    part = part.reshape(len(values), -1)
                    found[position] = found[position] + part if position in found else part
        return found

    def _check(self, rows: Rows, key: BatchKey) -> None:
        """Compare J^T v with an ordinary backward pass, for a v that tells the rows apart.

        Raises:
            ConfigError: if a parameter's gradient is missing or wrong.
        """
        # In the parameters' format: rounding must not hide what the check looks for.
        with networks_in(None, *([self.model] if isinstance(self.model, Sampler) else [])):
            self._checked = self._compare(rows, key)

    def _compare(self, rows: Rows, key: BatchKey) -> bool:
        """Whether all gradients were finite."""
        seed_dropout(key)
        finite = True
        everything = range(len(self.parameters))
        for function in self.functions:
            values, calls = self._record(function, rows, everything)
            if not values.requires_grad:
                continue
            found = self._gradients(values, calls, everything, keep_graph=True)
            weights = torch.arange(1, len(values) + 1, dtype=values.dtype, device=values.device).cos()
            expected = torch.autograd.grad(weights @ values, self.parameters, materialize_grads=True)
            for position, gradient in enumerate(expected):
                column = self._column(found, position, values)
                error = (weights @ column - gradient.flatten()).norm()
                size = (weights.abs() @ column.abs()).norm() + gradient.norm()
                finite = finite and bool(size.isfinite())
                # Written so that NaN passes: a run whose weights are not finite is the trainer's business.
                if error > 10 * torch.finfo(values.dtype).eps ** 0.5 * size:
                    raise ConfigError(
                        f"optimizer.name: natural gradients need the gradient of every sample, and that of "
                        f"{self.names[position]} cannot be collected: it is used outside the forward pass of its module, or "
                        f"on rows that are not those of the samples"
                    )
        return finite


def _rows(configs: Tensor, context: Tensor | None) -> Rows:
    return (configs,) if context is None else (configs, context)


def _part(rows: Rows, part: slice) -> Rows:
    return tuple(column[part] for column in rows)


@contextmanager
def _recorded(modules: list[nn.Module]) -> Iterator[list[_Call]]:
    """The calls of these modules, in order, while the context is open."""
    calls: list[_Call] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        outputs = output if isinstance(output, tuple) else (output,)
        tensors = tuple(part for part in outputs if isinstance(part, Tensor))
        calls.append(_Call(module, tuple(map(_detached, args)), {k: _detached(v) for k, v in kwargs.items()}, tensors))

    handles = [module.register_forward_hook(note, with_kwargs=True) for module in modules]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value
