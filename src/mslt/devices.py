"""What a run computes on, and in how many bits."""

from typing import Literal

import torch

from mslt.kernels import Kernels, find
from mslt.machine import multiplies_bf16_fast

Precision = Literal["fp32", "bf16"]


def pick_precision(wanted: str, device: str) -> Precision:
    """bf16 where the device multiplies bf16 matrices fast, else fp32.

    Raises:
        ValueError: bf16 is asked for on a GPU that lacks it.
    """
    if device.startswith("cuda"):
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        if wanted == "bf16" and not fast:
            raise ValueError("precision bf16 is not supported by this GPU: use fp32")
    else:
        fast = wanted == "auto" and multiplies_bf16_fast()
    if wanted == "auto":
        return "bf16" if fast else "fp32"
    return "bf16" if wanted == "bf16" else "fp32"


def pick_kernels(compiled: str, device: str, precision: Precision) -> Kernels | None:
    """Functions in C by which layers compute: on a CPU, if there are any, and no torch.compile."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return find(dtype) if compiled == "auto" and device == "cpu" else None


def instructions(device: str) -> str:
    """What decides how torch's operations round there."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return torch.backends.cpu.get_cpu_capability()


def pick_device(wanted: str) -> str:
    """The device to train on: `auto` is the first GPU, else the CPU.

    Raises:
        ValueError: a GPU is asked for and there is none.
    """
    if wanted == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {wanted} was asked for, but torch sees no GPU")
    return wanted
