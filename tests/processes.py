"""Several processes on this machine that take part in one run, started in a tenth of a second."""

import multiprocessing
import os
import traceback
from collections.abc import Callable
from typing import Any

from torch.distributed import TCPStore

_START = multiprocessing.get_context("forkserver")
_START.set_forkserver_preload(["mslt.pretrain", "torch.distributed", "processes"])
SECONDS = 60


def together(size: int, work: Callable[..., Any], *args: Any) -> list[Any]:
    """Call `work(*args)` in each of `size` processes; what each returned, or its SystemExit's code.

    `work` is a module's function, which calls `mslt.world.joined`. As with torchrun, where they
    find each other is none of theirs, so that it outlives each.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    port = store.port
    pipes = [_START.Pipe(duplex=False) for _ in range(size)]
    processes = [
        _START.Process(target=_one, args=(rank, size, port, pipes[rank][1], work, args))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    try:
        answers = []
        for rank, (here, _) in enumerate(pipes):
            assert here.poll(SECONDS), f"process {rank} of {size} does not answer"
            answers.append(here.recv())
        for rank, (failed, answer) in enumerate(answers):
            assert not failed, f"process {rank} of {size}: {answer}"
        return [answer for _, answer in answers]
    finally:
        for process in processes:
            process.kill()
            process.join()


def _one(rank: int, size: int, port: int, pipe: Any, work: Callable[..., Any], args: Any) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    try:
        pipe.send((False, work(*args)))
    except SystemExit as stop:
        pipe.send((False, stop.code))
    except BaseException:
        pipe.send((True, traceback.format_exc()))
