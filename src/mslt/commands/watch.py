"""mslt watch: runs from another terminal."""

from pathlib import Path

from mslt.options import Options


def command(argv: list[str]) -> int:
    """Follow runs from another terminal."""
    options = Options(
        "mslt watch RUN...",
        "Show where runs stand until they end: stage, losses, speed, memory, time left by the "
        "plan's own rates. Reads their folders and nothing else; Ctrl-C leaves the runs alone.",
        ["mslt watch run", "mslt watch compared/runs/*", "mslt watch run | tee log.txt"],
    )
    options.positional("run", "the folder of a run, from mslt pretrain", many=True)
    given = options.parse(argv)
    runs = [Path(run) for run in options.need(given, "run")]

    from mslt.watching import watch

    watch(runs)
    return 0
