"""The paper's Tables 1 to 5 for the runs at hand. Imports no torch.

A cell has a plan's values over seeds, and whether they may be those of the plan that it is compared
with. What was not measured has no cell.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from mslt.analysis.results import (
    SQUAD,
    TASKS,
    Result,
    Spread,
    by_plan,
    inside_noise,
    inside_range,
    reference,
)

AVERAGE = "Avg"

NOISE = (
    "~: may be noise. The differences to {reference}, seed by seed, have not all one sign, or "
    "spread by more than their median."
)
ONE_SEED = "One seed: which differences are noise is not known."
ONE_PRETRAINING = "One seed of pre-training: what another would change is not known."
TUNED = (
    "~ behind a score: also where the difference to {reference} is no larger than the range over "
    "the seeds of fine-tuning of either; where a side has one, that is not known."
)
SPREAD = "Medians over {seeds} seeds, with the range."


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        title: its heading; the unit is in `unit`.
        value: of a run, given the run of the reference with the same seed, if there is one.
        unit: of the value, where it has one.
        digits: behind the point; None where the unit is chosen by the table (a time in seconds).
        figures: significant digits at least, where a value has fewer behind the point.
        judged: whether it is marked where it may be that of the reference.
        signed: whether a plus is written: it is a difference to the reference already.
        seeds: the same by the seeds of fine-tuning; none for what is no score of a task.
    """

    title: str
    value: Callable[[Result, Result | None], float | None]
    unit: str = ""
    digits: int | None = 0
    figures: int = 0
    judged: bool = False
    signed: bool = False
    seeds: Callable[[Result], Sequence[float | None]] = lambda _: ()


@dataclass(frozen=True)
class Cell:
    """Values of one figure of one plan.

    Args:
        spread: over the seeds for which there is a value.
        seeds: how many there are in all.
        noise: whether it may be the reference's; None where that is not judged or not known.
    """

    spread: Spread
    seeds: int
    noise: bool | None = None


@dataclass(frozen=True)
class Table:
    """A table, not yet in any format.

    Args:
        number: of the paper's table, as text; empty for the overview, which the paper has not.
        title: what it shows.
        columns: without the first, which names the plan.
        rows: by plan, a cell for each column; None where nothing was measured.
        notes: below it.
    """

    number: str
    title: str
    columns: tuple[Column, ...]
    rows: Mapping[str, tuple[Cell | None, ...]]
    notes: tuple[str, ...]

    @property
    def has_scores(self) -> bool:
        """Whether any task was measured."""
        tasks = [i for i, column in enumerate(self.columns) if column.title in TASKS]
        return any(row[i] for row in self.rows.values() for i in tasks)

    def without_empty_columns(self) -> "Table":
        """The same without what was measured for no plan."""
        keep = [i for i in range(len(self.columns)) if any(row[i] for row in self.rows.values())]
        rows = {name: tuple(row[i] for i in keep) for name, row in self.rows.items()}
        return replace(self, columns=tuple(self.columns[i] for i in keep), rows=rows)


def _speed(ours: Result, whole: Result | None) -> float | None:
    return None if whole is None else whole.seconds / ours.seconds


def _gap(ours: Result, whole: Result | None) -> float | None:
    return None if whole is None else ours.loss - whole.loss


def _reaches(ours: Result, whole: Result | None) -> float | None:
    return None if whole is None else ours.seconds_to(whole.loss)


STEPS = Column("steps", lambda ours, _: ours.stages.steps)
TOKENS = Column("tokens", lambda ours, _: ours.tokens / 1e6, "M", 1, figures=2)
TIME = Column("time", lambda ours, _: ours.seconds, digits=None, judged=True)
SPEED = Column("times as fast", _speed, digits=2)
LOSS = Column("held-out loss", lambda ours, _: ours.loss, "nats", 4)
GAP = Column("against {reference}", _gap, "nats", 4, judged=True, signed=True)
REACHES = Column("time to {reference}'s loss", _reaches, digits=None)
PARAMETERS = Column("parameters", lambda ours, _: ours.parameters / 1e6, "M", 1, figures=2)


def average(scores: Mapping[str, float], tasks: Sequence[str]) -> float | None:
    """The paper's Avg: each task once, SQuAD's F1 and EM being averaged first (Table 1).

    Returns:
        None where one of them was not measured.
    """
    if any(task not in scores for task in tasks):
        return None
    parts = [scores[task] for task in tasks if task not in SQUAD]
    pairs = [task for task in tasks if task in SQUAD]
    parts += [(scores[f1] + scores[em]) / 2 for f1, em in zip(pairs[::2], pairs[1::2])]
    return sum(parts) / len(parts)


def _score_columns(tasks: Sequence[str]) -> tuple[Column, ...]:
    def score(task: str) -> Column:
        return Column(
            task,
            lambda ours, _: ours.scores.get(task),
            digits=1,
            judged=True,
            seeds=lambda ours: ours.score_seeds.get(task, ()),
        )

    def mean(ours: Result, _: Result | None) -> float | None:
        return average(ours.scores, tasks)

    def mean_seeds(ours: Result) -> Sequence[float | None]:
        by_seed = zip(*(ours.score_seeds.get(task, ()) for task in tasks))
        known = [{t: v for t, v in zip(tasks, values) if v is not None} for values in by_seed]
        return [average(scores, tasks) for scores in known]

    return (
        *map(score, tasks),
        Column(AVERAGE, mean, digits=1, judged=True, seeds=mean_seeds),
    )


