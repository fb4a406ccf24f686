"""mslt report: one page about runs."""

from pathlib import Path

from mslt.options import Options


def command(argv: list[str]) -> int:
    """Write one self-contained page about runs."""
    options = Options(
        "mslt report RUN... --out report.html [options]",
        "Write one page about runs: stages, curves, tables, speed and memory, attention, how the "
        "layers changed, and how to run it again. It is one file that needs no network.",
        [
            "mslt report run --out report.html",
            "mslt report whole mslt --out report.html",
            "mslt report compared --out report.html",
            'mslt report run --text "the cat sat on the mat" --out report.html',
            "mslt report run --attention false --out report.html",
        ],
    )
    options.positional(
        "run", "folders of runs, or of comparisons, whose runs are all shown", many=True
    )
    options.option("out", str, "the file to write; an earlier report there is replaced")
    options.option("data", str, "the token store, where it is not where the runs had it")
    options.option("text", str, "a sentence to show the attention on (default: held-out ones)")
    options.option("attention", bool, "show attention and drift: opens the models", True)
    given = options.parse(argv)
    runs, out = options.need(given, "run"), Path(options.need(given, "out"))
    wanted = given.get("attention", True)
    for key in ("data", "text"):
        if key in given and not wanted:
            raise ValueError(f"{key} has no effect beside attention false")

    from mslt.analysis.report.page import refuse, write_report
    from mslt.analysis.report.subjects import subjects

    refuse(out)
    paths = [Path(run) for run in runs]
    looks = None
    if wanted:
        from mslt.analysis.report.looks import look

        looks = look(subjects(paths), given.get("text"), given.get("data"))
    size = write_report(paths, out, looks)
    print(f"wrote {out} ({size / 1000:,.0f} kB): open it in a browser")
    return 0
