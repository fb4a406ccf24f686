"""What a grid has found: the best rate of each task by its median on dev. Imports no torch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from mslt.analysis.results import SEEDS, inside_range
from mslt.finetune.settings import Cell
from mslt.finetune.tasks import TASKS, Task, find
from mslt.words import duration

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Scores:
    """One metric over the seeds of a rate, in percent.

    Args:
        values: by seed; None where it could not be computed.
    """

    values: tuple[float | None, ...]

    @property
    def median(self) -> float | None:
        """None where it falls on a seed whose score could not be computed, which count as least."""
        middle = median(-1e9 if value is None else value for value in self.values)
        return None if middle < -1e8 else middle


@dataclass(frozen=True)
class Found:
    """A task at its best learning rate.

    Args:
        task: which.
        lr: the rate with the best median of the task's first metric.
        scores: by metric.
        best: the cell of that rate with the best score.
        cells: trained in all, over rates and seeds.
        diverged: of the cells at that rate.
    """

    task: Task
    lr: float
    scores: Mapping[str, Scores]
    best: Cell
    cells: int
    diverged: int = 0

    @property
    def columns(self) -> dict[str, Scores]:
        """By the columns of the paper's tables; what has no median is left out."""
        columns = {title: self.scores[name] for title, name in self.task.columns.items()}
        return {title: scores for title, scores in columns.items() if scores.median is not None}


def found(results: Iterable[Result]) -> list[Found]:
    """Each task at its best rate, in the order of the tasks' table."""
    of_task: dict[str, list[Result]] = {}
    for result in results:
        of_task.setdefault(result["task"], []).append(result)
    return [_best(TASKS[name], of_task[name]) for name in TASKS if name in of_task]


def to_scores(results: Iterable[Result]) -> dict[str, Any]:
    """What scores.json holds: medians by the columns of the paper's tables, and under SEEDS each
    seed's score."""
    columns = {title: scores for task in found(results) for title, scores in task.columns.items()}
    medians = {title: scores.median for title, scores in columns.items()}
    return {**medians, SEEDS: {title: list(scores.values) for title, scores in columns.items()}}


def best(results: Iterable[Result]) -> Cell:
    """The cell with the best score, of equal ones that with the least seed; all of one task.

    What could not be computed is the least.
    """
    first = max(results, key=lambda result: (_score(result), -result["seed"]))
    return Cell(first["task"], first["lr"], first["seed"])


def _order(value: float | None) -> float:
    return float("-inf") if value is None else value


def _score(result: Result) -> float:
    return _order(result["scores"].get(find(result["task"]).metrics[0]))


def _best(task: Task, results: Sequence[Result]) -> Found:
    of_rate: dict[float, list[Result]] = {}
    for result in sorted(results, key=lambda result: (-result["lr"], result["seed"])):
        of_rate.setdefault(result["lr"], []).append(result)

    def scores(lr: float, name: str) -> Scores:
        return Scores(tuple(result["scores"].get(name) for result in of_rate[lr]))

    def rank(lr: float) -> tuple[float, float]:
        return _order(scores(lr, task.metrics[0]).median), max(map(_score, of_rate[lr]))

    lr = max(of_rate, key=rank)
    names = dict.fromkeys(name for result in of_rate[lr] for name in result["scores"])
    return Found(
        task=task,
        lr=lr,
        scores={name: scores(lr, name) for name in names},
        best=best(of_rate[lr]),
        cells=len(results),
        diverged=sum("diverged" in result for result in of_rate[lr]),
    )


def to_text(value: float | None) -> str:
    """A score as the tables have it."""
    return "n/a" if value is None else f"{value:.1f}"


def said(result: Result) -> dict[str, str]:
    """A cell's scores by metric, as the tables have them."""
    if "diverged" in result:
        return dict.fromkeys(result["scores"], "diverged")
    return {name: to_text(value) for name, value in result["scores"].items()}


def rows(results: Iterable[Result]) -> list[list[str]]:
    """A table of the tasks: heading first."""
    table = [["task", "rate", "seeds", "metric", "median", "lowest", "highest"]]
    for task in found(results):
        diverged = f" ({task.diverged} diverged)" if task.diverged else ""
        for i, (name, scores) in enumerate(task.scores.items()):
            known = [value for value in scores.values if value is not None]
            table.append(
                [
                    *(
                        (task.task.title, f"{task.lr:g}", f"{len(scores.values)}{diverged}")
                        if not i
                        else [""] * 3
                    ),
                    name,
                    to_text(scores.median),
                    to_text(min(known, default=None)),
                    to_text(max(known, default=None)),
                ]
            )
    return table


def progress(cells: Sequence[Cell], results: Mapping[str, Result]) -> list[list[str]]:
    """A table of what is done and what is to come: a row for each rate, a column for each seed."""
    seeds = sorted({cell.seed for cell in cells})
    table = [["task", "rate", *(f"seed {seed}" for seed in seeds)]]
    for task, lr in dict.fromkeys((cell.task, cell.lr) for cell in cells):
        shown = []
        for seed in seeds:
            done = results.get(Cell(task, lr, seed).name)
            shown.append(said(done)[find(task).metrics[0]] if done else "to come")
        table.append([find(task).title, f"{lr:g}", *shown])
    return table


def to_come(left: Sequence[Cell], results: Iterable[Result], workers: int) -> str:
    """How many cells are left, and about how long they take by those of their tasks that are done.

    Args:
        left: what is not done.
        results: what is.
        workers: cells that are trained at once.
    """
    seconds: dict[str, list[float]] = {}
    for result in results:
        if "diverged" not in result:
            seconds.setdefault(result["task"], []).append(result["seconds"])
    known = [mean(seconds[cell.task]) for cell in left if cell.task in seconds]
    unknown = dict.fromkeys(cell.row.title for cell in left if cell.task not in seconds)
    text = f"{len(left)} to come"
    if known:
        text += f", about {duration(sum(known) / min(workers, len(left)))}"
    if known and unknown:
        text += f", those of {', '.join(unknown)} not counted"
    return text


def differences(ours: Iterable[Result], theirs: Iterable[Result]) -> list[list[str]]:
    """How much higher our medians are, each task at its best rate.

    `~` marks what may be noise, and `?` where that is not known.
    """
    table = [["task", "metric", "this", "other", "difference", ""]]
    others = {task.task.name: task for task in found(theirs)}
    for mine in found(ours):
        if mine.task.name not in others:
            continue
        for name in mine.task.metrics:
            one, other = mine.scores[name], others[mine.task.name].scores[name]
            row = [mine.task.title, name, to_text(one.median), to_text(other.median)]
            if one.median is None or other.median is None:
                table.append([*row, "n/a", ""])
                continue
            difference = one.median - other.median
            noise = inside_range(difference, (one.values, other.values))
            table.append([*row, f"{difference:+.1f}", {True: "~", False: "", None: "?"}[noise]])
    return table
