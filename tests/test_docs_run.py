"""The commands of the documents are run, in their order and on a tiny scale.

That is fewer steps and seeds, narrow models, fp32, and a made-up text in the place of any other,
also of the hub's. Run are those of the guide, choose-a-plan, comparison, grow and reproduce; what
torchrun starts there is run as one process. Only parsed, in test_docs.py, are torchrun's own
options, with their hosts and GPUs, and the commands of all other pages.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import text
from made_up_run import CONFIG, end_stages, new_run
from test_docs import commands

from mslt.analysis import trial
from mslt.cli import main
from mslt.config import PlanConfig
from mslt.data.tokenizer import SPECIAL
from mslt.export import export

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

NARROW = ["--model.hidden_size", "16"]
SHORT = [
    *("--batch_size", "4", "--plan.seq_len", "16", "--eval_batches", "1", "--log_every", "1"),
    *("--device", "cpu", "--precision", "fp32", "--steps", "10"),
]
LETTERS = "abcdefghij"  # of which the made-up text consists
PIECES = [*SPECIAL, ".", *LETTERS, *(f"##{letter}" for letter in LETTERS)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands are run: a folder with the texts that pages take to be there."""
    monkeypatch.chdir(tmp_path)
    for name, few in {"FIRST": 2, "FEWEST": 2, "MOST": 2, "ROUNDS": 1}.items():
        monkeypatch.setattr(trial, name, few)
    for seed, name in enumerate(("my_text", "wikipedia", "books")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(text(60, seed), encoding="utf-8")
    return tmp_path


def make_model(layers: int, out: Path) -> None:
    """Somebody's trained BERT, as Hugging Face has it."""
    shape = replace(CONFIG.model, num_hidden_layers=layers, vocab_size=len(PIECES))
    config = replace(CONFIG, model=shape, plan=PlanConfig(method="whole", seq_len=32))
    run = new_run(out.with_name(f"{out.name}-made") / "run", config, PIECES)
    end_stages(run, 1)
    export(run.path, out)


def small(command: str, rest: list[str]) -> list[str]:
    """The options of a page's command, and those that make little of it."""
    if "--resume" in rest:
        return [*rest, "--seeds", "2"] if "--seeds" in rest else rest
    if command == "prepare" and "--merge" not in rest:
        pieces = [] if "--tokenizer" in rest else ["--vocab_size", "120"]
        return [*rest, *pieces, "--heldout", "0.1", "--workers", "1"]
    if command == "compare":
        return [*rest, *NARROW, *SHORT, "--steps", "20", "--seeds", "1"]
    if command == "pretrain":
        imported = Path(rest[rest.index("--out") + 1]).exists()  # a model that has its shape
        return [*rest, *SHORT] if imported else [*rest, *NARROW, *SHORT]
    return [*rest, *NARROW, *SHORT] if command == "plan" and "--gpus" not in rest else rest


def in_full(words: list[str]) -> Iterator[list[str]]:
    """A page's command as a shell and several machines make it: patterns, every shard."""
    words = [re.sub("^hf:.*", "wikipedia/", word) for word in words]
    if "--shard" in words:
        for number in range(1, 9):
            yield [re.sub("^(shards/)?2(/8)?$", rf"\g<1>{number}\g<2>", word) for word in words]
    else:
        yield [f for w in words for f in (sorted(map(str, Path().glob(w))) if "*" in w else [w])]


def do(page: str, capsys: pytest.CaptureFixture[str]) -> tuple[list[str], str]:
    """Run all commands of a page; return their names, and what they said."""
    done, said = [], ""
    for command, *rest in commands(page):
        if "--merge" in rest:
            Path("store").rename("store-of-one-machine")  # the page makes it both ways
        for words in in_full(rest):
            assert main([command, *small(command, words)]) == 0, capsys.readouterr().err
        out = capsys.readouterr().out
        if "--json" in rest:
            Path("plan.json").write_text(out, encoding="utf-8")
        if "--out" in rest:
            assert Path(rest[rest.index("--out") + 1]).exists()
        done, said = [*done, command], said + out
    return done, said


def test_the_guide_to_ones_own_text(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done, said = do("guide-own-text.md", capsys)
    assert done == [
        *("prepare", "prepare", "plan", "pretrain", "pretrain", "watch", "pretrain", "export"),
    ]
    assert (place / "my-bert" / "model.safetensors").is_file()
    assert re.search(r"predicted [\d.]+ s of training by its own steps 2 to 2: took", said)


def test_choosing_a_plan(place: Path, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "store").symlink_to(store)
    done, said = do("choose-a-plan.md", capsys)
    assert done == [*["plan"] * 4, "pretrain", "plan", "compare"]
    assert re.search(r"predicted [\d.]+ s of training by 1 x 2 steps of each kind", said)
    assert "This ranks time, not quality" in " ".join(said.split())


def test_comparing_plans(place: Path, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "store").symlink_to(store)
    done, _ = do("comparison.md", capsys)
    assert done == [*["compare"] * 3, "curves", "compare"]
    assert len(list((place / "compared" / "runs").iterdir())) == 6
    assert len(list((place / "same-steps" / "runs").iterdir())) == 4


def test_growing_a_model(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_model(12, place / "my-bert")
    make_model(6, place / "my-bert-6-layers")
    done, _ = do("grow.md", capsys)
    assert done == ["import", "prepare", "pretrain", "export", "import", "pretrain"]
    depths = [path.name.split("-")[-1] for path in sorted((place / "grown/stages").iterdir())]
    assert depths == ["6", "9", "12", "12"]


def test_reproducing_the_paper(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "bert-base-uncased").mkdir()
    (place / "bert-base-uncased" / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    done, said = do("reproduce.md", capsys)
    assert done == ["recipes", *["prepare"] * 3, "plan", *["pretrain"] * 8, "compare"]
    assert "bert_base_mslt_without_retraining" in said
    alone, merged = (
        {path.name: path.read_bytes() for path in (place / name).glob("*") if path.is_file()}
        for name in ("store-of-one-machine", "store")
    )
    assert merged
    assert merged == alone
