"""The paper's tables, by its own figures and by hand."""

from dataclasses import replace

import pytest
from test_results import result

from mslt.analysis.paper import Cell, Table, average, paper_tables
from mslt.plan import build_plan

SQUAD = ("SQuAD1.1 F1", "SQuAD1.1 EM", "SQuAD2.0 F1", "SQuAD2.0 EM")
TABLE_1 = ("MNLI", "QNLI", "SST-2", "MRPC", *SQUAD)
TABLE_2 = ("MNLI", "QNLI", "SST-2", "STS-B", "MRPC", "RTE")
TABLE_4 = ("MNLI", "QNLI", "SST-2", "STS-B", "MRPC")
TABLE_5 = ("MNLI", "QQP", "QNLI", "SST-2", "CoLA", "STS-B", "MRPC", "RTE")


@pytest.mark.parametrize(
    ("tasks", "scores", "mean"),
    [
        (TABLE_1, (84.3, 91.2, 92.2, 91.2, 89.2, 82.3, 77.8, 74.1), 86.8),
        (TABLE_1, (84.4, 91.5, 92.7, 89.7, 89.5, 82.7, 77.7, 73.9), 86.7),
        (TABLE_1, (86.2, 92.6, 93.2, 92.2, 91.6, 84.8, 81.6, 79.2), 88.8),
        (TABLE_2, (84.3, 91.2, 92.2, 89.5, 91.2, 69.3), 86.3),
        (TABLE_2, (84.1, 90.8, 91.1, 89.2, 88.9, 68.5), 85.4),
        (TABLE_4, (82.1, 88.7, 90.2, 87.9, 89.5), 87.7),
        (TABLE_5, (83.9, 71.0, 90.4, 93.0, 56.6, 84.1, 89.2, 68.0), 79.5),
    ],
)
def test_an_average_is_that_of_the_papers_rows(tasks, scores, mean) -> None:
    found = average(dict(zip(tasks, scores)), tasks)
    assert found == pytest.approx(mean, abs=0.05)


def test_there_is_no_average_where_a_task_was_not_measured() -> None:
    assert average({"MNLI": 80.0}, ("MNLI", "RTE")) is None


# By seed: whole 2.0, 2.1, 2.2; mslt 0.1 above each; early 0.01 above, 0.01 below, 0.01 above.
LOSSES = {"whole": (2.0, 2.1, 2.2), "mslt": (2.1, 2.2, 2.3), "early": (2.01, 2.09, 2.21)}
SECONDS = {"whole": (100.0, 110.0, 90.0), "mslt": (50.0, 50.0, 50.0), "early": (60.0, 55.0, 50.0)}


def results(**more):
    return [
        result(
            name,
            seed,
            "whole" if name == "whole" else "mslt",
            loss=LOSSES[name][seed],
            seconds=SECONDS[name][seed],
            curve=((500, SECONDS[name][seed] / 2, 2.15), (1000, SECONDS[name][seed], 2.05)),
            **more,
        )
        for name in LOSSES
        for seed in range(3)
    ]


def cells(table: Table, plan: str) -> dict[str, Cell | None]:
    return dict(zip((column.title for column in table.columns), table.rows[plan]))


def values(table: Table, plan: str, column: str) -> tuple[float, ...]:
    cell = cells(table, plan)[column]
    assert cell is not None
    return tuple(round(value, 6) for value in cell.spread.values)


def test_the_overview_compares_seed_by_seed() -> None:
    overview = paper_tables(results(), "steps")[0]
    assert values(overview, "mslt", "times as fast") == (2.0, 2.2, 1.8)
    assert values(overview, "mslt", "against whole") == (0.1, 0.1, 0.1)
    assert values(overview, "early", "against whole") == (0.01, -0.01, 0.01)
    assert values(overview, "whole", "against whole") == (0.0, 0.0, 0.0)
    # whole's own losses at the end are 2.0, 2.1 and 2.2: never reached, at 1000 and at 500 steps
    assert values(overview, "mslt", "time to whole's loss") == (50.0, 25.0)
    reached = cells(overview, "mslt")["time to whole's loss"]
    assert reached is not None
    assert reached.seeds == 3


def test_a_difference_inside_the_noise_is_marked_and_explained() -> None:
    overview = paper_tables(results(), "steps")[0]
    marks = {
        name: cell.noise
        for name in ("whole", "mslt", "early")
        if (cell := cells(overview, name)["against whole"])
    }
    assert marks == {"whole": None, "mslt": False, "early": True}
    assert overview.notes[0] == "Medians over 3 seeds, with the range."
    assert overview.notes[1].startswith("~: may be noise. The differences to whole, seed by seed")


