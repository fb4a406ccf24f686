"""mslt demo: the method in three minutes."""

import itertools
from pathlib import Path

from mslt.options import Options


def command(argv: list[str]) -> int:
    """Train a small BERT twice, whole and by MSLT, and compare."""
    options = Options(
        "mslt demo [options]",
        "Train a small BERT on the docstrings of this installation, whole and by MSLT, offline.",
        ["mslt demo", "mslt demo --out somewhere --seconds 60"],
    )
    options.option("out", str, "folder of the results (default: mslt-demo, or the next free name)")
    options.option(
        "seconds",
        float,
        "training time of both runs together (default: 160, or what learning anything takes)",
    )
    given = options.parse(argv)
    if given.get("seconds") is not None and not given["seconds"] > 0:
        raise ValueError(f"seconds must be above 0, not {given['seconds']}")

    from mslt.demo import demo

    demo(Path(given["out"]) if given.get("out") else _free("mslt-demo"), given.get("seconds"))
    return 0


def _free(name: str) -> Path:
    """A folder that does not exist yet: the name, or with -2, -3, ... behind it."""
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(path for path in map(Path, names) if not path.exists())
