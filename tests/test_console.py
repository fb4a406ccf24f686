"""What a run shows: plain lines elsewhere, a bar on a terminal, and the time that is left."""

import io
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from made_up_run import CONFIG, new_run

from mslt import console as console_module
from mslt.console import Console, Remaining, describe, duration
from mslt.plan import Plan, Stage

PLAN = CONFIG.stages()  # 400 steps of 2 layers, 400 of 4 with the top 2 learning, 200 of all 4
COSTS = (2 + 4, 4 + 4, 4 + 8)  # of a step in each stage: forward 1, backward 2 for each layer


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The console's time, in `now`."""
    made = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(console_module, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def terminal(monkeypatch: pytest.MonkeyPatch) -> tuple[Terminal, Terminal]:
    """Put a terminal in the place of stdout and stderr."""
    out, err = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)  # not in a fixture: pytest sets its own after those
    monkeypatch.setattr(sys, "stderr", err)
    return out, err


def logged(seconds: float) -> dict[str, float]:
    return {"mlm_loss": 2.34567, "tokens_per_second": 12345.6, "seconds": seconds}


def test_the_beginning_tells_model_stages_and_learning_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = {"text": {"train": {"tokens": 64_000}}, "precision": "fp32", "device": "cpu"}
    Console(PLAN, 8).header(CONFIG, facts, tmp_path)
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}: 4 layers of 32, 15 pieces, lamb, fp32 on cpu, 64,000 tokens of text",
        "  stage 1: 2 layers, all learn, length 32, 400 steps",
        "  stage 2: 4 layers, the top 2 learn, length 32, 400 steps",
        "  stage 3: 4 layers, all learn, length 32, 200 steps",
        "  peak learning rate 0.001 after 30 steps of warm-up; 8 sequences per step",
    ]


def test_plain_lines_come_every_ten_seconds_and_at_a_stages_end(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    with Console(PLAN, 8) as console:
        console.enter(0, PLAN.stages[0], range(400))
        for step, now in ((10, 1000.0), (20, 1009.0), (30, 1011.0), (390, 1012.0), (400, 1013.0)):
            clock.now = now
            console.advance(step)
            console.train(step, logged(step * 0.6))
    captured = capsys.readouterr()
    assert re.findall(r"^step (\d+)/1,000", captured.out, re.MULTILINE) == ["10", "30", "400"]
    assert captured.out.splitlines()[0] == (
        "step 10/1,000 (stage 1/3, 2 layers, all learn, length 32): loss 2.346, "
        "12,346 tokens/s, about 13 min left"
    )
    assert captured.err == ""


def test_evaluations_and_the_end_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, console = new_run(tmp_path / "run"), Console(PLAN, 8)
    values = {"mlm_loss": 1.5, "mlm_accuracy": 0.375, "seconds": 100.0}
    console.heldout(400, values)
    console.heldout(1000, values | {"pair_accuracy": 0.75})
    run.record("heldout", 1000, values)
    console.footer(run, run.path)
    assert capsys.readouterr().out.splitlines() == [
        "step 400: held-out loss 1.5000, accuracy 37.5%",
        "step 1,000: held-out loss 1.5000, accuracy 37.5%, pair accuracy 75.0%",
        "finished: held-out loss 1.5000 (token frequencies alone: 2.5000) after 2 min of training",
        f"  mslt export {run.path} --out DIR   writes it for Hugging Face",
    ]


def test_a_warning_comes_once(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(PLAN, 8)
    for _ in range(3):
        console.warn_once("nothing is learned")
    assert capsys.readouterr().out == "nothing is learned\n"


def test_a_terminal_gets_a_bar_and_lines_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout, stderr = terminal(monkeypatch)
    with Console(PLAN, 8, step=100) as console:
        console.say("before")
        for index, start in ((0, 100), (1, 400)):
            console.enter(index, PLAN.stages[index], range(start, PLAN.ends[index]))
            console.advance(start + 10)
            console.train(start + 10, logged(0.6 * (start + 10)))
            console.say(f"after {start + 10}")
    out, bar = stdout.getvalue(), stderr.getvalue()
    assert re.findall(r"\w[\w ]*", out) == ["before", "after 110", "after 410"]
    assert "stage 1/3" in bar
    assert "100/1000" in bar
    last = bar.rstrip("\n").split("\r")[-1]
    assert last.startswith("stage 2/3:  41%")
    assert "410/1000" in last
    assert "loss 2.346, 12,346 tok/s" in bar
    assert "step 110" not in out + bar


def test_a_quiet_console_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout, stderr = terminal(monkeypatch)
    with Console(PLAN, 8, quiet=True) as console:
        console.enter(0, PLAN.stages[0], range(400))
        console.advance(400)
        console.train(400, logged(1.0))
        console.heldout(400, {"mlm_loss": 1.0, "mlm_accuracy": 0.5})
        console.warn_once("nothing is learned")
    assert (stdout.getvalue(), stderr.getvalue()) == ("", "")


def truth(plan: Plan, step: int) -> float:
    """Seconds after `step` steps where a step takes a tenth of its cost."""
    ends, starts = plan.ends, (0, *plan.ends)
    done = [max(0, min(step, end) - start) for start, end in zip(starts, ends)]
    return sum(cost / 10 * steps for cost, steps in zip(COSTS, done))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_time_left_is_exact_where_steps_cost_what_their_layers_do(index: int) -> None:
    left, begin, end = Remaining(PLAN), (0, *PLAN.ends)[index], PLAN.ends[index]
    left.enter(index, begin)
    left.seconds(begin + 10, truth(PLAN, begin + 10))
    for step in (begin + 20, begin + 110, end):
        estimate = left.seconds(step, truth(PLAN, step))
        assert estimate == pytest.approx(truth(PLAN, PLAN.steps) - truth(PLAN, step))


def test_the_first_estimate_of_a_stage_takes_the_rate_so_far() -> None:
    left = Remaining(PLAN)
    left.enter(1, 400)
    # 0.6 s a step: 390 steps of this stage, and 200 of the last, which cost half as much again
    assert left.seconds(410, 246.0) == pytest.approx(390 * 0.6 + 200 * 0.6 * COSTS[2] / COSTS[1])


def test_longer_sequences_cost_more_in_proportion() -> None:
    left = Remaining(Plan((Stage(2, steps=100, seq_len=128), Stage(2, steps=100, seq_len=512))))
    left.enter(0, 0)
    assert left.seconds(100, 100.0) == pytest.approx(400.0)


def test_a_stage_in_words() -> None:
    assert describe(Stage(6, 0, 10, 128)) == "6 layers, all learn, length 128"
    assert describe(Stage(6, 3, 10, 512)) == "6 layers, the top 3 learn, length 512"


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        *((0.4, "0 s"), (45, "45 s"), (89.4, "89 s"), (90, "2 min"), (5369, "89 min")),
        *((5400, "1 h 30 min"), (12_000, "3 h 20 min"), (187_200, "2 d 4 h")),
    ],
)
def test_durations_are_as_people_write_them(seconds: float, says: str) -> None:
    assert duration(seconds) == says
