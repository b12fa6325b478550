"""Going on with less memory where what a budget allows is not there."""

from __future__ import annotations

import gc
import logging
import re
from collections.abc import Callable
from typing import TypeVar

import torch

from qsr.samplers.heap import empty_heap
from qsr.training.protocols import RunFailed

logger = logging.getLogger(__name__)

LEAST_MEMORY = 2**20  # bytes; where these are too many it is not the chunks that do not fit
# What is no MemoryError: torch's allocator on the CPU, and cuBLAS, raise plain RuntimeErrors.
_SAID = re.compile(r"DefaultCPUAllocator|not enough memory|bad_alloc|ALLOC_FAILED|out of memory", re.IGNORECASE)

Result = TypeVar("Result")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python asked for memory that is not there."""
    if isinstance(error, RunFailed):  # which has said so already
        return False
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(_SAID.search(str(error))))


def less_memory(memory_bytes: int, hint: str) -> int:
    """Half of a budget that was not there, after giving back what is free.

    Args:
        hint: what a user can make smaller.

    Raises:
        RunFailed: if half would be below `LEAST_MEMORY`.
    """
    gc.collect()  # what failed may hang in cycles with its graph
    empty_heap()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    half = memory_bytes // 2
    if half < LEAST_MEMORY:
        raise RunFailed(f"out of memory, also with train.memory_MiB={memory_bytes / 2**20:g}: {hint}")
    return half


class MemoryBudget:
    """A budget for intermediate results, halved whenever it turns out not to be there; results change by rounding only.

    Args:
        memory_MiB: as `train.memory_MiB`.
        hint: what a user can make smaller.

    Attributes:
        bytes: what it is now.
    """

    def __init__(self, memory_MiB: int, hint: str) -> None:
        self.bytes = memory_MiB * 2**20
        self.hint = hint

    def run(self, work: Callable[[int], Result]) -> Result:
        """work(bytes), again with half of them if the memory is not there.

        Raises:
            RunFailed: if it is not there for chunks of `LEAST_MEMORY` either.
        """
        while True:
            try:
                return work(self.bytes)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside of the handler, whose traceback holds the tensors of the work.
            self.bytes = less_memory(self.bytes, self.hint)
            logger.warning("out of memory; again with train.memory_MiB=%g", self.bytes / 2**20)
