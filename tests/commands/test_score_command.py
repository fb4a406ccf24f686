"""mslt score prints what the official scripts compute, or one line about what is wrong."""

import json
from pathlib import Path

import pytest

from mslt.cli import main


def files(folder: Path, *, without: bool) -> tuple[str, str, str]:
    """A data set of two questions, predictions, and probabilities of no answer."""
    entries = [
        {"id": "a", "question": "Who?", "answers": [{"text": "Anna", "answer_start": 4}]},
        {"id": "b", "question": "Where?", "answers": [{"text": "Rome", "answer_start": 12}]},
    ]
    if without:
        entries[1] |= {"answers": [], "is_impossible": True}
    paragraphs = [{"context": "For Anna in Rome.", "qas": entries}]
    contents = {
        "dev.json": {"version": "", "data": [{"title": "T", "paragraphs": paragraphs}]},
        "predictions.json": {"a": "the ANNA!", "b": "in Rome"},
        "na_prob.json": {"a": 0.2, "b": 0.7},
    }
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return tuple(str(folder / name) for name in contents)  # type: ignore[return-value]


def test_predictions_are_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset, said, _ = files(tmp_path, without=False)
    assert main(["score", dataset, said]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "exact": 50.0,
        "f1": 100 * (1 + 2 / 3) / 2,
        "questions": 2,
        "unanswered": 0,
    }


def test_the_best_threshold_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset, said, chances = files(tmp_path, without=True)
    assert main(["score", dataset, said, "--na_prob", chances]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert (scores["f1"], scores["no_answer_f1"]) == (50, 0)
    assert (scores["best_f1"], scores["best_f1_threshold"]) == (100, 0.2)


def test_what_is_wrong_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset, said, _ = files(tmp_path, without=False)
    assert main(["score", said, said]) == 2
    assert capsys.readouterr().err == f"mslt: {said}: data is not there\n"
    assert main(["score", dataset]) == 2
    assert capsys.readouterr().err.startswith("mslt: PREDICTIONS is missing")
