"""mslt curves: a picture of runs' losses."""

from pathlib import Path

from mslt.analysis.curves import Loss
from mslt.layout import COMPARISON
from mslt.options import Options


def command(argv: list[str]) -> int:
    """Draw the losses of runs."""
    options = Options(
        "mslt curves RUN... --out FILE [options]",
        "Draw held-out and training losses of runs, finished or not, against steps, tokens or "
        "seconds (the paper's Figure 4). Runs NAME-seed0, NAME-seed1, ... share a colour.",
        [
            "mslt curves run --out loss.png",
            "mslt curves run-a run-b --names before,after --out loss.svg --x seconds",
            "mslt curves compared --out loss.png --x steps,tokens,seconds --loss heldout",
        ],
    )
    options.positional(
        "run", "folders of runs, or of comparisons: all runs in them (mslt compare)", many=True
    )
    options.option("out", str, "the picture to write: .png, .svg or .pdf")
    options.option("x", list[str], "one or more of steps, tokens, seconds", ["steps", "seconds"])
    options.option("loss", Loss, "held-out, training, or both", "both")
    options.option("names", list[str], "a name for each RUN, in the same order")
    given = options.parse(argv)
    words, out = options.need(given, "run"), Path(options.need(given, "out"))
    names = given.get("names") or [None] * len(words)
    if len(names) != len(words):
        raise ValueError(f"names has {len(names)} for {len(words)} runs")

    from mslt.analysis.curves import Curve, draw

    curves = []
    for word, name in zip(map(Path, words), names):
        if (word / COMPARISON).is_file():
            if name:
                raise ValueError(f"names has no effect on {word}, whose runs have names")
            curves += [Curve.of(run) for run in _runs(word)]
        else:
            curves.append(Curve.of(word, name))
    draw(curves, out, given.get("x") or ("steps", "seconds"), given.get("loss", "both"))
    print(f"wrote {out}")
    return 0


def _runs(comparison: Path) -> list[Path]:
    """The runs of a comparison that were evaluated, plans in their order."""
    from mslt.analysis.comparison import read_comparison
    from mslt.layout import read_metrics

    _, runs = read_comparison(comparison)
    return [run for run in runs if any(m["kind"] == "heldout" for m in read_metrics(run))]
