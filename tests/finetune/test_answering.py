"""Test sets are answered by the models of a grid, as they were trained."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_run import CONFIG
from made_up_tasks import words_of

from mslt.data import tokenizer as tokenizers
from mslt.finetune import answering, glue, submission
from mslt.finetune.examples import encode
from mslt.finetune.loop import predict
from mslt.finetune.model import TaskModel, read, write
from mslt.finetune.tasks import GLUE, Sentences
from mslt.model import Encoder
from mslt.run import Run

LENGTH = 12
TEXTS = ("is it so", "it is the capital " * 8)  # the second is longer than examples were


@pytest.fixture
def grid(finished: Run, tmp_path: Path) -> Path:
    """As `mslt finetune` leaves a folder, but for what `submit` does not read."""
    for seed, name in enumerate(("mnli", "stsb", "wnli")):
        task, folder = GLUE[name], tmp_path / "grid" / name
        folder.mkdir(parents=True)
        model = TaskModel(Encoder(CONFIG.model, 2, seed=seed), len(task.labels) or 1, seed)
        write(folder, model, finished.path / "tokenizer", task.labels)
    (tmp_path / "grid" / "grid.json").write_text(json.dumps({"max_length": LENGTH}))
    return tmp_path / "grid"


@pytest.fixture
def data(finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Test sets of a few rows, which count as the official ones here."""
    folder, words = tmp_path / "glue", words_of(finished.path / "tokenizer")
    short = {name: _short(task) for name, task in GLUE.items()}
    for name in ("mnli", "stsb", "wnli"):
        for test in short[name].test:
            lines = [f"{i}\t{' '.join([words[i]] * (1 + 5 * i))}\tof" for i in range(test.rows)]
            file = folder / (test.path or f"{short[name].folder}/{test.split}.tsv")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join(["index\tsentence1\tsentence2", *lines, ""]))
    monkeypatch.setattr(answering, "GLUE", short)
    files = {test.file: (task, test) for task in short.values() for test in task.test}
    monkeypatch.setattr(submission, "SUBMITTED", files)
    return folder


def _short(task: Sentences) -> Sentences:
    return replace(task, test=tuple(replace(t, rows=3 + i) for i, t in enumerate(task.test)))


def test_each_model_answers_its_test_sets_at_the_length_of_the_grid(
    grid: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "folder" / "x.zip"
    answering.submit(grid, str(data), out, fill=True, device="cpu")
    checked = submission.check(out)
    assert (len(checked.files), checked.missing) == (11, ())
    with zipfile.ZipFile(out) as archive:
        said = {name: archive.read(name).decode().splitlines()[1:] for name in archive.namelist()}
    assert said["RTE.tsv"] == [f"{i}\tentailment" for i in range(3)]  # no model; a constant
    for name in ("mnli", "stsb", "wnli"):
        task, model = answering.GLUE[name], read(grid / name)
        for test in task.test:
            asked = glue.read_test(data, task, test)
            encoded = encode(asked, tokenizers.given(grid / name), LENGTH)
            assert max(map(len, encoded.ids)) == LENGTH
            for line, logits in zip(said[f"{test.file}.tsv"], predict(model, encoded), strict=True):
                answer = line.partition("\t")[2]
                if task.labels:
                    assert answer == task.labels[logits.argmax()]
                else:
                    assert float(answer) == pytest.approx(min(max(logits[0], 0), 5), abs=6e-4)


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ("{}", r"grid\.json is damaged: it lacks max_length"),
        ('{"max_length": 48}', "40 positions, and grid.json examples of 48"),
        ('{"max_length": null}', "40 positions, and grid.json examples of 128"),
    ],
)
def test_a_length_that_was_never_trained_is_refused(
    facts: str, says: str, grid: Path, data: Path, tmp_path: Path
) -> None:
    (grid / "grid.json").write_text(facts)
    with pytest.raises(ValueError, match=says):
        answering.submit(grid, str(data), tmp_path / "x.zip", fill=True, device="cpu")


def test_what_is_not_there_is_refused_before_anything_is_answered(
    grid: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"has no model of qqp, qnli, .*--fill"):
        answering.submit(grid, str(data), tmp_path / "x.zip", fill=False, device="cpu")
    with pytest.raises(ValueError, match="has no task's model"):
        answering.submit(tmp_path, str(data), tmp_path / "x.zip", fill=True, device="cpu")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        answering.submit(grid, "nowhere", tmp_path / "file/x.zip", fill=True, device="cpu")
