"""The campaigns of `torture/`, in one process and without what takes seconds. See its docstring."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mslt.cli import main
from torture import configs, corpora, hostile, watch
from torture.box import Outcome
from torture.cases import Case, complaints

Answer = Callable[[Case], list[str]]


@pytest.fixture
def answer(tmp_path: Path, monkeypatch, capsys) -> Iterator[Answer]:
    """What is wrong with the answer to a case, run under watch in a folder of its own."""
    log = tmp_path / "log"
    (tmp_path / "box").mkdir()
    monkeypatch.chdir(tmp_path / "box")

    def run(case: Case) -> list[str]:
        case.lay_out(tmp_path / "box")
        words = [word if isinstance(word, str) else os.fsdecode(word) for word in case.words]
        start = time.process_time()  # other work may keep the cores busy
        watch.begin(str(tmp_path / "box"), str(log))
        try:
            status = main(words)
        finally:
            watch.end()
        noticed = tuple(log.read_text().splitlines()) if log.exists() else ()
        said = capsys.readouterr()
        seconds = time.process_time() - start
        outcome = Outcome(status, said.out, said.err, seconds, peak=0, noticed=noticed)
        return complaints(case, outcome, tmp_path / "box")

    yield run
    watch.end()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all cases start from: a store, and a run that has ended."""
    folder = tmp_path_factory.mktemp("setting")
    hostile.setting(folder)
    return folder


@pytest.mark.parametrize("case", configs.CASES, ids=lambda case: case.name[:60])
def test_a_bad_configuration_is_refused_in_one_line(
    case: Case, shared: Path, tmp_path: Path, answer: Answer
) -> None:
    (tmp_path / "shared").symlink_to(shared)
    assert answer(case) == []


@pytest.mark.parametrize("case", hostile.CASES, ids=lambda case: case.name)
def test_a_hostile_file_is_refused_in_one_line_or_taken_as_data(
    case: Case, shared: Path, tmp_path: Path, answer: Answer
) -> None:
    (tmp_path / "shared").symlink_to(shared)
    assert answer(case) == []


STRICT = [case for case in corpora.CASES if case.name.endswith("strict") and not case.heavy]


@pytest.mark.parametrize("case", STRICT, ids=lambda case: case.name)
def test_a_bad_corpus_is_refused_in_one_line_and_an_odd_one_is_taken(
    case: Case, answer: Answer
) -> None:
    assert answer(case) == []


@pytest.mark.parametrize("policy", ["skip", "replace"])
def test_all_bad_corpora_together_are_passed_over(policy: str, answer: Answer) -> None:
    assert answer(corpora.together(policy)) == []