def test_one_seed_says_nothing_about_noise() -> None:
    overview = paper_tables([r for r in results() if not r.seed], "steps")[0]
    assert overview.notes == ("One seed: which differences are noise is not known.",)
    cell = cells(overview, "mslt")["against whole"]
    assert cell is not None
    assert cell.noise is None


def fine_tuned(name: str, seed: int, values: tuple[float, ...]):
    scores, seeds = {"RTE": sorted(values)[len(values) // 2]}, {"RTE": values}
    return result(name, seed, name, scores=scores, score_seeds=seeds)


@pytest.mark.parametrize(
    ("whole", "mslt", "noise"),
    [
        ((60.0, 61.0, 65.0), (63.0, 64.0, 65.0), True),  # 3 between the medians, 5 between seeds
        ((60.0, 61.0, 62.0), (63.0, 64.0, 65.0), False),
        ((60.0, 61.0, 62.0), (64.0,), None),
    ],
)
def test_of_one_pretraining_a_score_is_judged_by_its_seeds_of_fine_tuning(
    whole, mslt, noise
) -> None:
    runs = [fine_tuned("whole", 0, whole), fine_tuned("mslt", 0, mslt)]
    table = {t.number: t for t in paper_tables(runs, "time")}["2"]
    cell = cells(table, "mslt")["RTE"]
    assert cell is not None
    assert cell.noise is noise
    assert table.notes[0].startswith("One seed of pre-training")
    assert "the range over the seeds of fine-tuning" in table.notes[1]


def test_of_several_pretrainings_a_score_must_pass_both_judgements() -> None:
    sure, spread = (63.9, 64.0, 64.1), (60.0, 64.0, 68.0)
    for ours, noise in ((sure, False), (spread, True)):
        runs = [fine_tuned("whole", s, (60.9, 61.0, 61.1)) for s in (0, 1)]
        runs += [fine_tuned("mslt", s, ours) for s in (0, 1)]
        cell = cells(paper_tables(runs, "time")[1], "mslt")["RTE"]
        assert cell is not None
        assert cell.noise is noise


def test_an_average_is_judged_by_the_averages_of_the_seeds() -> None:
    def run(name: str, by: float, spread: float):
        seeds = {task: (80.0 + by - spread, 80.0 + by, 80.0 + by + spread) for task in TABLE_2}
        return result(name, 0, name, scores=dict.fromkeys(TABLE_2, 80 + by), score_seeds=seeds)

    for spread, noise in ((0.4, False), (0.6, True)):
        table = paper_tables([run("whole", 0.0, spread), run("mslt", 1.0, spread)], "time")[1]
        cell = cells(table, "mslt")["Avg"]
        assert cell is not None
        assert cell.noise is noise


def test_a_budget_has_its_table() -> None:
    assert [table.number for table in paper_tables(results(), "steps")] == ["", "1", "5"]
    assert [table.number for table in paper_tables(results(), "time")] == ["", "2", "5"]


def test_table_1_is_there_where_all_took_the_same_steps_whatever_the_budget() -> None:
    bare = replace(result("bare"), stages=build_plan("mslt", 12, 800, retrain=0.0))
    for others, numbers in (([], ["", "1", "5"]), ([bare], ["", "4", "5"])):
        tables = paper_tables([*results(), *others], "recipe")
        assert [table.number for table in tables] == numbers


def test_tables_3_and_4_hold_the_plans_that_they_are_about() -> None:
    bare = replace(result("bare"), stages=build_plan("mslt", 12, 800, retrain=0.0))
    albert = result("albert", 0, shared=True)
    tables = {t.number: t for t in paper_tables([*results(), bare, albert], "recipe")}
    assert list(tables) == ["", "3", "4", "5"]
    assert list(tables["3"].rows) == ["albert"]
    assert list(tables["4"].rows) == ["mslt", "early", "bare", "albert"]


def test_what_was_not_measured_has_no_cell_and_scores_are_in_their_columns() -> None:
    scores = dict(zip(TABLE_2, (84.3, 91.2, 92.2, 89.5, 91.2, 69.3)))
    table = paper_tables(results(scores=scores), "time")[1]
    assert table.has_scores
    assert values(table, "mslt", "RTE") == (69.3,) * 3
    assert values(table, "mslt", "Avg") == (86.283333,) * 3
    bare = paper_tables(results(), "time")[1]
    assert not bare.has_scores
    assert cells(bare, "mslt")["RTE"] is None
    assert [c.title for c in bare.without_empty_columns().columns] == [
        *("steps", "time", "times as fast", "held-out loss")
    ]
