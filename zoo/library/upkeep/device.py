"""What this machine is called where something was measured on it."""

from __future__ import annotations

import platform
import re
from functools import cache
from pathlib import Path


@cache
def device_name() -> str:
    """The processor, and the threads that a predictor runs on: Intel Xeon Platinum 8488C, 1 thread"""
    try:
        # As x86 has it; an ARM board says what it is as a whole.
        match = re.search(r"^(?:model name|Model)\s*: *(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    processor = match[1] if match else platform.processor() or platform.machine()
    plain = re.sub(r"\((?:R|TM|C)\)| CPU(?= @|$)", "", processor, flags=re.IGNORECASE)
    return f"{' '.join(plain.split())}, 1 thread"
