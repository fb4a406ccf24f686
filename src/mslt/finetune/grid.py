"""The grid of fine-tunings as a queue: what is done is kept, and what was killed goes on."""

import filecmp
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mslt import foreign, layout
from mslt.analysis.formats import aligned
from mslt.checkpoint import WEIGHTS
from mslt.devices import pick_device, pick_precision
from mslt.files import appearing, locked, refuse_standing, sweep
from mslt.finetune import summary
from mslt.finetune.cell import MODEL, Work, folders, read_results, say
from mslt.finetune.crew import trained
from mslt.finetune.material import check
from mslt.finetune.settings import Cell, FinetuneConfig
from mslt.finetune.tasks import find
from mslt.pretrained import Pretrained, open_model
from mslt.run import to_json, write_text
from mslt.words import duration

GRID, CELLS, TABLE, LOCK = "grid.json", "cells", "table.md", ".lock"


@dataclass(frozen=True)
class Grid:
    """A folder of cells.

    Args:
        out: the folder.
        model: what the cells begin with.
        config: how they are trained.
    """

    out: Path
    model: Path
    config: FinetuneConfig

    def folder(self, cell: Cell) -> Path:
        """Of one training."""
        return self.out / CELLS / cell.name

    def results(self) -> dict[str, Any]:
        """What all finished cells in the folder have found, by the cells' names.

        Those too that are not asked for now: tables and models are of all.
        """
        return read_results(self.out / CELLS)


def finetune(model: Path, out: Path, config: FinetuneConfig, against: Path | None = None) -> None:
    """Train every cell of a grid that is not trained yet, and write what they have found.

    Args:
        model: anything that `mslt.pretrained.open_model` opens.
        out: a new folder, or that of a grid that differs in tasks, rates and seeds alone.
        config: tasks and protocol.
        against: the folder of another grid to compare with.

    Raises:
        ValueError: model or data are damaged, or the folder holds something else.
        OSError: the disk is full or not writable.
    """
    other = read_results(against / CELLS).values() if against else ()
    if against and not other:
        raise ValueError(f"against: {against} holds no cells of mslt finetune")
    pretrained = open_model(model)
    _refuse_misfit(pretrained, config)
    where = folders(config)
    for name in config.tasks:
        check(find(name), where)
    facts = {
        "model": _print_of(pretrained),
        "data": {name: where.print_of(find(name)) for name in config.tasks},
        **config.deciding(),
    }
    grid = Grid(out, model, config)
    _take(grid, facts)
    with locked(out / LOCK, f"{out} is in use: another process trains its cells"):
        sweep(out / CELLS)
        _train_all(grid)
        _finish(grid, pretrained.name)
    if against:
        table = summary.differences(grid.results().values(), other)
        say(f"\nagainst {against}:\n{aligned(table)}")
        say("~: no more than from the lowest to the highest seed of either, and may be noise")
        say("?: a side has a single seed, which does not tell what is noise")


def _refuse_misfit(pretrained: Pretrained, config: FinetuneConfig) -> None:
    most = pretrained.model.config.max_position_embeddings
    for name in config.tasks:
        length = config.max_length or find(name).length
        if length > most:
            raise ValueError(
                f"{name} has examples of {length} tokens, and the model {most} positions: "
                f"--max_length {most}"
            )


def _print_of(pretrained: Pretrained) -> str:
    digest = hashlib.sha256()
    for name, tensor in pretrained.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _take(grid: Grid, facts: Mapping[str, Any]) -> None:
    """Make the folder, or see that it is of this grid.

    Raises:
        ValueError: naming what its cells were trained with otherwise.
    """
    file = grid.out / GRID
    if not file.is_file():
        refuse_standing(grid.out)
        with appearing(grid.out) as folder:
            (folder / CELLS).mkdir()
            write_text(folder / GRID, to_json(facts, indent=1))
        return
    before = foreign.read_json_object(file)
    known = dict(before.get("data") or {})
    for name, now in {**facts, "data": {**known, **facts["data"]}}.items():
        if name == "data":
            for task, print_of in facts["data"].items():
                if known.get(task, print_of) != print_of:
                    raise ValueError(f"{task}'s data are not what {grid.out} was trained on")
        elif before.get(name) != now:
            shown = "another one" if name == "model" else before.get(name)
            raise ValueError(f"{name}: the cells in {grid.out} were trained with {shown}")
    write_text(file, to_json({**facts, "data": {**known, **facts["data"]}}, indent=1))


