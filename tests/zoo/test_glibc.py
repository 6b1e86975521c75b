"""Whether memory is kept, or given back, is what the system says of the process."""

from __future__ import annotations

import platform
import re
import subprocess
import sys

import pytest

_KEEPS = """
import resource
import torch
from zoo.runtime.glibc import keep_freed_memory

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

_GIVES_BACK = """
import threading
from pathlib import Path
from zoo.runtime import glibc

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 1_000_000

def batch():
    blocks = [bytearray(50_000) for _ in range(400)]
    kept.append(blocks[-1])  # at the top, so that what lies below does not go by itself

glibc.share_arena()
kept, before = [], resident()
threads = [threading.Thread(target=batch) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
busy = resident()
glibc.give_back()
print(busy - before, resident() - before)
"""

_DROPS_CODE = """
import re
from pathlib import Path
import numpy as np
import onnxruntime
from zoo.runtime import glibc

def of_files():
    found = dict(re.findall(r"^(Rss|Anonymous): +([0-9]+) kB", Path("/proc/self/smaps_rollup").read_text(), re.M))
    return int(found["Rss"]) - int(found["Anonymous"])

square = np.arange(9.0).reshape(3, 3) @ np.arange(9.0).reshape(3, 3)
before = of_files()
glibc.drop_code()
assert (np.arange(9.0).reshape(3, 3) @ np.arange(9.0).reshape(3, 3) == square).all()
print((before - of_files()) // 1000)
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")


def page_faults(call: str) -> int:
    """Of ten tensors of 64 MiB, one after the other, after as many that are not counted."""
    program = [sys.executable, "-c", _KEEPS.format(call=call)]
    return int(subprocess.run(program, capture_output=True, text=True, check=True).stdout)


def test_freed_memory_is_used_again() -> None:
    assert page_faults("keep_freed_memory()") < page_faults("") / 10


def test_what_threads_have_freed_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", _GIVES_BACK], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kept, after = map(int, re.findall(r"-?\d+", done.stdout))
    assert kept >= 15
    assert after <= 5


def test_code_that_ran_once_is_dropped_and_comes_back() -> None:
    done = subprocess.run([sys.executable, "-c", _DROPS_CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 8
