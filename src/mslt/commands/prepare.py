"""mslt prepare: raw text to a token store."""

from pathlib import Path

from mslt.options import Options


def command(argv: list[str]) -> int:
    """Turn text into a token store."""
    from mslt.data.prepare import PrepareConfig

    options = _options()
    options.add_fields(PrepareConfig)
    given = options.parse(argv)
    sources, out = options.need(given, "source"), Path(options.need(given, "out"))
    fields = {key: given[key] for key in options.fields if key in given}
    if given.get("merge"):
        for key in ("shard", *fields):
            if key in given:
                raise ValueError(f"{key} has no effect beside merge: the shards are made already")

        from mslt.data.shards import merge

        merge(sources, out)
        return 0
    how = PrepareConfig(**fields)
    if "shard" in given:
        from mslt.data.shards import parse, prepare_shard

        prepare_shard(sources, out, *parse(given["shard"]), how)
        return 0

    from mslt.data.prepare import prepare

    prepare(sources, out, how)
    return 0


def _options() -> Options:
    """What `mslt prepare` is told beside how text becomes a store."""
    options = Options(
        "mslt prepare SOURCE... --out STORE [options]",
        "Turn text into a token store: sentences as WordPieces, memory-mapped.",
        [
            "mslt prepare my_text/ --out store --vocab_size 8192",
            "mslt prepare a.txt.zst b.jsonl.gz c.parquet --out store --tokenizer vocab.txt",
            "mslt prepare pydocs --out store --on_bad_text skip",
            "mslt prepare hf:wikimedia/wikipedia,20231101.en,train --out store",
            "mslt prepare my_text/ --tokenizer vocab.txt --shard 2/8 --out shards/2",
            "mslt prepare --merge shards/* --out store",
        ],
    )
    options.positional(
        "source",
        "text files (.txt, .jsonl, .parquet, also as .gz or .zst), folders of them, pydocs (the "
        "docstrings of this installation), or hf:NAME[,CONFIG][,SPLIT]",
        many=True,
    )
    options.option("out", str, "the store's folder, which must not exist")
    options.option(
        "shard",
        str,
        "I/N: prepare only the I-th of N even parts of the text, counted from 1, each on a machine "
        "of its own. Give all of them the same sources by the same names and the same options. "
        "Without --tokenizer each reads all of the text, to learn the same vocabulary from it. "
        "Plain .txt and .jsonl files are divided among shards; any other source goes whole to one",
    )
    options.option(
        "merge",
        bool,
        "each SOURCE is the folder of a shard: make of all N the store that one machine would "
        "have made, bit for bit",
        False,
    )
    return options