def _train_all(grid: Grid) -> None:
    cells, results = grid.config.cells(), grid.results()
    left = {cell.name: cell for cell in cells if cell.name not in results}
    if not left:
        say(f"all {len(cells)} cells are trained already")
        return
    workers = min(grid.config.workers, len(left))
    works = _works(grid, list(left.values()), workers)

    def to_come() -> str:
        return summary.to_come(list(left.values()), results.values(), workers)

    say(f"{len(cells) - len(left)} of {len(cells)} cells are done; {to_come()}")
    say(aligned(summary.progress(cells, results)))
    for cell, result in trained(works, _devices(grid.config.device, workers)):
        results[cell.name] = result
        del left[cell.name]
        _prune(grid, results)
        say(f"{cell.name}: {_said(result)}, {duration(result['seconds'])}; {to_come()}")
        if not any((other.task, other.lr) == (cell.task, cell.lr) for other in left.values()):
            of_task = [other for other in cells if other.task == cell.task]
            say(aligned(summary.progress(of_task, results)))


def _said(result: Mapping[str, Any]) -> str:
    """A cell's scores, or why there are none."""
    if "diverged" in result:
        return f"diverged ({result['diverged']})"
    return ", ".join(f"{name} {text}" for name, text in summary.said(result).items())


def _devices(device: str, workers: int) -> list[str]:
    """A device for each worker: GPUs in turns, where `auto` or `cuda` leaves the choice."""
    picked = pick_device(device)
    if picked.startswith("cuda") and ":" not in device:
        return [f"cuda:{i % torch.cuda.device_count()}" for i in range(workers)]
    return [picked] * workers


def _works(grid: Grid, cells: Sequence[Cell], workers: int) -> Iterator[Work]:
    config, device = grid.config, pick_device(grid.config.device)
    precision = pick_precision(config.precision, device)
    cores = int(os.environ.get("OMP_NUM_THREADS", 0)) or len(os.sched_getaffinity(0))
    threads = max(1, cores // workers)
    for cell in cells:
        out = grid.folder(cell)
        yield Work(cell, grid.model, out, config, precision, device, threads)


def _prune(grid: Grid, results: Mapping[str, Any]) -> None:
    """Keep the model of each rate's best seed alone."""
    of_rate: dict[tuple[str, float], list[Any]] = {}
    for result in results.values():
        of_rate.setdefault((result["task"], result["lr"]), []).append(result)
    kept = {summary.best(of_rate[rate]).name for rate in of_rate}
    for name in results.keys() - kept:
        shutil.rmtree(grid.out / CELLS / name / MODEL, ignore_errors=True)


def _finish(grid: Grid, name: str) -> None:
    """Write scores.json and table.md, and each task's best model."""
    results = list(grid.results().values())
    for task in summary.found(results):
        _give(grid.folder(task.best) / MODEL, grid.out / task.task.name)
    write_text(grid.out / layout.SCORES, to_json(summary.to_scores(results), indent=1))
    table = summary.rows(results)
    write_text(grid.out / TABLE, to_markdown(table))
    say(f"\n{name}, on dev, the best rate by its median:\n{aligned(table)}")
    say(f"\nwrote {grid.out}: a folder for each task's best model, {layout.SCORES}, {TABLE}")


def _give(model: Path, to: Path) -> None:
    """Copy a task's best model, unless it is there."""
    if not model.is_dir():
        say(f"{to.name}: no model, since {model.parent} has none")
    elif not _same(model / WEIGHTS, to / WEIGHTS):
        with appearing(to, replace=True) as folder:
            shutil.copytree(model, folder, dirs_exist_ok=True)


def _same(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and filecmp.cmp(one, other)


def to_markdown(table: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its heading."""
    heading, *rest = (f"| {' | '.join(row)} |" for row in table)
    return "\n".join([heading, "|---" * len(table[0]) + "|", *rest]) + "\n"
