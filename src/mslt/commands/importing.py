"""mslt import: a trained model to go on from, or to grow."""

from pathlib import Path
from typing import TYPE_CHECKING

from mslt.options import Options

if TYPE_CHECKING:
    from mslt.pretrained import Pretrained


def command(argv: list[str]) -> int:
    """Bring in a trained BERT or ALBERT, to go on from or to grow."""
    options = _options()
    given = options.parse(argv)
    path, out = Path(options.need(given, "model")), Path(options.need(given, "out"))
    if not path.is_dir():
        raise ValueError(f"{path} is no folder")

    from mslt.files import refuse_standing

    refuse_standing(out)

    from mslt.start import bring

    found = bring(
        path,
        out,
        depth=given.get("start_depth"),
        tokenizer=Path(given["tokenizer"]) if "tokenizer" in given else None,
        convert_bin=given.get("convert_bin", False),
    )
    _tell(found, out)
    return 0


def _options() -> Options:
    """What `mslt import` is told."""
    options = Options(
        "mslt import MODEL --out RUN [options]",
        "Begin a run's folder with a trained model: a BERT or ALBERT folder of Hugging Face's with "
        "safetensors, or a run, or one of its stages. mslt pretrain then trains it on, as deep as "
        "it is or deeper. The text must be prepared with the model's own tokenizer.",
        [
            "mslt import my-bert --out run",
            "mslt prepare my_text/ --tokenizer run/tokenizer --out store",
            "mslt pretrain bert_base_whole --data store --out run --steps 20000",
            "mslt import run/stages/2-depth-6 --out grown",
            "mslt import my-bert-12-layers --start_depth 6 --out grown",
            "mslt pretrain bert_base_mslt --data store --out grown --plan.shares 30,25,25,20",
        ],
    )
    options.positional("model", "the folder of a trained model")
    options.option("out", str, "the run's folder, which must not exist")
    options.option(
        "start_depth", int | None, "begin with so many of its layers, the lowest (default: all)"
    )
    options.option(
        "tokenizer",
        str,
        "a vocab.txt, a tokenizer.json or a folder with one, where the model's folder has none",
    )
    options.option(
        "convert_bin",
        bool,
        "take weights alone from a pytorch_model.bin, where there are no safetensors",
        False,
    )
    return options


def _tell(found: "Pretrained", out: Path) -> None:
    """Print what was written, and what comes next."""
    config = found.model.config
    kind = "ALBERT" if config.embedding_size else "BERT"
    print(
        f"wrote {out}: {kind}, {found.model.depth} layers of {config.hidden_size}, "
        f"{config.vocab_size:,} pieces"
    )
    if found.fresh:
        print(f"  the model had no weights for {', '.join(_modules(found.fresh))}: they are new")
    print(
        f"text of your own must have its tokenizer, and then it is trained on or grown:\n"
        f"  mslt prepare TEXT --tokenizer {out / 'tokenizer'} --out STORE\n"
        f"  mslt pretrain RECIPE --data STORE --out {out}"
    )


def _modules(names: tuple[str, ...]) -> list[str]:
    """The modules that tensors are of, in their order."""
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))
