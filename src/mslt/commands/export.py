"""mslt export: a run as a Hugging Face folder."""

from pathlib import Path

from mslt.layout import CONFIG, awaits
from mslt.options import Options


def command(argv: list[str]) -> int:
    """Turn a run into a Hugging Face folder."""
    options = Options(
        "mslt export RUN --out DIR [options]",
        "Write the model of a run as Hugging Face transformers reads it.",
        ["mslt export run --out my-bert", "mslt export run --out my-bert-3-layers --stage 1"],
    )
    options.positional("run", "the run's folder, from mslt pretrain or mslt import")
    options.option("out", str, "the folder to write")
    options.option("stage", int | None, "the model at the end of this stage, counted from 1")
    options.option("best", bool, "the checkpoint that was evaluated best", False)
    given = options.parse(argv)
    run, out = Path(options.need(given, "run")), Path(options.need(given, "out"))
    if not (run / CONFIG).is_file() and not awaits(run):
        raise ValueError(f"{run} is not a run: it has no {CONFIG} (mslt pretrain)")

    from mslt.export import export

    export(run, out, given.get("stage"), best=given.get("best", False))
    print(f"wrote {out}: from_pretrained({str(out)!r}) loads it")
    return 0
