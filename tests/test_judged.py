"""The runs of a comparison are fine-tuned, and its tables show the scores."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_tasks import write_task
from tiny_run import TINY

from mslt.cli import main
from mslt.compare import Comparison, begin
from mslt.config import PlanConfig
from mslt.finetune.tasks import GLUE


def test_scores_of_every_run_stand_in_the_papers_tables(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plans = {
        name: replace(TINY, plan=PlanConfig(method, seq_len=32))
        for name, method in (("whole", "whole"), ("stacking", "stacking"))
    }
    compared = tmp_path / "compared"
    assert begin(Comparison("steps", store, (0,), plans, dict.fromkeys(plans, "")), compared) == 0
    for name in ("rte", "wnli"):
        write_task(tmp_path / "glue", GLUE[name], list("abcdefghij"), rows=16)
    by_hand = compared / "runs" / "whole-seed0" / "scores.json"
    by_hand.write_text('{"MNLI": 84.3, "RTE": 1}')
    words = [
        *("finetune", str(compared), "--tasks", "rte", "--glue_dir", str(tmp_path / "glue")),
        *("--out", str(tmp_path / "judged"), "--lrs", "1e-3", "--seeds", "1", "--epochs", "1"),
        *("--max_length", "16", "--device", "cpu"),
    ]
    assert main(words) == 0, capsys.readouterr().err
    tables = {t["table"]: t for t in json.loads((compared / "compare.json").read_text())["tables"]}
    for name in plans:
        scores = json.loads((compared / "runs" / f"{name}-seed0" / "scores.json").read_text())
        assert 0 <= scores["RTE"] <= 100
        assert f"{scores['RTE']:.1f}" in (compared / "tables.md").read_text()
    assert "5" in tables
    again = [word.replace("rte", "wnli") for word in words]
    assert main(again) == 0, capsys.readouterr().err
    kept = json.loads(by_hand.read_text())
    assert kept["MNLI"] == 84.3
    assert kept["RTE"] != 1
    assert set(kept) == {"MNLI", "RTE", "seeds"}  # WNLI has no column in the paper's tables
    assert kept["seeds"] == {"RTE": [kept["RTE"]]}
    assert main([*words, "--against", str(tmp_path / "judged")]) == 2
    assert "against has no effect on a comparison" in capsys.readouterr().err
