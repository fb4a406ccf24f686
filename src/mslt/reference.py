"""docs/reference.md, made from what every command understands: python -m mslt.reference > FILE."""

import io
from contextlib import redirect_stdout, suppress

from mslt.cli import COMMANDS
from mslt.options import REFERENCE

_HEAD = """# Reference: every command and option

Made from the code by `python -m mslt.reference > docs/reference.md`; `mslt COMMAND --help` says the
same, and beside a recipe's name the values of that recipe. Options may be written with dashes or
underscores, with `=` or a space. The defaults of `mslt pretrain` are those of the paper's recipes.
"""


def reference() -> str:
    """The page."""
    pages = [_HEAD]
    for command in COMMANDS.values():
        page = io.StringIO()
        with redirect_stdout(page), suppress(SystemExit):
            command([REFERENCE])
        pages.append(page.getvalue())
    return "\n".join(pages)


if __name__ == "__main__":
    print(reference(), end="")
