"""`mslt plan` answers by arithmetic or by the clock, and refuses what has no effect."""

import json
from pathlib import Path

import pytest
from tiny_run import TINY

from mslt.analysis import trial
from mslt.cli import main
from mslt.forecast import Forecast
from mslt.plan import Plan, Stage

SMALL = ["--model.hidden_size", "16", "--batch_size", "4", "--plan.seq_len", "32", "--steps", "100"]


def test_the_table_has_the_other_methods_beside_the_recipe(capsys) -> None:
    assert main(["plan", "bert_base_mslt", "--gpus", "8", "--link", "25GbE"]) == 0
    out = capsys.readouterr().out
    for words in ("whole", "stacking", "sent", "8 GPUs joined by 25 GbE", "30,522 pieces (no --da"):
        assert words in out
    assert "Memory is that of tensors at their peak" in out


def test_rounds_that_differ_are_told_of_by_the_plan_that_they_concern_most() -> None:
    plan = Plan((Stage(2, steps=30), Stage(4, 2, steps=10)))
    kinds = {
        (2, 0, 128): trial._Kind([0.05, 0.05], [], []),
        (4, 2, 128): trial._Kind([0.07, 0.05], [], []),
    }
    other = Plan((Stage(2, steps=1), Stage(4, 2, steps=100)))
    assert trial._apart([plan], kinds) == pytest.approx(2.2 / 2 - 1)
    assert trial._apart([plan, other], kinds) == pytest.approx(7.05 / 5.05 - 1)


def test_a_search_says_that_it_knows_nothing_of_quality(capsys) -> None:
    assert main(["plan", "bert_tiny_mslt", "--tflops", "0.1", "--search"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "The first by its options: --plan.k 12 --plan.shares" in out
    assert "This ranks time, not quality" in out


def test_steps_are_timed_and_pretrain_reads_what_was_predicted(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "MOST", trial.FEWEST)
    monkeypatch.setattr(trial, "QUIET", -1.0)
    words = ["plan", "bert_tiny_mslt", "--data", str(store), *SMALL]
    assert main([*words, "--measure", "--json"]) == 0
    captured = capsys.readouterr()
    assert "3 layers, all learn, length 32: " in captured.err
    assert captured.err.splitlines()[-1].startswith("this machine is not quiet: by one round a pl")
    found = json.loads(captured.out)
    assert [row["depth"] for row in found["stages"]] == [3, 6, 9, 12, 12]
    assert all(row["seconds"] > 0 and row["memory"] > 1e8 for row in found["stages"])
    assert found["bound_seconds"] < found["seconds"]
    assert [other["name"] for other in found["beside"]] == ["whole", "stacking"]
    assert "timed here" in found["forecast"]["by"]
    assert found["forecast"]["evaluation"] > 0
    assert Forecast.of_run(found, TINY.stages()) is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "RECIPE is missing"),
        ("bert_tiny_mslt --measure", "--data is missing"),
        ("bert_tiny_mslt --measure --tflops 3", "tflops has no effect beside measure"),
        ("bert_tiny_mslt --link 25GbE", "link has no effect without several --gpus"),
        ("bert_tiny_mslt --gpus 65", "batch_size is 64, too few for 65 processes"),
        ("bert_tiny_mslt --gpus 0", "gpus must be 1 or more, not 0"),
        ("bert_tiny_mslt --gpus 2 --link fast", "link must be NVLink or a number of Gbit/s"),
        ("bert_tiny_mslt --gpus 2 --link 0GbE", "link must be NVLink or a number of Gbit/s"),
        ("bert_tiny_mslt --tflops -1", "tflops must be above 0, not -1"),
        ("bert_tiny_mslt --plan.k 5", "plan.k must divide the 12 layers"),
        ("bert_tiny_mslt --data {tmp}", "is not a token store"),
    ],
)
def test_what_has_no_effect_or_no_meaning_is_refused(
    words: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *words.format(tmp=tmp_path).split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert says in captured.err
    assert captured.err.count("\n") == 1
