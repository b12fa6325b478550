"""Parts of a data set of graphs, with no sample, or no state, in two of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qsr.hparams.base import ConfigError
from qsr.training.random import generator_for

SPLIT = (0.8, 0.1, 0.1)  # training, validation and test data
_PARTS = ("train", "validation", "test")


def split_indices(count: int, split: Sequence[float], seed: int, groups: NDArray[Any] | None = None) -> list[NDArray[np.int64]]:
    """Numbers of the samples in each part: of n units ceil(n s_0) are training data, floor(n s_1) validation data.

    Groups are few: a part whose share is less than one of them takes one from the largest part.

    Args:
        groups: (count,) what must stay together; None: every sample is a unit of its own.

    Raises:
        ConfigError: for shares that do not add up to one, and for an empty part.
    """
    check_split(split)
    names, members = (np.arange(count),) * 2 if groups is None else np.unique(groups, return_inverse=True)
    total = len(names)
    # 10 * 0.7 is a little more than 7, which is not to become 8.
    sizes = [math.ceil(total * split[0] - 1e-9), *(math.floor(total * share + 1e-9) for share in split[1:-1])]
    sizes.append(total - sum(sizes))
    while groups is not None and 0 in sizes and max(sizes) > 1:
        sizes[sizes.index(max(sizes))] -= 1
        sizes[sizes.index(0)] += 1
    for part, size in zip(_PARTS, sizes, strict=False):
        if size <= 0:
            units = "samples" if groups is None else "groups"
            raise ConfigError(f"data.split={list(split)}: {part} size cannot be 0; there are {total} {units} to split")
    order = torch.randperm(total, generator=generator_for("cpu", seed, "split")).numpy()
    parts = np.split(order, np.cumsum(sizes)[:-1])
    if groups is None:
        return parts
    return [np.flatnonzero(np.isin(members, part)) for part in parts]


def check_split(split: Sequence[float]) -> None:
    """Raises ConfigError for anything but two or three shares that add up to one."""
    if len(split) not in (2, 3) or any(not share > 0 for share in split):
        raise ConfigError(f"data.split={list(split)}: must be two or three shares greater than 0")
    if not math.isclose(sum(split), 1, rel_tol=1e-5):
        raise ConfigError(f"data.split: Split ratios must sum to 1.0. Provided split: {list(split)}")
