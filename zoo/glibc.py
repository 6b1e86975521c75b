"""glibc's memory: what a process has freed stays with it, or goes back to the system.

By default large blocks are mapped one by one and go back at once, and small ones stay with the thread that freed them.
A training step wants the former kept: it would wait for fresh pages each time, a third of the time of a small network's
epoch. A server wants the latter back: after a load of 16 connections 20 MB of 154 were kept (both: docs/log.md).

With another C library nothing happens. Constants are those of glibc's malloc.h.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """From now on nothing goes back."""
    _call("mallopt", _M_MMAP_MAX, 0)
    _call("mallopt", _M_TRIM_THRESHOLD, 2**31 - 1)


def share_arena() -> None:
    """One heap for all threads; to be called before there are any."""
    _call("mallopt", _M_ARENA_MAX, 1)


def give_back() -> None:
    """What is free now goes back to the system."""
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    if function is not None:
        function(*arguments)
