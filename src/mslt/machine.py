"""What a run was computed with, for its run.json."""

import os
import platform
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
