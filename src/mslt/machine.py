"""The machine under a run: what it is, what it has in memory, and its time."""

import ctypes
import math
import os
import platform
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from threading import Barrier
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

import mslt

Part = TypeVar("Part")
Made = TypeVar("Made")

# Share of the threads' time that parts must fill to be worth dealing with side by side.
BUSY = 0.9

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


def multiplies_fp8(device: str) -> bool:
    """Whether torch multiplies matrices of 8-bit floats there; a CPU does so slowly."""
    if not device.startswith("cuda"):
        return True
    return torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= (8, 9)


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
    trim_threshold, mmap_max, arena_max = -1, -4, -8  # M_TRIM_THRESHOLD and so on of malloc.h
    with suppress(OSError, AttributeError):  # another C library, which has its own ways
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, -1)  # never
        libc.mallopt(arena_max, 1)  # what one thread frees is another's to use


class _Own(threading.local):
    generator = torch.default_generator


_own = _Own()


def generator() -> torch.Generator:
    """Where this thread's random numbers on the CPU come from.

    It is torch's, but one of its own in a thread that works side by side with others, so that they
    may seed it and draw from it.
    """
    return _own.generator


def seed(device: str, number: int) -> None:
    """Let random numbers that are drawn there from now on be a function of this one.

    `torch.manual_seed` seeds every device, and formats a stack trace for each that is not in use.
    """
    if device.startswith("cuda"):
        index = torch.device(device).index
        at = torch.cuda.current_device() if index is None else index
        torch.cuda.default_generators[at].manual_seed(number)
    else:
        generator().manual_seed(number)


def to_device(array: np.ndarray, device: str) -> Tensor:
    """An array's copy on a GPU, for which nothing waits; on a CPU it shares the memory."""
    tensor = torch.from_numpy(array)
    if device == "cpu":
        return tensor
    # From memory that may move, the copy would begin when all work before it is done.
    return tensor.pin_memory().to(device, non_blocking=True)


class Sent:
    """Numbers on their way from a device, which goes on meanwhile.

    Args:
        numbers: as many as the device has made up to now.
    """

    def __init__(self, numbers: Tensor) -> None:
        self._numbers = numbers
        self._there: torch.cuda.Event | None = None
        if numbers.device.type == "cuda":
            self._numbers = torch.empty_like(numbers, device="cpu", pin_memory=True)
            self._numbers.copy_(numbers, non_blocking=True)
            self._there = torch.cuda.Event()
            self._there.record()

    def arrived(self) -> list[float]:
        """Wait for them, and for nothing that the device was told later."""
        if self._there is not None:
            self._there.synchronize()
        numbers: list[float] = self._numbers.tolist()
        return numbers


def side_by_side(work: Callable[[Part], Made], parts: Sequence[Part]) -> list[Made]:
    """What `work` makes of each part, in their order.

    As many parts are dealt with at once as torch has threads, each by one of them, or by several
    where there are fewer parts than threads; one after the other, each by all threads, where too
    many of these would else be idle.
    """
    threads = torch.get_num_threads()
    count = max(1, min(threads, len(parts)))
    each, rounds = threads // count, math.ceil(len(parts) / count)
    idle = len(parts) * each < BUSY * rounds * threads
    if count == 1 or idle or _cores() < threads:
        return [work(part) for part in parts]
    helpers = _helpers(count - 1, each)
    _dismiss_team()
    begun = [helpers.submit(work, part) for part in parts]
    mine: dict[int, Made] = {}
    try:
        with _apart(each):  # takes what no helper has begun
            for place, part in enumerate(parts):
                if begun[place].cancel():
                    mine[place] = work(part)
    finally:
        wait(begun)  # none is left at work where another one fails
    return [mine[at] if at in mine else done.result() for at, done in enumerate(begun)]


def _cores() -> int:
    """Those that this thread, and who it begins, may use: one, where OMP_PROC_BIND binds it."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _helpers(count: int, threads: int) -> ThreadPoolExecutor:
    """Threads beside this one, in which torch computes with so many threads each."""
    before = torch.get_num_threads()
    ready = Barrier(count + 1)

    def begin() -> None:
        torch.get_num_threads()  # else the first operation would set what is set for all
        torch.set_num_threads(threads)
        _own.generator = torch.Generator()
        ready.wait()

    pool = ThreadPoolExecutor(count)
    begun = [pool.submit(begin) for _ in range(count)]
    ready.wait()
    for each in begun:
        each.result()
    torch.set_num_threads(before)  # of this thread, and of those to come
    return pool


@contextmanager
def _apart(threads: int) -> Iterator[None]:
    """Let this thread be as those beside it."""
    before = torch.get_num_threads(), _own.generator
    torch.set_num_threads(threads)
    _own.generator = torch.Generator()
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        _own.generator = before[1]


def _dismiss_team() -> None:
    """End the threads that computed this one's last operation.

    For 5 ms they would stay at their cores and wait for the next one (libgomp's GOMP_SPINCOUNT),
    where others are to compute now. To begin anew takes them 0.04 ms.
    """
    with suppress(OSError, AttributeError):  # another OpenMP, or an old one
        ctypes.CDLL(None).omp_pause_resource_all(1)


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
