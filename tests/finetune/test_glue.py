"""GLUE's official files are read as they are, and damaged rows are named."""

from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from mslt.finetune import glue
from mslt.finetune.tasks import GLUE, Sentences, Submitted


def put(folder: Path, path: str, text: str | bytes) -> None:
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())


# One row of each file by its official columns.
OFFICIAL = {
    "cola": ("CoLA/train.tsv", "gj04\t0\t*\tThey drank the pub.\n", ("They drank the pub.",), 0),
    "sst2": ("SST-2/train.tsv", "sentence\tlabel\na joy \t1\n", ("a joy",), 1),
    "mrpc": (
        "MRPC/train.tsv",
        '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tHe said " no\tHe refused\n',
        ('He said " no', "He refused"),
        1,
    ),
    "stsb": (
        "STS-B/train.tsv",
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
        "0\tmain\tMSR\t2012\t1\tnone\tnone\tA plane.\tAn air plane.\t4.750\n",
        ("A plane.", "An air plane."),
        4.75,
    ),
    "qqp": (
        "QQP/train.tsv",
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n5\t1\t2\tWhy?\tHow?\t0\n",
        ("Why?", "How?"),
        0,
    ),
    "mnli": (
        "MNLI/train.tsv",
        "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
        "sentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label\n"
        "0\t1\t1n\tfiction\t(\t(\t(\t(\tIt rains.\tIt pours.\tneutral\tneutral\n",
        ("It rains.", "It pours."),
        2,
    ),
    "qnli": (
        "QNLI/train.tsv",
        "index\tquestion\tsentence\tlabel\n0\tWho?\tHe did.\tentailment\n",
        ("Who?", "He did."),
        0,
    ),
    "rte": (
        "RTE/train.tsv",
        "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tnot_entailment\n",
        ("A.", "B."),
        1,
    ),
    "wnli": (
        "WNLI/train.tsv",
        "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\t1\n",
        ("A.", "B."),
        1,
    ),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_row_is_read_by_its_official_columns(name: str, tmp_path: Path) -> None:
    path, content, texts, label = OFFICIAL[name]
    put(tmp_path, path, content)
    (example,) = glue.read(tmp_path, GLUE[name], "train")
    assert example.text == texts
    assert example.label == label


def test_every_task_has_an_official_row_here() -> None:
    assert set(OFFICIAL) == set(GLUE)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("1\tonly two\n", r"RTE/train\.tsv:3: the row has 2 columns, not the 4"),
        ("1\tA.\tB.\tmaybe\n", r"train\.tsv:3: label is 'maybe', not entailment or not_entail"),
        ("1\t\t\tentailment\n", r"train\.tsv:3: the row has no text"),
        (b"1\tA\xff\tB.\tentailment\n", r"train\.tsv:3: the row is not UTF-8"),
    ],
)
def test_a_damaged_row_is_refused_by_file_and_line(
    row: str | bytes, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = OFFICIAL["rte"][1].encode()
    put(tmp_path, "RTE/train.tsv", good + (row if isinstance(row, bytes) else row.encode()))
    with pytest.raises(ValueError, match=f"{says}.*--bad_rows skip"):
        glue.read(tmp_path, GLUE["rte"], "train")
    assert len(glue.read(tmp_path, GLUE["rte"], "train", skip=True)) == 1
    assert "1 damaged rows were passed over" in capsys.readouterr().out


@pytest.mark.parametrize("score", ["nan", "77", "-1", "5.01", "1_0", "\u0663", "1e0", ""])
def test_a_rating_is_digits_from_0_to_5(score: str, tmp_path: Path) -> None:
    path, content, _, _ = OFFICIAL["stsb"]
    put(tmp_path, path, content.replace("4.750", score))
    with pytest.raises(ValueError, match=r"train\.tsv:2: score is '.*', not a number from 0 to 5"):
        glue.read(tmp_path, GLUE["stsb"], "train")


def test_blank_lines_are_no_rows_at_the_end_and_damage_elsewhere(tmp_path: Path) -> None:
    good = OFFICIAL["rte"][1]
    row = good.partition("\n")[2]
    put(tmp_path, "RTE/train.tsv", good + "\n \n")
    assert len(glue.read(tmp_path, GLUE["rte"], "train")) == 1
    put(tmp_path, "RTE/train.tsv", f"{good}\n{row}")
    with pytest.raises(ValueError, match=r"train\.tsv:3: the row is blank"):
        glue.read(tmp_path, GLUE["rte"], "train")
    assert len(glue.read(tmp_path, GLUE["rte"], "train", skip=True)) == 2


def test_sets_that_are_not_as_long_as_the_official_ones_are_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heading, _, row = OFFICIAL["wnli"][1].partition("\n")
    put(tmp_path, "WNLI/train.tsv", f"{heading}\n{row * 635}")
    put(tmp_path, "WNLI/dev.tsv", f"{heading}\n{row * 70}")
    glue.check(tmp_path, GLUE["wnli"])
    (told,) = capsys.readouterr().out.splitlines()
    assert told == f"mslt: {tmp_path}/WNLI/dev.tsv has 70 rows, and WNLI's official set 71"


def test_a_file_that_is_not_there_or_lacks_a_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"QQP/dev\.tsv does not exist: --glue_dir"):
        glue.read(tmp_path, GLUE["qqp"], "dev")
    put(tmp_path, "QQP/dev.tsv", "id\tquestion1\tis_duplicate\n")
    with pytest.raises(ValueError, match=r"dev\.tsv:1: there is no column 'question2'"):
        glue.read(tmp_path, GLUE["qqp"], "dev")


