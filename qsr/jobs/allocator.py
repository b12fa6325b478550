"""The C library's memory allocator, tuned for the many large, short-lived tensors of local energies."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of glibc's malloc.h
_LARGEST_MMAP_THRESHOLD = 32 * 2**20


@cache
def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next tensors instead of returning it to the system after each.

    Fetching it back, page by page, takes up to a third of the time of the flips of a small network. Where the pages kept would
    exceed a memory budget, `qsr.samplers.heap` gives them back. Elsewhere than on glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
