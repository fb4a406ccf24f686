"""`mslt attention` writes pictures and numbers of models that fit together, and refuses others."""

import csv
import io
import json
from pathlib import Path

import pytest
from made_up_run import PIECES, end_stages, new_run
from tiny_run import TINY, steps

from mslt.cli import main
from mslt.run import Run

TEXT = "the capital of france is paris ."


def test_stages_of_a_run_are_measured_on_its_own_held_out_text(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps(TINY, store, tmp_path / "run", TINY.steps)
    stages = sorted(str(folder) for folder in (tmp_path / "run" / "stages").iterdir())[:2]
    out = tmp_path / "seen"
    words = ["attention", *stages, "--out", str(out), "--heads", "L4 H1", "--sequences", "8"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "8 sequences, " in said
    assert "of held-out text" in said
    values = json.loads((out / "attention.json").read_text(encoding="utf-8"))
    assert [model["name"] for model in values["models"]] == [Path(s).name for s in stages]
    assert values["last"] == len(stages) - 1
    # Stage 2 fixed the layers of stage 1: their attention is the same, bit by bit.
    onward = next(pair for pair in values["pairs"] if pair["models"] == [0, 1])
    assert [row["distance"]["mean"] for row in onward["layers"][1:]] == [0, 0]
    assert [row["weights"] for row in onward["layers"][1:]] == [0, 0]
    lines = list(csv.DictReader(io.StringIO((out / "attention.csv").read_text(encoding="utf-8"))))
    assert {line["measure"] for line in lines} >= {"cka", "distance", "share of heads"}
    names = {"rows", "same-heads", "looks", "drift", "L4H1"}
    names |= {f"heads-{i}" for i in range(1, len(stages) + 1)}
    pictures = {file.stem for file in out.glob("*.png")}
    assert pictures == {file.stem for file in out.glob("*.svg")} == names


def test_a_text_is_enough_and_models_may_stand_beside(
    finished: Run, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = str(finished.path), tmp_path / "seen"
    words = ["attention", run, "--beside", str(exported), "--text", TEXT, "--out", str(out)]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "1 sequence, 9 tokens of the text given" in said
    assert "exported" in said
    values = json.loads((out / "attention.json").read_text(encoding="utf-8"))
    assert [pair["models"] for pair in values["pairs"]] == [[1, 0]]
    assert [row["cka"] for row in values["pairs"][0]["layers"]] == pytest.approx([1] * 5)


def test_lines_of_a_file_are_a_sample(
    finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "lines.txt"
    file.write_text(f"{TEXT}\n\nparis is the capital\n", encoding="utf-8")
    words = ["attention", str(finished.path), "--file", str(file), "--out", str(tmp_path / "seen")]
    assert main(words) == 0
    assert "2 sequences, 15 tokens of lines.txt" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no text to look at"),
        (["--text", TEXT, "--heads", "5H4"], "must be of the form L5H4"),
        (["--text", TEXT, "--heads", "L5H1"], "no model has L5H1"),
        (["--text", TEXT, "--sequences", "3"], "sequences has no effect"),
        (["--text", TEXT, "--sequences", "0"], "must be 1 or more"),
        (["--file", "nowhere.txt"], "nowhere.txt"),
        (["--file", "a", "--data", "b"], "data has no effect beside file"),
        (["--text", TEXT, "--data", "nowhere"], "nowhere"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(
    finished: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    out = tmp_path / "seen"
    assert main(["attention", str(finished.path), "--out", str(out), *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not out.exists()


def test_models_that_cannot_be_shown_one_text_are_refused(
    finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    other = new_run(tmp_path / "other" / "run", pieces=[*PIECES[:-1], "another"])
    end_stages(other, 3)
    words = ["--text", TEXT, "--out", str(tmp_path / "seen")]
    run = str(finished.path)
    assert main(["attention", run, str(other.path), *words]) == 2
    assert "another vocabulary" in capsys.readouterr().err
    assert main(["attention", run, run, *words]) == 2
    assert "is there twice" in capsys.readouterr().err
