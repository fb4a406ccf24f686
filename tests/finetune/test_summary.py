"""What a grid has found, in numbers that can be checked by hand."""

from mslt.finetune.settings import Cell
from mslt.finetune.summary import best, differences, found, progress, rows, to_come, to_scores


def result(task: str = "rte", lr: float = 1e-4, seed: int = 0, score=None, **more):
    name = {"rte": "accuracy", "cola": "matthews"}[task]
    return {
        **{"task": task, "lr": lr, "seed": seed, "scores": {name: score}, "seconds": 10.0},
        **more,
    }


def test_the_best_seed_is_the_least_of_equals_in_whatever_order_they_come() -> None:
    results = [result(seed=seed, score=score) for seed, score in enumerate((None, 60.0, 60.0))]
    assert best(results) == best(results[::-1]) == Cell("rte", 1e-4, 1)


def test_a_rate_whose_seeds_all_diverged_is_below_one_of_which_some_did() -> None:
    dead = [result(lr=1.0, seed=seed, diverged="the loss is nan") for seed in range(3)]
    half = [result(seed=0, score=60.0), *(result(seed=s, diverged="as well") for s in (1, 2))]
    task = found([*dead, *half])[0]
    assert task.best == Cell("rte", 1e-4, 0)
    assert task.columns == {}  # the median falls on one that diverged
    assert rows([*dead, *half])[1][2] == "3 (2 diverged)"


def test_progress_tells_what_is_done_what_diverged_and_what_is_to_come() -> None:
    cells = [Cell("rte", lr, seed) for lr in (1e-3, 1e-4) for seed in (0, 1)]
    results = [result(lr=1e-3, score=61.23), result(lr=1e-3, seed=1, diverged="the loss is nan")]
    named = {Cell("rte", r["lr"], r["seed"]).name: r for r in results}
    assert progress(cells, named)[1:] == [
        ["RTE", "0.001", "61.2", "diverged"],
        ["RTE", "0.0001", "to come", "to come"],
    ]


def test_the_time_left_is_that_of_each_task_and_what_is_not_known_is_said() -> None:
    left = [Cell("rte", 1e-4, 1), Cell("rte", 1e-4, 2), Cell("cola", 1e-4, 0)]
    assert to_come(left, [], 1) == "3 to come"
    done = [result(seconds=20.0), result(seconds=40.0), result(seconds=1.0, diverged="at once")]
    assert to_come(left, done, 1) == "3 to come, about 60 s, those of CoLA not counted"
    done.append(result("cola", seconds=4.0))
    assert to_come(left, done, 2) == "3 to come, about 32 s"


def test_scores_hold_medians_and_what_each_seed_had() -> None:
    results = [result(seed=seed, score=score) for seed, score in ((2, 62.0), (0, 60.0), (1, None))]
    results.append(result("cola", score=None))
    assert to_scores(results) == {"RTE": 60.0, "seeds": {"RTE": [60.0, None, 62.0]}}


def test_a_difference_is_marked_inside_the_seeds_and_unknown_with_one() -> None:
    three = [result(seed=seed, score=score) for seed, score in enumerate((60.0, 61.0, 63.0))]
    near, far = ([result(seed=s, score=v + s) for s in range(3)] for v in (62.0, 70.0))
    assert differences(three, near)[1:] == [["RTE", "accuracy", "61.0", "63.0", "-2.0", "~"]]
    assert differences(three, far)[1][-2:] == ["-10.0", ""]
    assert differences(three, far[:1])[1][-2:] == ["-9.0", "?"]
