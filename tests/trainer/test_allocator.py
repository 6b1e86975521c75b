"""Whether memory is kept is what the system says of the process's page faults."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_PROGRAM = """
import resource
import torch
from trainer.allocator import keep_freed_memory

{call}
def use():
    torch.ones(2**24)

for _ in range(10):
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(call: str) -> int:
    """Of ten tensors of 64 MiB, one after the other, after as many that are not counted."""
    program = [sys.executable, "-c", _PROGRAM.format(call=call)]
    return int(subprocess.run(program, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_used_again() -> None:
    assert page_faults("keep_freed_memory()") < page_faults("") / 10
