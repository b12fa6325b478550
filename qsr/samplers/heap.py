"""Giving memory that was freed back to the system, where keeping it would be more than a budget allows.

Tensors above 32 MiB go back by themselves. Smaller ones leave their pages in the C library's heap, for the next ones
(`qsr.jobs.allocator`): what flips have left there and the large tensors of a gradient add up.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

# Of a memory that a graph may fill: tensors of many sizes that come and go leave gaps in the heap between them.
HEAP_SHARE = 0.75


class _Counts(ctypes.Structure):
    """struct mallinfo2 of glibc's malloc.h."""

    _names_ = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = [(name, ctypes.c_size_t) for name in _names_]


@cache
def _glibc() -> Any:
    """The C library, if it is a glibc of 2.33 or newer."""
    library = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if library is None or not hasattr(library, "mallinfo2") or not hasattr(library, "malloc_trim"):
        return None
    library.mallinfo2.restype = _Counts
    return library


def empty_heap() -> None:
    """Give all that lies free back to the system; on other C libraries nothing happens."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def make_room(needed: int, memory_bytes: int) -> None:
    """Before work that takes `needed` bytes: empty the heap if that and what lies free there exceed the memory.

    Small work never pays for it, and results do not depend on it. On other C libraries nothing happens.
    """
    library = _glibc()
    if library is not None and library.mallinfo2().fordblks + needed > memory_bytes:
        library.malloc_trim(0)