def test_a_test_set_of_another_size_than_the_official_one_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "WNLI/test.tsv", "index\tsentence1\tsentence2\n0\tA.\tB.\n")
    task = GLUE["wnli"]
    assert isinstance(task, Sentences)
    with pytest.raises(ValueError, match="has 1 rows where the official one has 146"):
        glue.read_test(tmp_path, task, task.test[0])
    (found,) = glue.read_test(tmp_path, task, Submitted("WNLI", 1))
    assert (found.label, found.index) == (None, "0")


# Each data set of nyu-mll/glue: its sets, its texts, the names of its answers by their numbers.
TWO = ("sentence1", "sentence2")
INFERS = ("premise", "hypothesis")
ENTAILS = ["entailment", "not_entailment"]
PARTS = ("train", "validation", "test")
HUB = {
    "ax": (("test",), INFERS, ["entailment", "neutral", "contradiction"]),
    "cola": (PARTS, ("sentence",), ["unacceptable", "acceptable"]),
    "mnli": (
        ("train", *(f"{p}_{m}" for p in PARTS[1:] for m in ("matched", "mismatched"))),
        INFERS,
        ["entailment", "neutral", "contradiction"],
    ),
    "mrpc": (PARTS, TWO, ["not_equivalent", "equivalent"]),
    "qnli": (PARTS, ("question", "sentence"), ENTAILS),
    "qqp": (PARTS, ("question1", "question2"), ["not_duplicate", "duplicate"]),
    "rte": (PARTS, TWO, ENTAILS),
    "sst2": (PARTS, ("sentence",), ["negative", "positive"]),
    "stsb": (PARTS, TWO, None),
    "wnli": (PARTS, TWO, ["not_entailment", "entailment"]),
}
OURS = {"mnli": [1, 2, 0], "stsb": [0.0, 4.75]}  # the numbers of the same answers here


def on_the_hub(monkeypatch: pytest.MonkeyPatch, **changed: Callable) -> None:
    """Let every set have a row for each answer, in the layout of nyu-mll/glue."""

    def load(name: str, config: str, split: str) -> datasets.Dataset:
        parts, texts, names = HUB[config]
        assert (name, split in parts) == ("nyu-mll/glue", True)
        answers = list(range(len(names))) if names else [0.0, 4.75]
        if split.startswith("test"):
            answers = [-1] * len(answers)
        columns = {t: [f"{config} {split} {t} {a} " for a in answers] for t in texts}
        columns |= {"label": answers, "idx": [10 * i for i in range(len(answers))]}
        kinds = {key: datasets.Value("string") for key in texts} | {"idx": datasets.Value("int32")}
        kinds["label"] = datasets.ClassLabel(names=names) if names else datasets.Value("float32")
        found = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
        return changed[config](found) if config in changed else found

    monkeypatch.setattr(datasets, "load_dataset", load)


@pytest.mark.parametrize("name", GLUE)
def test_the_hubs_sets_are_read_under_the_official_names(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_the_hub(monkeypatch)
    task, (_, texts, names) = GLUE[name], HUB[name]
    theirs = {"train": "train", "dev": "validation"}
    theirs |= {f"dev_{m}": f"validation_{m}" for m in ("matched", "mismatched")}
    for split in ("train", *task.dev):
        found = glue.read("hf:nyu-mll/glue", task, split)
        assert [e.label for e in found] == OURS.get(name, [0, 1])
        first = 0 if names else 0.0
        assert found[0].text == tuple(f"{name} {theirs[split]} {t} {first}" for t in texts)
    for test in task.test:
        rows = Submitted(test.file, len(found), test.split, test.path)
        asked = glue.read_test("hf:nyu-mll/glue", task, rows)
        assert [(e.label, e.index) for e in asked] == [(None, str(i)) for i in range(len(found))]
        assert asked[0].text[0].startswith("ax test" if test.file == "AX" else f"{name} test")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.rename_column("premise", "text1"), r"mnli, train: .* no column 'premise'"),
        (lambda d: d.remove_columns("label"), r"no column 'label'; there are premise, hyp"),
        (
            lambda d: d.cast_column("label", datasets.Value("int64")),
            "label has no names, not contradiction",
        ),
        (lambda d: d.map(lambda row: row | {"premise": None}), r"row 0: .* in column 'premise'"),
        (lambda d: d.map(lambda row: row | {"label": -1}), "gold_label is '-1', not contradiction"),
    ],
)
def test_what_the_hub_has_otherwise_is_named(
    change, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_the_hub(monkeypatch, mnli=change)
    with pytest.raises(ValueError, match=says):
        glue.read("hf:nyu-mll/glue", GLUE["mnli"], "train")
