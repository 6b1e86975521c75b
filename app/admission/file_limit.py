"""How many connections the system lets a process have."""

from __future__ import annotations

import resource

# For the catalog, checkpoints, logs, metrics of other workers and threads' own.
_OTHER_FILES = 128


def raise_file_limit() -> None:
    """The soft limit on open files to the hard one, which needs no rights."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connections_allowed(wanted: int) -> int:
    """`wanted`, or what the limit on open files leaves room for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, max(soft - _OTHER_FILES, soft // 2))
