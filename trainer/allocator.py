"""The C library's allocator, told to keep the memory that a training step frees: the next step wants as much again.

glibc by default maps large blocks from the system one by one and gives them back at once, and every step waits for
fresh pages: a third of the time of a small network's epoch (docs/log.md). Constants are those of its malloc.h.
"""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Holds for the rest of the process. With another C library than glibc nothing happens."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
