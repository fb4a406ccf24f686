"""What a run shows: plain lines elsewhere, a bar on a terminal, and the time that is left."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from made_up_run import CONFIG, new_run
from screens import Terminal, shown

from mslt import console as console_module
from mslt.console import Console
from mslt.forecast import Forecast

PLAN = CONFIG.stages()  # 400 steps of 2 layers, 400 of 4 with the top 2 learning, 200 of all 4


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The console's time, in `now`."""
    made = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(console_module, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Put a terminal in the place of stdout."""
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)  # not in a fixture: pytest sets its own after those
    monkeypatch.setenv("COLUMNS", "81")
    monkeypatch.setenv("TERM", "xterm")
    return out


FACTS = {"text": {"train": {"tokens": 64_000}}, "precision": "fp32", "device": "cpu"}


def begun(step: int = 0, forecast: Forecast | None = None) -> Console:
    """A console that has told what is about to run."""
    console = Console(PLAN, 8, step)
    facts = FACTS | ({"forecast": forecast.to_dict()} if forecast else {})
    console.header(CONFIG, facts, Path("run"))
    return console


def logged(seconds: float) -> dict[str, float]:
    return {
        "mlm_loss": 2.34567,
        "tokens_per_second": 12345.6,
        "seconds": seconds,
        "memory": 412_000_000,
    }


def test_the_beginning_tells_model_stages_learning_rate_and_forecast(
    capsys: pytest.CaptureFixture[str],
) -> None:
    begun(forecast=Forecast("a guess", (0.1, 0.2, 0.4)))
    assert capsys.readouterr().out.splitlines() == [
        "run: 4 layers of 32, 15 pieces, lamb, fp32 on cpu, 64,000 tokens of text",
        "  stage 1: 2 layers, all learn, length 32, 400 steps",
        "  stage 2: 4 layers, the top 2 learn, length 32, 400 steps",
        "  stage 3: 4 layers, all learn, length 32, 200 steps",
        "  peak learning rate 0.001 after 30 steps of warm-up; 8 sequences per step",
        "  predicted by a guess: 3 min of training",
    ]


def test_a_run_that_goes_on_says_from_where(capsys: pytest.CaptureFixture[str]) -> None:
    begun(step=450)
    assert "  goes on after step 450" in capsys.readouterr().out.splitlines()


def test_plain_lines_come_every_ten_seconds_and_at_a_stages_end(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    with begun(forecast=Forecast("a guess", (1.0, 1.0, 2.0))) as console:
        console.enter(0, PLAN.stages[0], range(400))
        for step, now in ((10, 1000.0), (20, 1009.0), (30, 1011.0), (390, 1012.0), (400, 1013.0)):
            clock.now = now
            console.advance(step)
            console.train(step, logged(step * 0.6))
    captured = capsys.readouterr()
    assert re.findall(r"^step (\d+)/1,000", captured.out, re.MULTILINE) == ["10", "30", "400"]
    assert (
        "step 10/1,000 (stage 1/3, 2 layers, all learn, length 32): loss 2.346, "
        "12,346 tokens/s, about 12 min left"  # 0.6 s for each of 790 steps, 1.2 s for 200
    ) in captured.out.splitlines()
    assert captured.err == ""


def test_evaluations_and_the_end_are_told_with_what_was_predicted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, console = new_run(tmp_path / "run"), Console(PLAN, 8)
    values = {"mlm_loss": 1.5, "mlm_accuracy": 0.375, "seconds": 100.0}
    console.heldout(400, values)
    console.heldout(1000, values | {"pair_accuracy": 0.75})
    for step, seconds in ((400, 40.0), (800, 120.0), (1000, 210.0)):
        run.record("heldout", step, values | {"seconds": seconds})
    run.foretell(Forecast("a guess", (0.1, 0.2, 0.4)))
    console.footer(run, run.path)
    assert capsys.readouterr().out.splitlines() == [
        "step 400: held-out loss 1.5000, accuracy 37.5%",
        "step 1,000: held-out loss 1.5000, accuracy 37.5%, pair accuracy 75.0%",
        "finished: held-out loss 1.5000 (token frequencies alone: 2.5000) after 4 min of training",
        "  predicted 200.0 s of training by a guess: took 5.0% more; "
        "furthest off in stage 3, 12.5% more",
        f"  mslt export {run.path} --out DIR   writes it for Hugging Face",
    ]


def test_a_warning_comes_once(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(PLAN, 8)
    for _ in range(3):
        console.warn_once("nothing is learned")
    assert capsys.readouterr().out == "nothing is learned\n"


def test_a_terminal_gets_a_view_and_lines_above_it(
    monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace
) -> None:
    out = terminal(monkeypatch)
    with begun(step=100) as console:
        for index, start in ((0, 100), (1, 400)):
            console.enter(index, PLAN.stages[index], range(start, PLAN.ends[index]))
            console.advance(start + 10)
            console.train(start + 10, logged(0.6 * (start + 10)))
            console.say(f"after {start + 10}")
    lines = shown(out.getvalue())
    assert lines[:8] == [*lines[:6], "after 110", "after 410"]
    assert [re.sub("[━─┼]+", "=", line) for line in lines[8:]] == [
        "stage 2 of 3  =    2 %     10/400   6 min left",
        "the whole     =   41 %  410/1,000  11 min left",
        "loss 2.346 · 12,346 tokens/s · 412 MB · 4 layers, the top 2 learn, length 32",
    ]
    assert "step 110" not in out.getvalue()


def test_the_time_left_falls_with_the_steps_alone(
    monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace
) -> None:
    out = terminal(monkeypatch)
    with begun(forecast=Forecast("a guess", (0.1, 0.1, 0.1))) as console:
        console.enter(0, PLAN.stages[0], range(400))
        console.train(10, logged(1.0))
        clock.now += 200  # it evaluates and saves
        console.advance(200)
    assert "  20 s left" in shown(out.getvalue())[-3]  # of 39


def test_a_stage_that_begins_has_its_own_time_left(
    monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace
) -> None:
    out = terminal(monkeypatch)
    with begun(forecast=Forecast("a guess", (0.1, 0.2, 0.4))) as console:
        console.enter(0, PLAN.stages[0], range(400))
        console.train(10, logged(1.0))
        console.train(400, logged(40.0))
        ended = shown(out.getvalue())[-3]
        console.enter(1, PLAN.stages[1], range(400, 800))
        begins = shown(out.getvalue())[-3]
    for line in (ended, begins):
        assert re.search(r"stage 2 of 3 .* 0 %      0/400   80 s left$", line), line


def test_a_quiet_console_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    out = terminal(monkeypatch)
    with Console(PLAN, 8, quiet=True) as console:
        console.enter(0, PLAN.stages[0], range(400))
        console.advance(400)
        console.train(400, logged(1.0))
        console.heldout(400, {"mlm_loss": 1.0, "mlm_accuracy": 0.5})
        console.warn_once("nothing is learned")
    assert out.getvalue() == ""
