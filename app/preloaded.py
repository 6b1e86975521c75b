"""What a worker is forked with: imported once, before there are threads, in a process that does nothing else."""

from __future__ import annotations

import gc

import uvicorn.protocols.http.httptools_impl
import uvloop

import app.main
import app.one_write

__all__ = ["app", "uvicorn", "uvloop"]

# The collector would write into what was imported here, and so copy it, once for each worker.
gc.freeze()
