"""Peak memory of training steps, measured in a process of its own."""

import gc
import multiprocessing
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak(prepare: Callable[..., Callable[[], object]], *arguments: Any) -> int | None:
    """Bytes that some work takes at its peak, beyond what its process holds before.

    Of a process, all that it holds; a GPU is not asked here (`peak_of_gpu`).

    Args:
        prepare: importable by its name; returns the work, which is then done once.
        arguments: of `prepare`, as they can be pickled.

    Returns:
        None where the system does not tell: for a CPU, Linux alone does.

    Raises:
        RuntimeError: the process died, most likely for want of memory.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    threads = torch.get_num_threads()
    process = context.Process(target=_child, args=(sender, threads, prepare, *arguments))
    process.start()
    sender.close()
    try:
        found: int | None = receiver.recv()
    except EOFError:
        raise RuntimeError("no memory figure: the process that measures it died") from None
    finally:
        process.join()
    return found


def peak_of_gpu(prepare: Callable[..., Callable[[], object]], *arguments: Any) -> int:
    """Bytes of the GPU that some work and what it needs take at the peak, in this process.

    Args:
        prepare: returns the work, which is then done twice: the first time compiles.
        arguments: of `prepare`.
    """
    gc.collect()
    before = torch.cuda.memory_allocated()
    work = prepare(*arguments)
    work()
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated() - before


def _child(
    sender: Any, threads: int, prepare: Callable[..., Callable[[], object]], *arguments: Any
) -> None:
    torch.set_num_threads(threads)
    work = prepare(*arguments)
    gc.collect()
    before = _forget_peak()
    work()
    sender.send(None if before is None else _bytes("VmHWM") - before)


def _forget_peak() -> int | None:
    """Let the peak be what is held now, and return that; None where this cannot be done."""
    try:
        _RESET.write_text("5")
        return _bytes("VmRSS")
    except OSError:
        return None


def _bytes(field: str) -> int:
    """Of a field of /proc/self/status."""
    found = re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024
