"""Per-sample gradients of a layer's parameters, from its inputs and the gradients of its outputs: a rule for each kind.

Everywhere a layer runs on B = R*k rows, the k rows of a sample adjacent (LPTF's subsampler has k large patches per
sample), and a rule returns (R, *shape) for each parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

from qsr.hparams import ConfigError

Gradients = dict[str, Tensor]

RECURRENT = (nn.GRU, nn.RNN)


@torch.no_grad()
def layer_gradients(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    outputs: tuple[Tensor, ...],
    arrived: Sequence[Tensor | None],
    rows: int,
    names: Collection[str],
) -> Gradients:
    """Gradients (R, *shape) of the parameters that a module owns itself, for one call of it.

    Args:
        args, kwargs: what it was called with.
        outputs: what came out, (B, ...) each.
        arrived: gradients of the outputs; None for an output that nothing depends on.
        rows: number of samples R.
        names: its own parameters that are trained, `part.name` for one of a part of it.

    Raises:
        ConfigError: for a module that has no rule and cannot be differentiated row by row.
    """
    kind = type(module)  # exactly: a subclass may have another forward
    dtype = next(module.parameters()).dtype  # its own come first
    # Under autocast what went in and came out is rounded; the products of this module are not.
    args, outputs, arrived = (tuple(_in_format(value, dtype) for value in values) for values in (args, outputs, arrived))
    gradient = arrived[0]
    if kind in RECURRENT and not kwargs:
        found = _recurrent(module, args, outputs[0], arrived, rows)
    elif gradient is None or len(arrived) != 1:
        raise _refusal(module, "it has more than one output")
    elif len(gradient) % rows:
        raise _refusal(module, f"it gives {len(gradient)} rows for {rows} samples")
    elif kind in RULES and not kwargs:
        found = RULES[kind](module, args[0], gradient, rows)
    else:
        try:
            found = _any_module(module, args, kwargs, gradient, rows, names)
        except RuntimeError as error:  # what torch.func cannot vectorise
            raise _refusal(module, str(error)) from None
    return {name: part for name, part in found.items() if name in names}


def _in_format(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _refusal(module: nn.Module, reason: str) -> ConfigError:
    return ConfigError(
        f"optimizer.name: no per-sample gradients, and so no natural gradient, of {type(module).__name__}: {reason}"
    )


def _samples(x: Tensor, rows: int) -> Tensor:
    """(B, ..., C) as (R, B/R * ..., C)."""
    return x.reshape(rows, -1, x.shape[-1])


def _linear(module: Any, x: Tensor, gradient: Tensor, rows: int) -> Gradients:
    gradient = _samples(gradient, rows)
    return {"weight": gradient.transpose(1, 2) @ _samples(x, rows), "bias": gradient.sum(dim=1)}


def _embedding(module: Any, tokens: Tensor, gradient: Tensor, rows: int) -> Gradients:
    # One long table, a stretch of it for every sample.
    tokens = tokens.reshape(rows, -1)
    gradient = _samples(gradient, rows)
    place = tokens + module.num_embeddings * torch.arange(rows, device=tokens.device)[:, None]
    table = gradient.new_zeros(rows * module.num_embeddings, gradient.shape[-1])
    table.index_add_(0, place.flatten(), gradient.flatten(0, 1))
    table = table.view(rows, module.num_embeddings, -1)
    if module.padding_idx is not None:
        table[:, module.padding_idx] = 0
    return {"weight": table}


def _layer_norm(module: Any, x: Tensor, gradient: Tensor, rows: int) -> Gradients:
    shape = module.normalized_shape
    scaled = gradient * layer_norm(x, shape, eps=module.eps)
    return {"weight": scaled.reshape(rows, -1, *shape).sum(dim=1), "bias": gradient.reshape(rows, -1, *shape).sum(dim=1)}


def _recurrent(module: Any, args: tuple[Any, ...], hidden: Tensor, arrived: Sequence[Tensor | None], rows: int) -> Gradients:
    """Back-propagation through time for x (B, T, I) and hidden (B, T, H), of nn.GRU and nn.RNN as in their documentation.

    With G gates, a = W_ih x + b_ih and c = W_hh h' + b_hh (h' the hidden state before) are (B, T, G*H). All hidden states
    are known, so everything is a product with dL/dh_t but the recursion for that itself.
    """
    if module.num_layers != 1 or not module.batch_first or module.bidirectional or module.proj_size:
        raise _refusal(module, "it must be a single layer with batch_first, in one direction and without projection")
    x, initial = args[0], args[1] if len(args) > 1 and args[1] is not None else hidden.new_zeros(1, len(hidden), hidden.shape[2])
    hidden = hidden.detach()
    previous = torch.cat([initial[0][:, None], hidden[:, :-1]], dim=1)
    weight = module.weight_hh_l0
    gated = isinstance(module, nn.GRU)
    if gated:
        a = linear(x, module.weight_ih_l0, module.bias_ih_l0 if module.bias else None).chunk(3, dim=-1)
        c = linear(previous, weight, module.bias_hh_l0 if module.bias else None).chunk(3, dim=-1)
        reset, update = (a[0] + c[0]).sigmoid(), (a[1] + c[1]).sigmoid()
        new = (a[2] + reset * c[2]).tanh()
        by_new = (1 - update) * (1 - new.square())
        by_update = (previous - new) * update * (1 - update)
        by_reset = by_new * c[2] * reset * (1 - reset)
        # h = (1 - update)*new + update*h': how h depends on h' directly, on a and on c.
        direct: Tensor | None = update
        by_a = torch.stack([by_reset, by_update, by_new], dim=2)  # (B, T, G, H)
        by_c = torch.stack([by_reset, by_update, by_new * reset], dim=2)
    else:
        direct = None
        slope = 1 - hidden.square() if module.nonlinearity == "tanh" else (hidden > 0).to(hidden.dtype)
        by_a = by_c = slope[:, :, None]
    carried = torch.zeros_like(hidden[:, 0]) if arrived[1] is None else arrived[1][0]
    total = torch.zeros_like(hidden) if arrived[0] is None else arrived[0].clone()  # becomes dL/dh_t
    for t in reversed(range(hidden.shape[1])):
        now = total[:, t].add_(carried)
        carried = (by_c[:, t] * now[:, None]).flatten(1) @ weight
        if direct is not None:
            carried += direct[:, t] * now
    a_gradient, c_gradient = (_samples((by * total[:, :, None]).flatten(2), rows) for by in (by_a, by_c))
    return {
        "weight_ih_l0": a_gradient.transpose(1, 2) @ _samples(x, rows),
        "weight_hh_l0": c_gradient.transpose(1, 2) @ _samples(previous, rows),
        "bias_ih_l0": a_gradient.sum(dim=1),
        "bias_hh_l0": c_gradient.sum(dim=1),
    }


def _any_module(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], gradient: Tensor, rows: int, names: Collection[str]
) -> Gradients:
    """Reverse-mode differentiation of the module, vectorised over samples; what is not (B, ...) is shared by all."""
    parameters = {name: module.get_parameter(name) for name in names}
    values = [*args, *kwargs.values()]
    batch = len(gradient)
    split = [index for index, value in enumerate(values) if isinstance(value, Tensor) and value.shape[:1] == (batch,)]

    def one(cotangent: Tensor, *inputs: Tensor) -> Gradients:
        given = list(values)
        for index, value in zip(split, inputs, strict=True):
            given[index] = value
        again = dict(zip(kwargs, given[len(args) :], strict=True))

        def forward(replaced: Gradients) -> Tensor:
            result = torch.func.functional_call(module, replaced, tuple(given[: len(args)]), again)
            only: Tensor = result[0] if isinstance(result, tuple) else result  # beside what is not a tensor
            return only

        found: Gradients = torch.func.vjp(forward, parameters)[1](cotangent)[0]
        return found

    def per_sample(value: Tensor) -> Tensor:
        return value.reshape(rows, batch // rows, *value.shape[1:])

    result: Gradients = torch.func.vmap(one)(per_sample(gradient), *(per_sample(values[index]) for index in split))
    return result


RULES: dict[type[nn.Module], Callable[[Any, Tensor, Tensor, int], Gradients]] = {
    nn.Linear: _linear,
    nn.Embedding: _embedding,
    nn.LayerNorm: _layer_norm,
}
