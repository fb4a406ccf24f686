"""mslt submit: GLUE's zip."""

from pathlib import Path

from mslt.options import Options


def command(argv: list[str]) -> int:
    """Write GLUE's submission from fine-tuned models, or check one."""
    options = Options(
        "mslt submit GRID --glue_dir GLUE --out ZIP [options]",
        "Let each task's best model in a folder of mslt finetune answer its test set, and write "
        "the zip that GLUE's server takes. --check looks at any zip.",
        [
            "mslt submit scores --glue_dir glue --out submission.zip --fill true",
            "mslt submit --check submission.zip",
        ],
    )
    options.positional("grid", "the folder of a grid, from mslt finetune")
    options.option("glue_dir", str, "GLUE's folder with a folder for each task, or hf:nyu-mll/glue")
    options.option("out", str, "the zip to write")
    options.option(
        "fill",
        bool,
        "answer tasks without a model by their first label throughout, since the server wants all "
        "files; otherwise they are refused by name",
        False,
    )
    options.option("check", str, "a zip to check instead: names, headings, rows, labels")
    options.option("device", str, "auto, cpu, cuda or cuda:N", "auto")
    given = options.parse(argv)

    from mslt.finetune import submission

    if "check" in given:
        for key in ("grid", "glue_dir", "out"):
            if key in given:
                raise ValueError(f"{key} has no effect beside check")
        checked = submission.check(Path(given["check"]))
        files = ", ".join(checked.files)
        if checked.missing:
            missing = ", ".join(checked.missing)
            raise ValueError(f"{given['check']} is incomplete: it has {files}, and lacks {missing}")
        print(f"{given['check']}: right: {files}")
        return 0
    grid, out = Path(options.need(given, "grid")), Path(options.need(given, "out"))
    where, fill = options.need(given, "glue_dir"), given.get("fill", False)

    from mslt.finetune.answering import submit

    submit(grid, where, out, fill=fill, device=given.get("device", "auto"))
    return 0
