"""The command line. What is heavy is imported by the command that needs it, once all is checked."""

import io
import os
import sys
from collections.abc import Callable, Sequence

import mslt
from mslt import foreign
from mslt.commands import (
    attention,
    compare,
    curves,
    demo,
    export,
    finetune,
    importing,
    plan,
    prepare,
    pretrain,
    recipes,
    report,
    score,
    submit,
    watch,
)
from mslt.options import did_you_mean

OK, WRONG, INTERRUPTED, NOBODY_READS = 0, 2, 130, 141  # as a shell counts signals

_OVERVIEW = """usage: mslt COMMAND [options]

{says}

commands:
{commands}

options:
  -h, --help  show this help; mslt COMMAND --help shows a command's own
  --version   show the version

from text to a model:
  mslt prepare my_text/ --out store --vocab_size 8192
  mslt pretrain bert_tiny_mslt --data store --out run
  mslt export run --out my-bert"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: its words; the process's own by default.

    Returns:
        The exit status: 0, 2 after one line about what the user gave, 130 after Ctrl-C, 143 where
        SIGTERM ended a pre-training, 141 where nobody reads the output any more.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no text
    try:
        status = _dispatch(words)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # mslt pretrain --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOBODY_READS
    except KeyboardInterrupt:
        print("mslt: interrupted", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        text = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    except ValueError as error:
        text = str(error)
    print("mslt:", foreign.printable(text), file=sys.stderr)
    return WRONG


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        rows = [f"  {name:10}{(run.__doc__ or '').rstrip('.')}" for name, run in COMMANDS.items()]
        print(_OVERVIEW.format(says=mslt.__doc__, commands="\n".join(rows)))
        return OK
    name, *rest = words
    if name == "--version":
        print(f"mslt {mslt.__version__}")
        return OK
    if name not in COMMANDS:
        what = "option" if name.startswith("-") else "command"
        hint = did_you_mean(name, COMMANDS) or f"; the commands are {', '.join(COMMANDS)}"
        raise ValueError(f"unknown {what} {name}{hint}")
    return COMMANDS[name](rest)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "prepare": prepare.command,
    "plan": plan.command,
    "import": importing.command,
    "pretrain": pretrain.command,
    "watch": watch.command,
    "export": export.command,
    "finetune": finetune.command,
    "submit": submit.command,
    "compare": compare.command,
    "curves": curves.command,
    "attention": attention.command,
    "report": report.command,
    "score": score.command,
    "recipes": recipes.command,
    "demo": demo.command,
}
