"""Answers are judged as SQuAD's official scripts judge them; every case is worked out by hand."""

import json
import re
from pathlib import Path

import pytest

from mslt.finetune.squad import Answer, Question, read, read_set
from mslt.finetune.squad_score import (
    apply,
    best_threshold,
    evaluate,
    evaluate_file,
    exact,
    f1,
    judge,
    normal,
)
from mslt.finetune.tasks import TASKS as ALL
from mslt.finetune.tasks import Questions

TASKS = {name: task for name, task in ALL.items() if isinstance(task, Questions)}


def asked(name: str, *answers: str) -> Question:
    context = " ".join(answers)
    return Question(name, "?", context, tuple(Answer(a, context.index(a)) for a in answers))


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The  Eiffel\tTower.", "eiffel tower"),
        ("an apple a day", "apple day"),
        ("a.m.", "am"),  # punctuation goes before articles
        ("U.S.-based", "usbased"),
        ("theatre another", "theatre another"),
        ("“the” ½", "“ ” ½"),  # only ASCII is punctuation; a quote bounds a word
        ("The", ""),
        ("", ""),
    ],
)
def test_a_text_in_its_normal_form(text: str, plain: str) -> None:
    assert normal(text) == plain


def test_exact_match_and_f1_of_words() -> None:
    assert exact("the Denver Broncos!", "Denver Broncos") == 1
    assert exact("Denver", "Denver Broncos") == 0
    assert f1("Denver", "the Denver Broncos") == 2 * 1 * 0.5 / 1.5
    assert f1("a b b c", "b b d") == 2 * (2 / 3) * (2 / 3) / (4 / 3)  # the a goes; b counts twice
    assert f1("b b", "b") == 2 * 0.5 * 1 / 1.5
    assert f1("x", "y") == 0
    assert (f1("", ""), f1("the", ""), f1("", "x"), f1("x", "")) == (1, 1, 0, 0)


def test_of_several_answers_the_one_that_fits_best_counts_for_each_score() -> None:
    question = asked("q", "in the year 1989", "1989 and 1990", "1990")
    exacts, f1s = judge([question], {"q": "1990 and 1989"})
    assert (exacts["q"], f1s["q"]) == (0, 1)  # the same words in another order
    assert judge([question], {"q": "1990."})[0]["q"] == 1


def test_answers_of_punctuation_alone_are_judged_as_each_version_does() -> None:
    dot = asked("q", ".", "$5")
    assert judge([dot], {"q": "!"}) == ({"q": 1.0}, {"q": 0.0})  # 1.1
    exacts, f1s = judge([dot, asked("none")], {"q": "!"})  # 2.0
    assert (exacts["q"], f1s["q"]) == (0, 0)
    assert judge([asked("q", "."), asked("none")], {"q": "the"})[0]["q"] == 1


def test_the_scores_of_a_set_by_hand() -> None:
    questions = [asked("a", "Paris"), asked("b", "red wine"), asked("c"), asked("d")]
    scores = evaluate(questions, {"a": "paris", "b": "the wine", "c": "", "z": "elsewhere"})
    assert scores == {
        "exact": 50.0,
        "f1": 100 * (1 + 2 / 3 + 1) / 4,
        "has_answer_exact": 50.0,
        "has_answer_f1": 100 * (1 + 2 / 3) / 2,
        "no_answer_exact": 50.0,  # d has no prediction, which is not the same as no answer
        "no_answer_f1": 50.0,
        "questions": 4,
        "unanswered": 1,
    }


def test_the_best_threshold_by_hand() -> None:
    questions = [asked("a", "x"), asked("b"), asked("c", "y"), asked("d")]
    said = {"a": "x", "b": "wrong", "c": "y", "d": "wrong"}
    chances = {"a": 0.1, "b": 0.3, "c": 0.4, "d": 0.9}
    judged = judge(questions, said)[1]
    # Nothing answered 2; then a 3, b 2, c 3, d 2 of 4: the first of equals is kept.
    assert best_threshold(questions, said, judged, chances) == (75.0, 0.1)
    assert apply(said, chances, 0.1) == {"a": "x", "b": "", "c": "", "d": ""}
    assert evaluate(questions, apply(said, chances, 0.1))["f1"] == 75
    worthless = {name: 1 - chance for name, chance in chances.items()}
    assert best_threshold(questions, said, judged, worthless) == (50.0, 0.0)


ENTRY = {
    "id": "q1",
    "question": "Where?",
    "answers": [{"text": "Rome", "answer_start": 3}],
}


