"""The machine under a run: what it is, what it has in memory, and its time."""

import ctypes
import os
import platform
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Barrier
from typing import Any, TypeVar

import torch
from torch import Tensor

import mslt

Part = TypeVar("Part")

# Times as fast as in fp32 that products in bf16 must be: without a unit for it the machine makes
# them at the same speed or far slower, with one at twice the speed (2.4 times on Zen 4).
PAYS = 1.5


def multiplies_bf16_fast() -> bool:
    """Whether this CPU multiplies matrices in bf16 so fast that to train in it pays.

    AMX always does. Of the CPUs with AVX512-bf16, some make two of its products in the time of one
    in fp32 and some do not, so there it is measured, once in a process. Others only emulate it.
    """
    if torch.cpu._is_amx_tile_supported():
        return True
    return torch.cpu._is_avx512_bf16_supported() and bf16_speedup() >= PAYS


def multiplies_int8() -> bool:
    """Whether torch multiplies matrices of 8-bit integers on this CPU."""
    return "onednn" in torch.backends.quantized.supported_engines


@cache
def has_onednn_bf16() -> bool:
    """Whether torch has oneDNN's products in bf16 for this CPU, whatever their speed."""
    there = torch.backends.mkldnn.is_available()
    return there and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@cache
def bf16_speedup(size: int = 512, rounds: int = 7) -> float:
    """How many times as fast products are in bf16 as in fp32, on one core: 40 ms.

    The best of several rounds in turns, by the thread's own time, to which others add little.

    Args:
        size: of the square matrices.
        rounds: of one product in each.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    try:
        for _ in range(rounds):
            for dtype in best:
                x = torch.ones(size, size, dtype=dtype)
                start = time.thread_time()
                torch.mm(x, x)
                best[dtype] = min(best[dtype], time.thread_time() - start)
    finally:
        torch.set_num_threads(threads)
    return best[torch.float32] / best[torch.bfloat16]


@cache
def keep_freed_memory() -> None:
    """Let glibc keep what is freed for what is asked for next, here and now and in all threads.

    A step frees hundreds of megabytes and asks for as many a moment later. By default they go back
    to the system, which has to clear every page that it hands out anew: up to a sixth of a step.
    """
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h
    with suppress(OSError, AttributeError):  # another C library, which has its own ways
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def side_by_side(work: Callable[[Part], Tensor], parts: Sequence[Part]) -> list[Tensor]:
    """What `work` makes of each part, without gradients, on a CPU.

    As many parts are dealt with at once as torch has threads, by one thread each: these wait for
    each other once, not in every operation, of which the small ones would be left to one of them.
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(parts) == 1:
        return [work(part) for part in parts]
    return list(_workers(threads).map(torch.no_grad()(work), parts))


@cache
def _workers(count: int) -> ThreadPoolExecutor:
    """Threads in which torch computes with one thread each."""
    ready = Barrier(count + 1)

    def begin() -> None:
        torch.get_num_threads()  # else the first operation would set what is set for all
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(count)
    begun = [pool.submit(begin) for _ in range(count)]
    ready.wait()
    for each in begun:
        each.result()
    torch.set_num_threads(count)  # of this thread, and of those to come
    return pool


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
    """Let `peak` count from now on, and only what is not free now."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError, AttributeError):  # not glibc, which may keep what was freed
            ctypes.CDLL(None).malloc_trim(0)
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
