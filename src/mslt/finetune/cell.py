"""One training of a grid, from the data to a folder with its scores, predictions and model."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mslt import foreign
from mslt.checkpoint import write_file
from mslt.data.tokenizer import given
from mslt.devices import Precision
from mslt.files import appearing
from mslt.finetune.loop import Diverged, How, fine_tune
from mslt.finetune.material import Folders, Material, Scores, load
from mslt.finetune.model import TaskModel, write
from mslt.finetune.settings import Cell, FinetuneConfig
from mslt.finetune.tasks import TASKS, find
from mslt.model import Encoder
from mslt.pretrained import Pretrained, open_model
from mslt.run import to_json
from mslt.words import duration

RESULT, MODEL = "result.json", "model"
LINE_SECONDS = 30.0  # between lines about a training


@dataclass(frozen=True)
class Work:
    """What a process needs to train a cell.

    Args:
        cell: which.
        model: the folder to begin with.
        out: the cell's folder.
        config: of the grid.
        precision: resolved.
        device: resolved.
        threads: of the processor, where it is one.
    """

    cell: Cell
    model: Path
    out: Path
    config: FinetuneConfig
    precision: Precision
    device: str
    threads: int


def folders(config: FinetuneConfig) -> Folders:
    """Where the data are, and what of them is read."""
    return Folders(
        glue=config.glue_dir,
        squad=config.squad_dir,
        skip=config.bad_rows == "skip",
        most=config.max_train,
        length=config.max_length,
        stride=config.stride,
        threshold=config.threshold,
    )


# A process trains many cells of the same model, and of one task after the other.
@lru_cache(maxsize=1)
def _opened(model: Path) -> Pretrained:
    return open_model(model)


@lru_cache(maxsize=1)
def _loaded(name: str, where: Folders, tokenizer: Path) -> Material:
    return load(find(name), where, given(tokenizer))


def read_result(folder: Path) -> dict[str, Any]:
    """What a cell's folder says that it has found, as `train` returns it.

    Raises:
        ValueError: its result.json is damaged.
        OSError: it cannot be read.
    """
    file = folder / RESULT
    result = foreign.read_json_object(file)
    kinds = {"task": Literal[tuple(TASKS)], "lr": float, "seed": int, "seconds": float}
    foreign.require(result, {**kinds, "scores": dict}, str(file))
    return result


def read_results(cells: Path) -> dict[str, dict[str, Any]]:
    """What all finished cells in a folder of cells have found, by their names.

    A folder of another name, as a copy has or what is being written, is none of them.

    Raises:
        ValueError: one is damaged.
        OSError: it cannot be read.
    """
    folders = [file.parent for file in sorted(cells.glob(f"*/{RESULT}"))]
    found = {f.name: read_result(f) for f in folders if not f.name.startswith(".")}
    return {n: r for n, r in found.items() if n == Cell(r["task"], r["lr"], r["seed"]).name}


def say(text: str) -> None:
    """Tell the user a line, at once."""
    print(text, flush=True)


class _Progress:
    """Says now and then how far a training is."""

    def __init__(self, name: str, tell: Callable[[str], None]) -> None:
        self._name, self._tell = name, tell
        self._begin = self._said = time.monotonic()

    def __call__(self, step: int, steps: int, loss: Tensor) -> None:
        now = time.monotonic()
        if now - self._said < LINE_SECONDS:
            return
        self._said = now
        left = duration((now - self._begin) / step * (steps - step))
        self._tell(f"{self._name}: step {step:,} of {steps:,}, loss {float(loss):.3f}, {left} left")


def _how(work: Work) -> How:
    config, task = work.config, work.cell.row
    return How(
        lr=work.cell.lr,
        epochs=config.epochs or task.epochs,
        batch_size=config.batch_size or task.batch_size,
        seed=work.cell.seed,
        precision=work.precision,
        device=work.device,
    )


def train(work: Work, tell: Callable[[str], None] = say) -> dict[str, Any]:
    """Train a cell that is not trained yet, and leave its folder, which appears whole.

    Args:
        work: the cell, and what belongs to it.
        tell: takes a line about every half minute of training.

    Returns:
        What its result.json says: the cell, `scores` by metric in percent, steps, and seconds of
        training and of all. Where training diverged there is no score and no model, and `diverged`
        says how.

    Raises:
        ValueError: data or model are damaged.
        OSError: the disk is full or not writable.
    """
    if (work.out / RESULT).is_file():
        return read_result(work.out)
    start = time.perf_counter()
    if work.device == "cpu":
        torch.set_num_threads(work.threads)
    cell, config = work.cell, work.config
    pretrained = _opened(work.model)
    material = _loaded(cell.task, folders(config), pretrained.tokenizer)
    encoder = pretrained.model
    if config.random_weights:
        encoder = Encoder(encoder.config, encoder.depth, seed=cell.seed)
    model = TaskModel(encoder, material.classes, cell.seed)
    began, steps, trained, diverged = time.perf_counter(), 0, 0.0, {}
    scores: Scores = dict.fromkeys(cell.row.metrics)
    files: dict[str, bytes] = {}
    try:
        steps = fine_tune(model, material.train, _how(work), _Progress(cell.name, tell))
        trained = time.perf_counter() - began
        scores, files = material.judge(model, work.device)
    except Diverged as error:
        diverged = {"diverged": str(error)}
    result = {
        "task": cell.task,
        "lr": cell.lr,
        "seed": cell.seed,
        "scores": scores,
        "examples": len(material.train),
        "steps": steps,
        "train_seconds": trained,
        "seconds": time.perf_counter() - start,
        **diverged,
    }
    with appearing(work.out, replace=True) as folder:
        if not diverged:
            (folder / MODEL).mkdir()
            write(folder / MODEL, model.cpu(), pretrained.tokenizer, material.labels)
        for name, content in files.items():
            write_file(folder / name, content)
        write_file(folder / RESULT, to_json(result, indent=1).encode())
    return result
