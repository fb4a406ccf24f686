"""A submission is what GLUE's server takes, and anything else is refused by file and line."""

import random
import zipfile
from pathlib import Path

import pytest

from mslt.cli import main
from mslt.finetune import submission
from mslt.finetune.tasks import GLUE

LINES = {  # with the heading, as the server counts them
    "AX": 1105,
    "CoLA": 1064,
    "MNLI-m": 9797,
    "MNLI-mm": 9848,
    "MRPC": 1726,
    "QNLI": 5464,
    "QQP": 390_966,
    "RTE": 3001,
    "SST-2": 1822,
    "STS-B": 1380,
    "WNLI": 147,
}


def put(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def test_the_files_and_their_rows_are_glues() -> None:
    assert {file: test.rows + 1 for file, (_, test) in submission.SUBMITTED.items()} == LINES


def test_what_is_written_is_right(tmp_path: Path) -> None:
    files = {test.file: submission.fill(task, test) for task in GLUE.values() for test in task.test}
    submission.write(tmp_path / "out.zip", files)
    checked = submission.check(tmp_path / "out.zip")
    assert set(checked.files) == set(LINES)
    assert checked.missing == ()
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.read("RTE.tsv").decode().splitlines()[:2] == [
            "index\tprediction",
            "0\tentailment",
        ]


def test_numbers_are_kept_within_their_range() -> None:
    text = submission.to_file(GLUE["stsb"], [-0.2, 5.4, 2.5])
    assert text.splitlines()[1:] == ["0\t0.000", "1\t5.000", "2\t2.500"]


def wnli(**changed: str) -> str:
    rows = {str(i): f"{i}\t0" for i in range(146)}
    return "\n".join(["index\tprediction", *(changed.get(f"row{i}", r) for i, r in rows.items())])


def stsb(row7: str) -> str:
    rows = [f"{i}\t2.500" for i in range(1379)]
    return "\n".join(["index\tprediction", *rows[:7], row7, *rows[8:]])


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "is empty"),
        ({"answers/WNLI.tsv": wnli()}, r"answers/WNLI\.tsv: there is no such file"),
        ({"WNLI.tsv": wnli().replace("index", "id", 1)}, r"WNLI\.tsv:1: the heading"),
        ({"WNLI.tsv": wnli() + "\n146\t0"}, "has 148 lines with the heading, not 147"),
        ({"WNLI.tsv": wnli(row3="4\t0")}, r"WNLI\.tsv:5: the index is '4', not 3"),
        ({"WNLI.tsv": wnli(row3="3\t2")}, r"WNLI\.tsv:5: the prediction is '2', not 0 or 1"),
        *(
            ({"STS-B.tsv": stsb(f"7\t{said}")}, r"STS-B\.tsv:9: .* not a number from 0 to 5")
            for said in ("0_1", "\u0663", " 2", "nan", "5.1", "-0.1", "1e0", "")
        ),
    ],
)
def test_what_the_server_would_refuse_is_named(files, says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says):
        submission.check(put(tmp_path / "x.zip", files))


def test_what_is_no_zip_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match="is no zip"):
        submission.check(tmp_path / "x.zip")
    with pytest.raises(FileNotFoundError):
        submission.check(tmp_path / "y.zip")


@pytest.mark.parametrize("method", ["STORED", "DEFLATED", "BZIP2", "LZMA"])
def test_a_damaged_zip_is_right_or_refused_by_its_name(method: str, tmp_path: Path) -> None:
    file, draw = tmp_path / "x.zip", random.Random(method)
    with zipfile.ZipFile(file, "w", getattr(zipfile, f"ZIP_{method}")) as archive:
        archive.writestr("WNLI.tsv", wnli())
    whole, complaints = file.read_bytes(), []
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        file.write_bytes(damaged[: draw.choice([len(damaged), draw.randrange(len(damaged))])])
        try:
            submission.check(file)
        except ValueError as error:
            complaints.append(str(error))
    assert len(complaints) > 150  # a time stamp may be any
    assert all(said.startswith(str(file)) for said in complaints)


def test_a_zip_that_lacks_files_is_incomplete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = put(tmp_path / "x.zip", {"WNLI.tsv": wnli()})
    assert main(["submit", "--check", str(file)]) == 2
    assert "is incomplete: it has WNLI, and lacks MNLI-m, " in capsys.readouterr().err


def test_a_zip_finds_its_folder_or_is_refused_before_it_is_written(tmp_path: Path) -> None:
    submission.write(tmp_path / "a" / "b" / "x.zip", {"WNLI": wnli()})
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["x.zip"]
    with pytest.raises(ValueError, match="exists already"):
        submission.make_room(tmp_path / "a" / "b" / "x.zip")
    with pytest.raises(NotADirectoryError):
        submission.make_room(tmp_path / "a" / "b" / "x.zip" / "c" / "y.zip")
