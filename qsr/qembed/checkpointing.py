"""Activation checkpointing of a network: layers are computed again in the backward pass instead of kept in memory."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from qsr.qembed.embeddings import QuantumEmbeddings


def enable_checkpointing(model: nn.Module, on: bool = True) -> None:
    """Switch checkpointing of a network on or off; results and gradients stay what they are.

    A model with `gradient_checkpointing_enable` and `gradient_checkpointing_disable` is asked to do it itself. In others the
    quantum embeddings and the `nn.TransformerEncoderLayer`s are switched.
    """
    switch = getattr(model, f"gradient_checkpointing_{'enable' if on else 'disable'}", None)
    if switch is not None:
        switch()
        return
    for module in model.modules():
        if isinstance(module, QuantumEmbeddings):
            module.gradient_checkpointing = on
        elif isinstance(module, nn.TransformerEncoderLayer):
            _switch_layer(module, on)


def _switch_layer(layer: nn.TransformerEncoderLayer, on: bool) -> None:
    # On the instance, as a method: copies of the layer get one that is bound to themselves.
    if on:
        layer.forward = MethodType(_checkpointed, layer)  # type: ignore[method-assign]
    elif getattr(layer.forward, "__func__", None) is _checkpointed:
        del layer.forward


def _checkpointed(layer: nn.TransformerEncoderLayer, *args: Any, **kwargs: Any) -> Any:
    forward = type(layer).forward
    if not torch.is_grad_enabled():
        return forward(layer, *args, **kwargs)
    return checkpoint(forward, layer, *args, use_reentrant=False, **kwargs)
