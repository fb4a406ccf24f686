"""Comparing plans: killed, stopped, resumed and refused."""

import io
import json
import re
import signal
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from processes import together
from tiny_run import TINY, losses

from mslt import compare as comparing
from mslt import turns
from mslt.cli import main
from mslt.compare import Comparison, begin, resume
from mslt.config import PlanConfig
from mslt.guard import Diverged

PLAN = PlanConfig(method="mslt", k=2, retrain=0.2, seq_len=32)
MSLT = replace(TINY, plan=PLAN, save_every=3, eval_every=5, keep=2)
WHOLE = replace(MSLT, plan=PlanConfig(method="whole", seq_len=32))
RUNS = ["whole-seed0", "mslt-seed0", "whole-seed1", "mslt-seed1"]


def comparison(store: Path, **changes: Any) -> Comparison:
    plans = {"whole": WHOLE, "mslt": MSLT}
    given = {name: f"{name} by hand" for name in plans}
    return replace(Comparison("steps", store, (0, 1), plans, given), **changes)


@pytest.fixture(scope="module")
def unbroken(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of two plans and two seeds that nothing has disturbed."""
    out = tmp_path_factory.mktemp("compare") / "unbroken"
    assert begin(comparison(store), out) == 0
    return out


def kept(out: Path) -> dict[str, Any]:
    return json.loads((out / "compare.json").read_text())


def results(out: Path) -> dict[str, Any]:
    runs = kept(out)["runs"]
    return {f"{run['plan']}-seed{run['seed']}": run["heldout_loss"] for run in runs}


def test_it_leaves_runs_tables_and_what_was_compared(unbroken: Path) -> None:
    assert sorted(path.name for path in (unbroken / "runs").iterdir()) == sorted(RUNS)
    assert list(results(unbroken)) == ["whole-seed0", "whole-seed1", "mslt-seed0", "mslt-seed1"]
    for name, loss in results(unbroken).items():
        assert losses(unbroken / "runs" / name)[-1][:3] == ("heldout", 10, loss)
    text = (unbroken / "tables.md").read_text()
    assert "**Table 1: the same steps" in text
    assert "n/a" in text
    assert "\\toprule" in (unbroken / "tables.tex").read_text()
    assert (unbroken / "tables.csv").read_text().startswith("table,plan,column,unit,median")
    assert {t["table"] for t in kept(unbroken)["tables"]} == {"", "1", "5"}


class Killed(BaseException):
    """What no handler catches."""


@pytest.mark.parametrize("turn", [5, 17, 33])
def test_a_killed_comparison_goes_on_and_ends_bit_for_bit_as_unbroken(
    store: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turn: int
) -> None:
    in_turns, left = comparing.in_turns, [turn]

    def dies(loops, blocks):
        for each in in_turns(loops, blocks):
            left[0] -= 1
            if not left[0]:
                raise Killed
            yield each

    monkeypatch.setattr(comparing, "in_turns", dies)
    with pytest.raises(Killed):
        begin(comparison(store), tmp_path / "out")
    monkeypatch.setattr(comparing, "in_turns", in_turns)
    finished = [path for path in (tmp_path / "out" / "runs").iterdir() if "seed0" in path.name]
    before = {path: (path / "metrics.jsonl").read_bytes() for path in finished}
    assert resume(tmp_path / "out") == 0
    for name in RUNS:
        assert losses(tmp_path / "out" / "runs" / name) == losses(unbroken / "runs" / name)
    assert results(tmp_path / "out") == results(unbroken)
    if turn > 20:  # the first seed was finished, and is kept as it was
        assert all((p / "metrics.jsonl").read_bytes() == text for p, text in before.items())


def test_a_signal_saves_all_runs_and_stops(
    store: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_turns = comparing.in_turns

    def stops(loops, blocks):
        for number, each in enumerate(in_turns(loops, blocks)):
            if number == 8:
                signal.raise_signal(signal.SIGTERM)
            yield each

    monkeypatch.setattr(comparing, "in_turns", stops)
    assert begin(comparison(store), tmp_path / "out") == 128 + signal.SIGTERM
    steps = [len(losses(tmp_path / "out" / "runs" / name)) for name in RUNS[:2]]
    for name in RUNS[:2]:
        newest = sorted((tmp_path / "out" / "runs" / name / "checkpoints").iterdir())[-1]
        assert newest.name in ("step-00000004", "step-00000005"), steps
    monkeypatch.setattr(comparing, "in_turns", in_turns)
    assert resume(tmp_path / "out") == 0
    assert results(tmp_path / "out") == results(unbroken)


def part_of(store: Path, out: Path) -> int:
    """What each of several processes does."""
    with redirect_stdout(io.StringIO()):
        return begin(comparison(store, seeds=(0,)), out)


def test_several_processes_share_the_work(store: Path, unbroken: Path, tmp_path: Path) -> None:
    assert together(2, part_of, store, tmp_path / "out") == [0, 0]
    shared = results(tmp_path / "out")
    assert list(shared) == ["whole-seed0", "mslt-seed0"]
    for name, loss in shared.items():
        assert loss == pytest.approx(results(unbroken)[name], rel=1e-5)  # sums in another order


def test_a_run_that_diverges_is_given_up_once_and_for_all_and_told_of(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train = turns.train

    def breaks(job, state, run, console):
        for done in train(job, state, run, console):
            if run.path.name == "mslt-seed0" and done.step == 3:
                raise Diverged("mlm_loss is nan", 3, 2)
            yield done

    monkeypatch.setattr(turns, "train", breaks)
    out = tmp_path / "out"
    assert begin(comparison(store, seeds=(0,)), out) == 0
    assert "mslt-seed0 is given up: mlm_loss is nan at step 3" in capsys.readouterr().out
    assert list(results(out)) == ["whole-seed0"]
    assert "mslt-seed0 was given up: mlm\\_loss is nan" in (out / "tables.md").read_text()
    monkeypatch.setattr(turns, "train", train)
    assert resume(out) == 0
    assert list(results(out)) == ["whole-seed0"]


def test_more_seeds_can_be_added_to_a_finished_comparison(
    store: Path, unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = comparison(store, seeds=(0,))
    assert begin(one, tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert re.search(r"^seed 0, 10%: no evaluation yet; \d+ s left of it$", said, re.MULTILINE)
    for name in ("whole", "mslt"):
        told = rf"^{name}-seed0: predicted [\d.]+ s of training by its own steps 2 to 2: took"
        assert len(re.findall(told, said, re.MULTILINE)) == 1
    assert resume(tmp_path / "out", seeds=2) == 0
    assert results(tmp_path / "out") == results(unbroken)
    with pytest.raises(ValueError, match="has 2 seeds already, more than 1"):
        resume(tmp_path / "out", seeds=1)


def test_what_would_not_see_the_same_data_is_not_compared(store: Path, tmp_path: Path) -> None:
    for key, value in {"batch_size": 8, "steps": 12}.items():
        other = {"whole": WHOLE, "mslt": replace(MSLT, **{key: value})}
        with pytest.raises(ValueError, match=f"{key} is .* in whole, but {value} in mslt"):
            begin(comparison(store, configs=other), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_comparison_that_stands_is_not_begun_again(store: Path, unbroken: Path) -> None:
    with pytest.raises(ValueError, match="holds a comparison: go on with --resume"):
        begin(comparison(store), unbroken)


def test_a_damaged_file_is_named(unbroken: Path, tmp_path: Path) -> None:
    values = kept(unbroken)
    for key, value, says in (
        ("budget", "luck", "budget is 'luck'"),
        ("configs", {"a": {"steps": "x"}}, "steps must be a whole number"),
        ("configs", {"../a": {}}, "'../a' is no name of a file"),
    ):
        (tmp_path / "compare.json").write_text(json.dumps({**values, key: value}))
        with pytest.raises(ValueError, match=f"compare.json.*{says}"):
            Comparison.read(tmp_path)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("demo_whole --data s --out o", "a comparison needs two plans or more"),
        ("demo_whole demo_whole --data s --out o", "two plans have the same name"),
        ("demo_whole demo_msl --data s --out o", "unknown recipe demo_msl; did you mean demo_mslt"),
        ("a/b=demo_whole demo_mslt --data s --out o", "'a/b' is no name for a plan"),
        ("demo_whole demo_mslt+plan.kk=3 --data s --out o", "demo_mslt: unknown option --plan.kk"),
        ("demo_whole demo_mslt --plan.k 6 --data s --out o", "demo_whole: plan.k has no effect on"),
        ("demo_whole demo_mslt --timed_by x --data s --out o", "timed_by has no effect without"),
        (
            "demo_whole demo_mslt --budget recipe --steps 9 --data s --out o",
            "steps has no effect wi",
        ),
        ("demo_whole demo_mslt --seeds 0 --data s --out o", "seeds must be 1 or more, not 0"),
        (
            "demo_whole demo_mslt+seed=2 --data s --out o",
            "demo_mslt: all plans have the same seeds",
        ),
        ("--resume --out o --steps 5", "steps has no effect with --resume"),
        ("demo_whole --resume --out o", "recipe has no effect with --resume"),
        ("--resume --out o", "o is no comparison: it has no compare.json"),
        ("demo_whole demo_mslt --data s", "--out is missing"),
        ("demo_whole demo_mslt --budget hours --data s --out o", "budget must be steps, time or"),
    ],
)
def test_a_wrong_command_line_is_refused_in_a_line(
    words: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *words.split()]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


def test_a_recipe_may_have_a_name_and_options_of_its_own(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[Comparison] = []
    monkeypatch.setattr(comparing, "begin", lambda each, out, **_: got.append(each) or 0)
    words = "early=demo_mslt+plan.shares=50,5,5,5,35+schedule.lr=1e-4 demo_whole --steps 40"
    more = ["--data", str(store), "--out", "o", "--seeds", "3", "--seed", "5"]
    assert main(["compare", *words.split(), *more]) == 0
    configs = got[0].configs
    assert list(configs) == ["early", "demo_whole"]
    assert configs["early"].plan.shares == [50, 5, 5, 5, 35]
    assert [config.schedule.lr for config in configs.values()] == [1e-4, 8e-4]
    assert [config.steps for config in configs.values()] == [40, 40]
    assert got[0].seeds == (5, 6, 7)
