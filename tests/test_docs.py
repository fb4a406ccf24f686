"""The documents are up to date with the code, and every command in them is one that it takes.

Here they are parsed; test_docs_run.py runs those that a CPU can run.
"""

import re
import shlex
from pathlib import Path

import pytest

from mslt import cli, reference
from mslt.options import Options, Values

ROOT = Path(__file__).parents[1]
PAGES = {
    page.name: page.read_text(encoding="utf-8")
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}


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
