"""A process's memory, by way of glibc: what stays with it, and what goes back to the system.

By default large blocks are mapped one by one and go back at once, and small ones stay with the thread that freed them.
A training step wants the former kept: it would wait for fresh pages each time, a third of the time of a small network's
epoch. A server wants the latter back: after a load of 16 connections 20 MB of 154 were kept. It wants the code back
too that only its start needed, 20 MB of 131 (all: docs/log.md).

Elsewhere than on Linux with glibc nothing happens. Constants are those of malloc.h and mman.h.
"""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_MADV_DONTNEED, _MADV_HUGEPAGE = 4, 14
_HUGE_PAGE = 2**21
# Of the heap, that may come in huge pages: address space, of which only what is used is memory.
_AHEAD = 2**30

# A file's code in /proc/self/maps, whose number (inode) is not 0: nothing is ever written there, so that what is
# dropped comes back from the file unchanged.
_CODE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r-xp [0-9a-f]+ \S+ [1-9]\d*\s+/(?!.*\(deleted\)$)")


def keep_freed_memory() -> None:
    """From now on nothing goes back; for the main thread, before others allocate much.

    The system is told that the heap's next GiB may come in huge pages, which made steps 1 to 7 % faster.
    """
    _call("mallopt", _M_MMAP_MAX, 0)
    _call("mallopt", _M_TRIM_THRESHOLD, 2**31 - 1)
    block = _call("malloc", ctypes.c_size_t(_AHEAD), result=ctypes.c_void_p)
    if block is not None:
        start = -(-block // _HUGE_PAGE) * _HUGE_PAGE
        length = block + _AHEAD - _HUGE_PAGE - start
        _call("madvise", ctypes.c_void_p(start), ctypes.c_size_t(length), _MADV_HUGEPAGE)
        _call("free", ctypes.c_void_p(block), result=None)


def share_arena() -> None:
    """One heap for all threads; to be called before there are any."""
    _call("mallopt", _M_ARENA_MAX, 1)


def give_back() -> None:
    """What is free now goes back to the system."""
    _call("malloc_trim", 0)


def drop_code() -> None:
    """Takes the pages of all libraries' code from this process; those that it still runs come back, from the system's
    cache of files, within milliseconds."""
    maps = Path("/proc/self/maps")
    if maps.exists():
        for line in maps.read_text().splitlines():
            if found := _CODE.match(line):
                start, end = (int(group, 16) for group in found.groups())
                _call("madvise", ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)


def _call(name: str, *arguments: int | ctypes.c_void_p | ctypes.c_size_t, result: Any = ctypes.c_int) -> Any:
    """None where there is no such function."""
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    if function is None:
        return None
    function.restype = result
    return function(*arguments)