def official(*entries: dict, context: str = "In Rome, today.") -> dict:
    paragraphs = [{"context": context, "qas": list(entries)}]
    return {"version": "1.1", "data": [{"title": "Italy", "paragraphs": paragraphs}]}


def written(folder: Path, content: object, name: str = "dev-v1.1.json") -> Path:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder / name


def test_the_official_file_is_read(tmp_path: Path) -> None:
    written(tmp_path, official(ENTRY))
    question = Question("q1", "Where?", "In Rome, today.", (Answer("Rome", 3),))
    assert read_set(tmp_path, TASKS["squad1.1"], "dev") == [question]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"question": 3}, "article 1 (Italy), question q1: question is not a text"),
        ({"answers": None}, "question q1: answers is not a list"),
        ({"answers": [{"text": "Rome", "answer_start": 4}]}, "'Rome' is not at character 4"),
        ({"answers": [{"text": "Rome", "answer_start": True}]}, "answer_start is not a whole"),
        ({"answers": ["Rome"]}, "question q1: an entry is no object"),
        ({"is_impossible": True}, "question q1: is_impossible contradicts its answers"),
        ({"id": 7}, "article 1 (Italy): id is not a text"),
    ],
)
def test_a_damaged_entry_is_told_by_file_article_and_question(
    tmp_path: Path, change: dict, told: str
) -> None:
    path = written(tmp_path, official(ENTRY | change))
    with pytest.raises(ValueError, match=re.escape(told)) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: ")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"dev-v1.1.json does not exist: --squad_dir"):
        read_set(tmp_path, TASKS["squad1.1"], "dev")
    written(tmp_path, official(ENTRY, ENTRY))
    with pytest.raises(ValueError, match="question q1 is there twice"):
        read_set(tmp_path, TASKS["squad1.1"], "dev")
    written(tmp_path, official(ENTRY | {"answers": []}))
    with pytest.raises(ValueError, match=r"not of SQuAD1\.1: it has a question without"):
        read_set(tmp_path, TASKS["squad1.1"], "dev")
    written(tmp_path, official(ENTRY), "dev-v2.0.json")
    with pytest.raises(ValueError, match=r"not of SQuAD2\.0: it has no question without"):
        read_set(tmp_path, TASKS["squad2.0"], "dev")
    with pytest.raises(ValueError, match="has no question"):
        read(written(tmp_path, official()))
    with pytest.raises(ValueError, match="data is not there"):
        read(written(tmp_path, {}))


def test_files_of_predictions_are_evaluated(tmp_path: Path) -> None:
    entries = [ENTRY, ENTRY | {"id": "q2", "answers": [], "is_impossible": True}]
    questions = read(written(tmp_path, official(*entries)))
    said = written(tmp_path, {"q1": "in Rome", "q2": "today"}, "predictions.json")
    chances = written(tmp_path, {"q1": 0.25, "q2": 0.75}, "na_prob.json")
    scores = evaluate_file(questions, said, chances)
    assert (scores["exact"], scores["f1"]) == (0, 100 * (2 / 3) / 2)
    assert (scores["best_exact"], scores["best_exact_threshold"]) == (50, 0)
    assert scores["best_f1"] == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert scores["best_f1_threshold"] == 0.25


def test_damaged_files_of_predictions_are_refused(tmp_path: Path) -> None:
    questions = read(written(tmp_path, official(ENTRY)))
    with pytest.raises(ValueError, match="the value of q1 is not a text"):
        evaluate_file(questions, written(tmp_path, {"q1": 3}, "predictions.json"))
    with pytest.raises(ValueError, match="no prediction for any of the set's questions"):
        evaluate_file(questions, written(tmp_path, {"q2": "Rome"}, "predictions.json"))
    said = written(tmp_path, {"q1": "Rome"}, "predictions.json")
    with pytest.raises(ValueError, match="lacks question q1"):
        evaluate_file(questions, said, written(tmp_path, {}, "na_prob.json"))
    with pytest.raises(ValueError, match="the value of q1 is not a number"):
        evaluate_file(questions, said, written(tmp_path, {"q1": "0.5"}, "na_prob.json"))


def test_the_hubs_rows_are_the_same_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    rows = [
        {
            "id": "q1",
            "title": "Italy",
            "context": "In Rome, today.",
            "question": "Where?",
            "answers": {"text": ["Rome"], "answer_start": [3]},
        }
    ]
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda name, config, split: {
            ("rajpurkar/squad", "validation"): datasets.Dataset.from_list(rows)
        }[name, split],
    )
    written(tmp_path, official(ENTRY))
    task = TASKS["squad1.1"]
    assert read_set("hf:rajpurkar/squad", task, "dev") == read_set(tmp_path, task, "dev")
