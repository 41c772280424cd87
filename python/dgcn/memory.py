"""What the C library does with the memory that this process frees."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
"""Parameters of mallopt(3)."""


def keep_freed_memory() -> None:
    """Make the C library keep what is freed for the next allocation, and not return it to the system at once.

    Torch allocates what a network computes on a CPU anew for every picture. glibc returns blocks of this size to the
    system, which hands out zeroed pages in their place: on two cores that takes a quarter of the time of the model that
    ships with dgcn, and a sixth of a step of its training. The process stays as large as its largest picture or batch
    made it. Every command of dgcn calls this as it starts; a program of your own calls it before it starts threads.

    Does nothing where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(_M_TRIM_THRESHOLD, -1)  # never
        mallopt(_M_MMAP_MAX, 0)  # no block is mapped, and so unmapped, on its own
        mallopt(_M_ARENA_MAX, 1)  # the arenas of other threads than the first return memory all the same
