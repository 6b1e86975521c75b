"""What a result was measured on. Not a benchmark; imported by those beside it."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a benchmark of the catalog needs no torch
    import torch


def processor() -> str:
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return f"{len(names)} × {names[0]}" if names else platform.processor()


def chosen_device(name: str) -> torch.device:
    """`auto` is the GPU if there is one."""
    import torch

    return torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")


def describe(device: torch.device) -> str:
    """Date, machine and versions, on two lines."""
    import torch

    where = f"{processor()}, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        where = f"{torch.cuda.get_device_name(device)} (CUDA {torch.version.cuda}), {where}"
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "numpy"))
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {where}, {platform.system()} {platform.release()}\n"
        f"Python {platform.python_version()}, {packages}"
    )


def synchronize(device: torch.device) -> None:
    """Until the device has done what it was asked to."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def joules_so_far(device: torch.device) -> float | None:
    """What the GPU has drawn since its driver was loaded, by NVML; two calls give the difference.

    None without a GPU, without pynvml, and where the GPU does not count.
    """
    if device.type != "cuda":
        return None
    try:
        import pynvml
    except ImportError:
        return None
    import torch

    try:
        pynvml.nvmlInit()
        # By its UUID: NVML numbers the GPUs that CUDA_VISIBLE_DEVICES hides too.
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
    except pynvml.NVMLError:
        return None


def spread(values: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation; of one value, that value."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}"
