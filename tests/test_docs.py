"""The documents are up to date with the code, and every command in them is one that it takes."""

import re
import shlex
from pathlib import Path

import pytest
from conftest import text

from mslt import cli, reference
from mslt.analysis import trial
from mslt.options import Options, Values

ROOT = Path(__file__).parents[1]
PAGES = {
    page.name: page.read_text(encoding="utf-8")
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}
TINY = [
    *("--model.hidden_size", "16", "--batch_size", "4", "--plan.seq_len", "32"),
    *("--steps", "30", "--eval_batches", "1", "--device", "cpu", "--log_every", "5"),
]


def commands(page: str) -> list[list[str]]:
    """The words behind `mslt` of every line of a page's shell blocks, torchrun's included."""
    found = []
    for block in re.findall(r"```bash\n(.*?)```", PAGES[page], flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.partition(" > ")[0], comments=True)
            if "mslt" in words:
                found.append(words[words.index("mslt") + 1 :])
    return found


def test_the_reference_is_what_the_code_says() -> None:
    """python -m mslt.reference > docs/reference.md"""
    assert PAGES["reference.md"] == reference.reference()


def test_the_reference_has_every_command() -> None:
    assert re.findall(r"^## mslt (\w+)$", PAGES["reference.md"], re.MULTILINE) == list(cli.COMMANDS)


class Checked(Exception):
    """The options of a command were taken."""


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_is_one_that_the_program_takes(
    page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parse = Options.parse

    def checked(self: Options, argv: list[str]) -> Values:
        given = parse(self, argv)
        if given.get("print_config"):
            return given
        raise Checked

    monkeypatch.setattr(Options, "parse", checked)
    for command, *rest in commands(page):
        begun = page in ("reference.md", "grow.md") or "run2" in rest  # by what is not there
        if command == "pretrain" and not begun and "--resume" not in rest:
            assert cli.main([command, *rest, "--print_config"]) == 0, rest
        elif not command.startswith("--"):
            with pytest.raises(Checked):
                cli.main([command, *(word for word in rest if word != "--print_config")])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_guide_to_ones_own_text_is_finished_by_doing_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("FIRST", "FEWEST", "MOST"):
        monkeypatch.setattr(trial, name, 2)
    (tmp_path / "my_text").mkdir()
    (tmp_path / "my_text" / "a.txt").write_text(text(60), encoding="utf-8")
    done = []
    for command, *rest in commands("guide-own-text.md"):
        if command == "prepare":
            rest = [*rest, "--vocab_size", "120", "--heldout", "0.1", "--workers", "1"]
        elif command in ("plan", "pretrain") and "--resume" not in rest:
            rest = [*rest, *TINY]
        assert cli.main([command, *rest]) == 0, capsys.readouterr().err
        done.append(command)
    assert done == [
        *("prepare", "prepare", "plan", "pretrain", "pretrain", "watch", "pretrain", "export"),
    ]
    assert (tmp_path / "my-bert" / "model.safetensors").is_file()
    said = capsys.readouterr().out
    assert re.search(r"predicted [\d.]+ s of training by its own steps 6 to 6: took", said)