_TABLE_1 = ("MNLI", "QNLI", "SST-2", "MRPC", *SQUAD)
_TABLE_2 = ("MNLI", "QNLI", "SST-2", "STS-B", "MRPC", "RTE")
_TABLE_3_4 = ("MNLI", "QNLI", "SST-2", "STS-B", "MRPC")
_TABLE_5 = ("MNLI", "QQP", "QNLI", "SST-2", "CoLA", "STS-B", "MRPC", "RTE")

Plans = Mapping[str, Sequence[Result]]


def _all(plans: Plans) -> Plans:
    return plans


def _of_equal_steps(plans: Plans) -> Plans:
    steps = {result.stages.steps for found in plans.values() for result in found}
    return plans if len(steps) == 1 else {}


def _of_albert(plans: Plans) -> Plans:
    return {name: found for name, found in plans.items() if found[0].shared}


def _with_and_without_retraining(plans: Plans) -> Plans:
    layerwise = {name: found for name, found in plans.items() if found[0].is_layerwise}
    return layerwise if any(not found[0].is_retrained for found in layerwise.values()) else {}


@dataclass(frozen=True)
class _Kind:
    """One of the paper's tables: what it shows, of which plans, under which budget."""

    number: str
    title: str
    columns: tuple[Column, ...]
    plans: Callable[[Plans], Plans] = _all
    budgets: tuple[str, ...] = ("steps", "time", "recipe")


_DONE = (STEPS, TIME, SPEED, LOSS)
_KINDS = (
    _Kind(
        "",
        "pre-training",
        (STEPS, TOKENS, TIME, SPEED, LOSS, GAP, REACHES, PARAMETERS),
    ),
    _Kind(
        "1",
        "the same steps: dev set scores of SQuAD and selected GLUE tasks",
        (*_DONE, *_score_columns(_TABLE_1)),
        _of_equal_steps,
        budgets=("steps", "recipe"),
    ),
    _Kind(
        "2",
        "the same training time: dev set scores of selected GLUE tasks",
        (*_DONE, *_score_columns(_TABLE_2)),
        budgets=("time",),
    ),
    _Kind(
        "3",
        "ALBERT: dev set scores of selected GLUE tasks",
        (*_DONE, PARAMETERS, *_score_columns(_TABLE_3_4)),
        _of_albert,
    ),
    _Kind(
        "4",
        "with and without retraining: dev set scores of selected GLUE tasks",
        (*_DONE, *_score_columns(_TABLE_3_4)),
        _with_and_without_retraining,
    ),
    _Kind(
        "5",
        "the GLUE tasks of the online test: dev set scores, where the paper has the server's",
        (*_DONE, *_score_columns(_TABLE_5)),
    ),
)


def paper_tables(results: Sequence[Result], budget: str) -> list[Table]:
    """An overview and those of the paper's tables of which there is a row.

    Args:
        results: of finished runs.
        budget: what the plans have in common: steps, time or recipe.
    """
    plans = by_plan(results)
    against = reference(plans)
    kinds = [kind for kind in _KINDS if budget in kind.budgets]
    return [_table(kind, plans, against) for kind in kinds if kind.plans(plans)]


def _table(kind: _Kind, plans: Plans, against: str) -> Table:
    base = {result.seed: result for result in plans[against]}

    def cell(column: Column, found: Sequence[Result]) -> Cell | None:
        values = [column.value(result, base.get(result.seed)) for result in found]
        measured = tuple(value for value in values if value is not None)
        if not measured:
            return None
        judged = column.judged and found[0].plan != against
        noise = _judge(column, found, base) if judged else None
        return Cell(Spread(measured), len(found), noise)

    rows = {
        name: tuple(cell(column, found) for column in kind.columns)
        for name, found in kind.plans(plans).items()
    }
    seeds = max(len(found) for found in plans.values())
    tuned = any(column.seeds(r) for column in kind.columns for f in plans.values() for r in f)
    one = ONE_PRETRAINING if tuned else ONE_SEED
    notes = [SPREAD.format(seeds=seeds) if seeds > 1 else one]
    if seeds > 1 and any(cell and cell.noise for row in rows.values() for cell in row):
        notes.append(NOISE.format(reference=against))
    if tuned:
        notes.append(TUNED.format(reference=against))
    columns = tuple(replace(c, title=c.title.format(reference=against)) for c in kind.columns)
    return Table(kind.number, kind.title, columns, rows, tuple(notes))


def _judge(column: Column, found: Sequence[Result], base: Mapping[int, Result]) -> bool | None:
    """Whether a plan's figures may be the reference's, by the seeds that both have."""
    differences, tuned = [], []
    for ours in found:
        whole = base.get(ours.seed)
        value = column.value(ours, whole)
        if value is None or whole is None:
            continue
        # A difference is judged as it is; of anything else, the difference is.
        theirs = 0.0 if column.signed else column.value(whole, whole)
        if theirs is not None:
            differences.append(value - theirs)
            tuned += [column.seeds(ours), column.seeds(whole)]
    if not differences:
        return None
    verdicts = inside_noise(differences), inside_range(median(differences), tuned)
    known = [verdict for verdict in verdicts if verdict is not None]
    return any(known) if known else None
