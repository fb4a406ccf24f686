"""Tables of stages: their rows, their totals and how they stand on a terminal."""

from pathlib import Path

import pytest
from made_up_run import CONFIG, new_run

from mslt.analysis.formats import aligned
from mslt.analysis.tables import HEADINGS, stage_rows, stage_table
from mslt.run import Run

ENDS = [(400, 20.0, 2.5), (800, 50.0, 2.0), (1000, 80.0, 1.5)]  # step, seconds, loss


def after_stages(path: Path, count: int) -> Run:
    """A run of three stages of which `count` are finished, and the next one is begun."""
    path.parent.mkdir()
    run = new_run(path)
    assert run.config.stages().ends == tuple(step for step, _, _ in ENDS)
    for i, (step, seconds, loss) in enumerate(ENDS):
        rest = {"mlm_accuracy": 0.5, "seconds": seconds}
        if i <= count:
            run.record("heldout", step - 100, {"mlm_loss": 9.0, **rest, "seconds": seconds - 1})
        if i < count:
            run.record("train", step, {"mlm_loss": 7.0, "seconds": seconds})
            run.record("heldout", step, {"mlm_loss": loss, **rest})
    return run


def test_a_row_tells_of_its_stage_alone(tmp_path: Path) -> None:
    names = ("stage", "depth", "learn", "steps", "seconds", "tokens_per_second", "heldout")
    tokens = CONFIG.batch_size * CONFIG.plan.seq_len
    assert stage_rows(after_stages(tmp_path / "a" / "run", 3)) == [
        dict(zip(names, (1, 2, 2, 400, 20.0, 400 * tokens / 20, 2.5))),
        dict(zip(names, (2, 4, 2, 400, 30.0, 400 * tokens / 30, 2.0))),
        dict(zip(names, (3, 4, 4, 200, 30.0, 200 * tokens / 30, 1.5))),
    ]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_an_unfinished_run_has_the_rows_of_its_finished_stages(tmp_path: Path, count: int) -> None:
    rows = stage_rows(after_stages(tmp_path / "a" / "run", count))
    assert rows == stage_rows(after_stages(tmp_path / "b" / "run", 3))[:count]


def test_the_table_gives_stages_and_totals_in_columns(tmp_path: Path) -> None:
    runs = {
        name: after_stages(tmp_path / name / "run", count)
        for name, count in (("done", 3), ("begun", 1), ("none", 0))
    }
    assert stage_table(runs).split("\n") == [
        "plan   stage  depth  learn  steps  seconds  tokens/s  held-out loss",
        "-----  -----  -----  -----  -----  -------  --------  -------------",
        "done       1      2      2    400     20.0     5,120         2.5000",
        "done       2      4      2    400     30.0     3,413         2.0000",
        "done       3      4      4    200     30.0     1,707         1.5000",
        "done     all                1,000     80.0                   1.5000",
        "begun      1      2      2    400     20.0     5,120         2.5000",
        "begun    all                  400     20.0                   2.5000",
        "none     all                    0      0.0",
    ]


def test_the_table_of_no_run_is_its_heading() -> None:
    head, rule = stage_table({}).split("\n")
    assert head.split("  ") == list(HEADINGS)
    assert len(rule) == len(head)


def test_columns_are_as_wide_as_their_longest_cell() -> None:
    assert aligned([("a", "b"), ("long name", "1"), ("x", "123")]) == (
        "a            b\n---------  ---\nlong name    1\nx          123"
    )
