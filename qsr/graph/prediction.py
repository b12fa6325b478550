"""A network on loaders of graphs: its outputs for all of them, and whether it takes the first batch at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from qsr.graph.learner import GraphLearner
from qsr.hparams import ConfigError
from qsr.training.random import forked_generators
from qsr.training.supervised import LoaderSource, moved
from qsr.training.trainer import cuda_devices

# What a network, a criterion or torch says of inputs that do not fit.
_MISFITS = (RuntimeError, IndexError, KeyError, TypeError, ValueError, AttributeError)


def outputs_of(learner: GraphLearner, loader: Iterable[Any]) -> dict[str, Tensor]:
    """What a network returns for the graphs of a loader, in its order, on the CPU; the network is in evaluation mode afterwards.

    Returns:
        (S, ...) of each task, by its name or number as text; "0" for a network that returns one tensor.

    Raises:
        ConfigError: for a loader without batches, and outputs that are not tensors.
    """
    learner.eval()
    found: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for batch in loader:
            outputs = learner(moved(batch, learner))
            named = outputs if isinstance(outputs, Mapping) else dict(enumerate(_listed(outputs)))
            for name, values in named.items():
                if not isinstance(values, Tensor):
                    raise ConfigError(f"model: predictions need outputs that are tensors, found {type(values).__name__}")
                found.setdefault(str(name), []).append(values.cpu())
    if not found:
        raise ConfigError("predict: the loader has no batches")
    return {name: torch.cat(parts) for name, parts in found.items()}


def check_first_batch(learner: GraphLearner, source: LoaderSource) -> None:
    """Try the network and its loss on one batch, as an evaluation would: sizes that do not fit show before there is any work.

    Raises:
        ConfigError: if that fails, with what torch says of it.
    """
    with forked_generators(cuda_devices(learner)), torch.no_grad():
        batch = moved(next(iter(source.seeded(0))), learner)
        learner.eval()
        try:
            learner.compute_metrics(batch, 0)
        except ConfigError:
            raise
        except _MISFITS as error:
            parts = {name: getattr(batch, name, None) for name in ("x", "edge_index", "edge_attr", "y")}
            shapes = ", ".join(f"{name} {tuple(part.shape)}" for name, part in parts.items() if isinstance(part, Tensor))
            said = f"{type(error).__name__}: {error}"
            raise ConfigError(f"model, criterion: fail on the first batch of training data ({shapes}): {said}") from error


def _listed(outputs: Any) -> list[Any]:
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
