"""mslt attention: where heads look, and how far layers changed."""

from pathlib import Path

from mslt.options import Options


def command(argv: list[str]) -> int:
    """Show where heads look and how layers changed."""
    options = _options()
    given = options.parse(argv)
    models, out = options.need(given, "model"), Path(options.need(given, "out"))
    for key, least in (("sequences", 1), ("seq_len", 3)):
        if given.get(key) is not None and given[key] < least:
            raise ValueError(f"{key} must be {least} or more, not {given[key]}")
    if "file" in given and "data" in given:
        raise ValueError("data has no effect beside file: leave one of them out")

    from mslt.analysis.attention_files import Request, look
    from mslt.files import refuse_standing

    refuse_standing(out)
    request = Request(
        models=[Path(model) for model in models],
        beside=[Path(model) for model in given.get("beside", ())],
        text=given.get("text"),
        file=Path(given["file"]) if "file" in given else None,
        data=Path(given["data"]) if "data" in given else None,
        sequences=given.get("sequences"),
        seq_len=given.get("seq_len"),
        heads=tuple(given.get("heads", ())),
        seed=given.get("seed", 0),
    )
    print(look(request, out), end="")
    print(f"\nwrote {out}: attention.json, attention.csv and pictures (.png, .svg)")
    return 0


def _options() -> Options:
    options = Options(
        "mslt attention MODEL... --out DIR [options]",
        "Draw the attention of any heads of any models (the paper's Figures 2 and 3) and measure, "
        "layer by layer, how far attention, hidden states and weights are from those of the last "
        "MODEL, how alike bottom and top half are, and where heads look.",
        [
            "mslt attention run --out seen --text 'the cat sat on the mat .' --heads L5H4,L11H4",
            "mslt attention run/stages/* --out seen",
            "mslt attention run/stages/2-depth-6 run --beside whole --out figure3",
            "mslt attention run/checkpoints/step-* --out seen --sequences 128",
            "mslt attention my-bert --file sentences.txt --out seen",
        ],
    )
    options.positional(
        "model",
        "runs, their stages (RUN/stages/2-depth-6) or checkpoints, or Hugging Face folders, in the "
        "order of their training; all others are compared with the last one",
        many=True,
    )
    options.option("out", str, "the folder to write")
    options.option(
        "beside",
        list[str],
        "models that were trained otherwise, to be compared with the last MODEL: the same model "
        "trained whole, another seed",
    )
    options.option(
        "text", str, "what the pictures show; by default the first sequence that is measured on"
    )
    options.option("file", str, "a text file to measure on, a sequence per line")
    options.option(
        "data",
        str,
        "a token store, whose held-out text is measured on; by default that of the last MODEL's "
        "run. Where there is none, and no --file, --text is measured on",
    )
    options.option("sequences", int | None, "the most sequences to measure on; 64 if not given")
    options.option(
        "seq_len",
        int | None,
        "tokens of the longest; by default the length that the last MODEL's run began with, or 128",
    )
    options.option("heads", list[str], "heads to draw by themselves with their tokens, as in L5H4")
    options.option("seed", int, "of the sample, and of the heads that are drawn in rows", 0)
    return options
