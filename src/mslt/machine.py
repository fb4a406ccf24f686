"""The machine under a run: what it is, what it has in memory, and its time."""

import os
import platform
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

import mslt


def machine() -> dict[str, Any]:
    """Versions and hardware, for run.json."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "versions": {
            "mslt": mslt.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "hardware": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": gpu,
        },
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def now(device: str) -> float:
    """Seconds of a clock that waits until the device has done what it was told."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter()


def forget_peak(device: str) -> None:
    """Let `peak` count from now on."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # not Linux, or not allowed
            Path("/proc/self/clear_refs").write_text("5")


def peak(device: str) -> int | None:
    """Most bytes in use since the peak was forgotten: on a GPU, or of all of this process.

    None where the system does not tell: for a CPU, Linux alone does.
    """
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(found[1]) * 1024 if found else None
    return None
