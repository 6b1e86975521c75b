from __future__ import annotations

import re
import subprocess
import sys

import pytest

PROGRAM = """
import threading
from pathlib import Path
from app import memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 1_000_000

def batch():
    blocks = [bytearray(50_000) for _ in range(400)]
    kept.append(blocks[-1])  # at the top, so that what lies below does not go by itself

memory.share_arena()
kept, before = [], resident()
threads = [threading.Thread(target=batch) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
busy = resident()
memory.give_back()
print(busy - before, resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, and is about glibc")
def test_what_threads_have_freed_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kept, after = map(int, re.findall(r"-?\d+", done.stdout))
    assert kept >= 15
    assert after <= 5
