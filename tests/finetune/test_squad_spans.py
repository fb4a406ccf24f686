"""Questions as windows, spans as answers, and a model that is fine-tuned on made-up questions."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from theirs import our_model, shape, some_inputs, their_model
from tokenizers import Tokenizer
from transformers import AutoModelForQuestionAnswering

from mslt.cli import main
from mslt.config import ModelConfig
from mslt.data.tokenizer import build, save
from mslt.finetune.loop import How, fine_tune
from mslt.finetune.material import Folders, check, load
from mslt.finetune.model import TaskModel, write
from mslt.finetune.squad import Answer, Question, read_set
from mslt.finetune.squad_material import answered
from mslt.finetune.squad_score import evaluate_file
from mslt.finetune.squad_spans import Span, spans, windows
from mslt.finetune.tasks import TASKS as ALL
from mslt.finetune.tasks import Questions
from mslt.model import Encoder

TASKS = {name: task for name, task in ALL.items() if isinstance(task, Questions)}
WORDS = [f"w{i}" for i in range(80)]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "where", "?", ",", "red", "is", *WORDS]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return build({piece: i for i, piece in enumerate(PIECES)}, lowercase=True)


def long_question() -> Question:
    """A text of 300 words, W0 to W79 again and again, with an answer at the 200th."""
    words = [WORDS[i % 80].upper() for i in range(300)]
    context = "  ".join(words)
    text = "  ".join(words[200:203])
    start = len("  ".join(words[:200])) + 2
    return Question("q", "where ?", context, (Answer(text, start),))


def test_windows_cover_a_text_and_know_where_its_answer_is(tokenizer: Tokenizer) -> None:
    cut = windows([long_question()], tokenizer, length=128, stride=64)
    texts = [ids[first:-1] for ids, first in zip(cut.encoded.ids, cut.first)]
    # [CLS] where ? [SEP] and the last [SEP] leave 123 tokens of text.
    assert [len(text) for text in texts] == [123, 123, 123, 300 - 3 * 64]
    for i, text in enumerate(texts):
        assert text.tolist() == [10 + (64 * i + j) % 80 for j in range(len(text))]
        assert cut.encoded.ids[i][[0, 3, -1]].tolist() == [2, 3, 3]
        assert cut.encoded.segments[i].tolist() == [0] * 4 + [1] * (len(text) + 1)
    # Tokens 200 to 202 are in the windows that begin at 128 and 192.
    assert cut.encoded.labels.tolist() == [[0, 0], [0, 0], [76, 78], [12, 14]]


def test_each_token_has_one_window_that_speaks_for_it(tokenizer: Tokenizer) -> None:
    cut = windows([long_question()], tokenizer, length=128, stride=64)
    heard = np.zeros(300, int)
    for i, speaks in enumerate(cut.speaks):
        heard[64 * i : 64 * i + len(speaks)] += speaks
    assert (heard == 1).all()
    # Token 80 has 42 to its right in the first window and 16 to its left in the second.
    assert cut.speaks[0][80]
    assert not cut.speaks[1][80 - 64]


def test_the_answer_of_the_best_ends_is_its_text_in_the_context(tokenizer: Tokenizer) -> None:
    question = long_question()
    cut = windows([question], tokenizer, length=128, stride=64)
    logits = [np.zeros((len(ids), 2), np.float32) for ids in cut.encoded.ids]
    for values, (first, last) in zip(logits, cut.encoded.labels):
        values[first, 0] = values[last, 1] = 5  # [CLS], where the window has no answer
    logits[3][0] = -7, -1
    best, none = spans([question], cut, logits)
    assert best[0][0] == Span("W40  W41  W42", 5.0, 5.0)
    assert len(best[0]) == 20
    assert len({span.text for span in best[0]}) == 20
    assert none == [Span("", -7.0, -1.0)]


def test_no_answer_is_longer_than_thirty_tokens_or_ends_before_it_begins(
    tokenizer: Tokenizer,
) -> None:
    question = Question("q", "where ?", " ".join(WORDS[:60]), ())
    cut = windows([question], tokenizer, length=128, stride=64)
    logits = np.zeros((65, 2), np.float32)
    logits[4 + 10, 0] = 9
    logits[4 + 40, 1], logits[4 + 39, 1], logits[4 + 9, 1] = 8, 7, 8
    best, _ = spans([question], cut, [logits])
    assert best[0][0].text == " ".join(WORDS[10:40])
    assert best[0][0].score == 16


def test_a_window_needs_room_beside_a_question(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="a length must be at least 128"):
        windows([long_question()], tokenizer, length=127, stride=64)


def test_the_threshold_of_no_answer_is_applied_and_told() -> None:
    questions = [Question("a", "?", "x y", (Answer("x", 0),)), Question("b", "?", "x y", ())]
    best = [[Span("x", 3, 3), Span("y", 0, 0)], [Span("y", 1, 1)]]
    none = [Span("", 2, 2), Span("", 1, 2)]
    scores, files = answered(questions, TASKS["squad2.0"], best, none)
    chances = json.loads(files["na_prob.json"])
    assert chances == {"a": pytest.approx(1 / (1 + np.e**2)), "b": pytest.approx(np.e / (1 + np.e))}
    assert json.loads(files["predictions.json"]) == {"a": "x", "b": ""}
    assert (scores["exact"], scores["f1"], scores["threshold"]) == (100, 100, chances["a"])
    ranked = json.loads(files["nbest_predictions.json"])
    assert [entry["text"] for entry in ranked["a"]] == ["x", "", "y"]
    assert [entry["text"] for entry in ranked["b"]] == ["", "y"]
    assert sum(entry["probability"] for entry in ranked["a"]) == pytest.approx(1)
    given, files = answered(questions, TASKS["squad2.0"], best, none, threshold=0.9)
    assert json.loads(files["predictions.json"]) == {"a": "x", "b": "y"}
    assert (given["exact"], given["threshold"]) == (50, 0.9)


def made_up(folder: Path, name: str, count: int, seed: int, without: bool) -> None:
    """Questions whose answer is the word `red`; some texts have none."""
    random, paragraphs = np.random.default_rng(seed), []
    for i in range(count):
        words = [WORDS[j] for j in random.integers(0, 80, 12)]
        place, answers = int(random.integers(0, 11)), []
        if not without or i % 2:
            words.insert(place, "red")
            start = len(" ".join([*words[:place], ""]))
            answers = [{"text": "red", "answer_start": start}]
        entry = {"id": f"{name}{i}", "question": "where ?", "answers": answers}
        paragraphs.append({"context": " ".join(words), "qas": [entry]})
    data = {"version": "", "data": [{"title": "made up", "paragraphs": paragraphs}]}
    (folder / name).write_text(json.dumps(data), encoding="utf-8")


@pytest.mark.parametrize("name", ["squad1.1", "squad2.0"])
def test_a_model_learns_made_up_questions(tmp_path: Path, tokenizer: Tokenizer, name: str) -> None:
    task = TASKS[name]
    made_up(tmp_path, task.train, 600, 0, task.unanswerable)
    made_up(tmp_path, task.dev, 40, 1, task.unanswerable)
    folders = Folders(squad=str(tmp_path), length=128, most=550)
    check(task, folders)
    data = load(task, folders, tokenizer)
    assert len(data.train) == 550
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=len(PIECES),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    model = TaskModel(Encoder(config), data.classes, seed=0)
    how = How(lr=1e-2, epochs=3, batch_size=task.batch_size, seed=0)
    fine_tune(model, data.train, replace(how, precision="bf16" if task.unanswerable else "fp32"))
    scores, files = data.judge(model, "cpu")
    assert scores["f1"] is not None
    assert scores["f1"] > 80
    assert ("na_prob.json" in files) == task.unanswerable
    (tmp_path / "predictions.json").write_bytes(files["predictions.json"])
    again = evaluate_file(read_set(tmp_path, task, "dev"), tmp_path / "predictions.json")
    counts = {"questions": 40, "unanswered": 0}
    assert again == {k: v for k, v in scores.items() if k != "threshold"} | counts


def test_a_grid_leaves_the_official_files_and_models_for_transformers(tmp_path: Path) -> None:
    data, out, tokenizer = tmp_path / "squad", tmp_path / "out", tmp_path / "bert"
    data.mkdir()
    for task in TASKS.values():
        made_up(data, task.train, 30, 0, task.unanswerable)
        made_up(data, task.dev, 20, 1, task.unanswerable)
    config = replace(shape(layers=1), max_position_embeddings=128)
    their_model(config).save_pretrained(tokenizer)
    save(build({piece: i for i, piece in enumerate(PIECES)}, lowercase=True), tokenizer)
    line = ["finetune", str(tokenizer), "--out", str(out), "--squad_dir", str(data)]
    how = ["--tasks", "squad1.1,squad2.0", "--seeds", "1", "--epochs", "1", "--max_train", "24"]
    assert main([*line, *how]) == 2  # 384 tokens are more than 128 positions
    assert main([*line, *how, "--max_length", "128", "--stride", "50", "--device", "cpu"]) == 0
    scores = json.loads((out / "scores.json").read_text())
    assert set(scores) - {"seeds"} == {"SQuAD1.1 F1", "SQuAD1.1 EM", "SQuAD2.0 F1", "SQuAD2.0 EM"}
    for task in TASKS.values():
        cell = out / "cells" / f"{task.name}-lr{task.lrs[0]:g}-seed0"
        files = {path.name for path in cell.glob("*.json")} - {"result.json"}
        of_2 = {"na_prob.json"} if task.unanswerable else set()
        assert files == {"predictions.json", "nbest_predictions.json"} | of_2
        again = evaluate_file(read_set(data, task, "dev"), cell / "predictions.json")
        assert again["f1"] == pytest.approx(scores[f"{task.title} F1"])
        AutoModelForQuestionAnswering.from_pretrained(out / task.name)


def test_a_task_is_known_by_the_content_of_its_files(tmp_path: Path) -> None:
    task, folders = TASKS["squad1.1"], Folders(squad=str(tmp_path))
    made_up(tmp_path, task.train, 5, 0, False)
    made_up(tmp_path, task.dev, 5, 1, False)
    before = folders.print_of(task)
    assert folders.print_of(task) == before
    made_up(tmp_path, task.dev, 5, 2, False)
    assert folders.print_of(task) != before
    assert Folders(squad="hf:rajpurkar/squad").print_of(task) == "hf:rajpurkar/squad"


@pytest.mark.parametrize("family", ["bert", "albert"])
def test_what_is_written_answers_alike_in_transformers(
    tmp_path: Path, tokenizer: Tokenizer, family: str
) -> None:
    config = shape(**({} if family == "bert" else {"embedding_size": 16, "num_hidden_groups": 3}))
    model = TaskModel(our_model(their_model(config), config), None, seed=3).eval()
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    save(tokenizer, folder)
    write(tmp_path, model, folder)
    theirs, report = AutoModelForQuestionAnswering.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    inputs = some_inputs(padded=True)
    with torch.no_grad():
        ours = model.logits(inputs.input_ids, inputs.segment_ids, inputs.seen)
        said = theirs.eval()(
            inputs.input_ids, attention_mask=inputs.seen, token_type_ids=inputs.segment_ids
        )
    both = torch.stack([said.start_logits, said.end_logits], -1)
    torch.testing.assert_close(ours[inputs.seen], both[inputs.seen], rtol=0, atol=1e-5)
