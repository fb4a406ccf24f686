"""Several processes train a grid together, and a killed one loses what it was training alone."""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from made_up_tasks import words_of, write_task

from mslt.finetune import grid
from mslt.finetune.cell import RESULT
from mslt.finetune.settings import FinetuneConfig
from mslt.finetune.tasks import GLUE
from mslt.run import Run

SECONDS = 60.0  # a process imports torch, on a machine that may be busy


def config(data: Path) -> FinetuneConfig:
    how = {"tasks": ["rte"], "lrs": [1e-3], "seeds": 2, "epochs": 1, "max_length": 12}
    return FinetuneConfig(glue_dir=str(data), device="cpu", workers=2, **how)


def workers_of(parent: int) -> list[int]:
    """The processes that a grid's process has started to train, by Linux's account."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in words_in(int(child))]


def words_in(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def until(true) -> None:
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def data(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("glue")
    write_task(folder, GLUE["rte"], words_of(finished.path / "tokenizer"))
    return folder


def test_a_killed_process_is_named_and_the_same_line_goes_on(
    finished: Run, data: Path, tmp_path: Path
) -> None:
    def kill() -> None:
        until(lambda: len(multiprocessing.active_children()) == 2)
        multiprocessing.active_children()[0].kill()

    threading.Thread(target=kill, daemon=True).start()
    said = r"process of rte-lr0.001-seed\d was killed by signal 9.*rte-lr0.001-seed\d was stopped"
    with pytest.raises(OSError, match=f"{said}; the same line again goes on"):
        grid.finetune(finished.path, tmp_path / "out", config(data))
    assert not multiprocessing.active_children()

    half = tmp_path / "out" / "cells" / "rte-lr0.001-seed0"  # copied by hand, or damaged since
    half.mkdir()
    (half / "model").mkdir()
    grid.finetune(finished.path, tmp_path / "out", config(data))
    assert len(list((tmp_path / "out").glob(f"cells/*/{RESULT}"))) == 2


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="asks Linux for children")
def test_workers_end_with_the_process_that_started_them(
    finished: Run, data: Path, tmp_path: Path
) -> None:
    parent = multiprocessing.get_context("forkserver").Process(
        target=grid.finetune, args=(finished.path, tmp_path / "out", config(data))
    )
    parent.start()
    assert parent.pid
    until(lambda: len(workers_of(parent.pid)) == 2)
    workers = workers_of(parent.pid)
    os.kill(parent.pid, signal.SIGKILL)
    parent.join(SECONDS)
    until(lambda: not any(map(words_in, workers)))
