"""The command line. What is heavy is imported by the command that needs it, once all is checked."""

import io
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

import mslt
from mslt import foreign
from mslt.config import Config, ModelConfig
from mslt.options import Options, Values, did_you_mean, flatten, unflatten
from mslt.recipes import RECIPES

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


def _prepare(argv: list[str]) -> int:
    """Turn text into a token store."""
    from mslt.data.prepare import PrepareConfig

    options = _prepare_options()
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
        return OK
    how = PrepareConfig(**fields)
    if "shard" in given:
        from mslt.data.shards import parse, prepare_shard

        prepare_shard(sources, out, *parse(given["shard"]), how)
        return OK

    from mslt.data.prepare import prepare

    prepare(sources, out, how)
    return OK


def _prepare_options() -> Options:
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


def _pretrain(argv: list[str]) -> int:
    """Train on a token store by a recipe; --resume goes on."""
    options = _pretrain_options()
    for word in argv:
        if word in RECIPES:
            options.set_defaults(_recipe(word))
    given = options.parse(argv)
    values = _values(options, given)
    config = Config.from_dict(unflatten(values))
    if given.get("print_config"):
        print(yaml.safe_dump(unflatten(values), sort_keys=False), end="")
        return OK
    out = Path(options.need(given, "out"))
    if given.get("allow_change") and not given.get("resume"):
        raise ValueError("allow_change has no effect without --resume")
    if given.get("rehearse") and given.get("resume"):
        raise ValueError("rehearse has no effect with --resume: the run has begun")
    data = _data_of(out, given) if given.get("resume") else Path(options.need(given, "data"))
    from mslt.data.store import TokenStore

    config.with_vocabulary(TokenStore.open(data).vocab_size)

    from mslt.launch import pretrain

    return pretrain(
        config,
        data,
        out,
        resume=given.get("resume", False),
        allow_change=given.get("allow_change", ()),
        verify=given.get("verify", False),
        rehearse=given.get("rehearse"),
    )


def _pretrain_options() -> Options:
    """What `mslt pretrain` is told."""
    options = Options(
        "mslt pretrain RECIPE --data STORE --out RUN [options]",
        "Pre-train a BERT. RECIPE sets every option below; what is given here comes on top.",
        [
            "mslt pretrain bert_tiny_mslt --data store --out run --steps 300",
            "mslt pretrain --resume --out run",
            "mslt pretrain bert_base_mslt --print_config > mine.yaml",
            "mslt pretrain --config mine.yaml --data store --out run --model.hidden_size 256",
        ],
    )
    options.positional("recipe", "a name that `mslt recipes` lists; the help shows its values")
    options.option("data", str, "the token store, from mslt prepare")
    options.option("out", str, "the run's folder")
    options.option("resume", bool, "go on with the run in --out from its last checkpoint", False)
    options.option(
        "rehearse",
        bool | None,
        "take a few steps of every stage on a model that is thrown away, tell time, memory and "
        "disk that the run would take, and stop there; false: begin a long run without that",
    )
    options.option(
        "allow_change",
        list[str],
        "with --resume: options that may differ from what the run was started with, as in "
        "schedule.lr,seed; also store and tokenizer. A plan may become longer without it, where "
        "the steps that are done would be the same by it",
    )
    options.option(
        "verify",
        bool,
        "compare all of the store with its hashes before training, not about 1 GB of it",
        False,
    )
    options.option("config", str, "a YAML file of some or all options, on top of RECIPE")
    options.option("print_config", bool, "print the YAML that --config accepts, and stop", False)
    options.add_fields(Config)
    return options


def _values(options: Options, given: Values) -> Values:
    """Every field's value: the recipe's or the resumed run's, then the file's, then the given."""
    name = given.get("recipe")
    if name is not None and name not in RECIPES:
        hint = did_you_mean(name, RECIPES) or "; mslt recipes lists them"
        raise ValueError(f"unknown recipe {name}{hint}")
    over = options.read(Path(given["config"])) if "config" in given else {}
    over |= {key: given[key] for key in options.fields if key in given}
    if given.get("resume"):
        return _resumed(options, Path(options.need(given, "out")), name, over) | over
    if name is not None:
        return _recipe(name) | over
    if "config" not in given:
        raise ValueError("RECIPE is missing (mslt recipes lists them), and so is --config")
    absent = [key for key in options.fields if key not in over]
    if absent:
        raise ValueError(f"{given['config']} does not give {absent[0]}: name a RECIPE for the rest")
    return over


def _recipe(name: str) -> Values:
    """A recipe's values. What it derives from the width goes back to 0, derived anew later."""
    config = RECIPES[name]()
    values = flatten(config.to_dict())
    usual = ModelConfig(hidden_size=config.model.hidden_size)
    for key in ("num_attention_heads", "intermediate_size"):
        if getattr(config.model, key) == getattr(usual, key):
            values[f"model.{key}"] = 0
    return values


def _resumed(options: Options, out: Path, recipe: str | None, over: Values) -> Values:
    """The values of the run in `out`. A recipe beside --resume must be of its kind."""
    file = out / "config.yaml"
    if not file.is_file():
        raise ValueError(f"{out} is no run to resume: it has no config.yaml")
    values = options.read(file)
    told = _recipe(recipe) | over if recipe else values
    for key in ("plan.method", "model.hidden_size", "model.num_hidden_layers"):
        if key not in values:
            raise ValueError(f"{file} is damaged: it lacks {key}")
        if told[key] != values[key]:
            raise ValueError(f"{key} is {values[key]} in {out}, but {told[key]} by {recipe}")
    return values


def _data_of(run: Path, given: Values) -> Path:
    """The store that a resumed run learns from, where --data does not name it."""
    if "data" in given:
        return Path(given["data"])
    file = run / "run.json"
    try:
        return Path(foreign.read_json_object(file)["data"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{file} does not name the token store: give --data") from None


def _export(argv: list[str]) -> int:
    """Turn a run into a Hugging Face folder."""
    options = Options(
        "mslt export RUN --out DIR [options]",
        "Write the model of a run as Hugging Face transformers reads it.",
        ["mslt export run --out my-bert", "mslt export run --out my-bert-3-layers --stage 1"],
    )
    options.positional("run", "the run's folder, from mslt pretrain")
    options.option("out", str, "the folder to write")
    options.option("stage", int | None, "the model at the end of this stage, counted from 1")
    options.option("best", bool, "the checkpoint that was evaluated best", False)
    given = options.parse(argv)
    run, out = Path(options.need(given, "run")), Path(options.need(given, "out"))
    if not (run / "config.yaml").is_file():
        raise ValueError(f"{run} is not a run: it has no config.yaml (mslt pretrain)")

    from mslt.huggingface import export

    export(run, out, given.get("stage"), best=given.get("best", False))
    print(f"wrote {out}: from_pretrained({str(out)!r}) loads it")
    return OK


def _recipes(argv: list[str]) -> int:
    """List the recipes."""
    options = Options("mslt recipes", "List the recipes that mslt pretrain knows.")
    options.parse(argv)
    for name, function in RECIPES.items():
        plan = function().stages()
        stages = ", ".join(
            f"({s.depth}, {s.learns_from}, {s.steps:,}, {s.seq_len})" for s in plan.stages
        )
        print(f"{name}\n    {(function.__doc__ or '').partition(chr(10))[0]}\n    {stages}")
    print("\nStages are (depth, learns from, steps, sequence length).")
    return OK


def _demo(argv: list[str]) -> int:
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
    return OK


def _free(name: str) -> Path:
    """A folder that does not exist yet: the name, or with -2, -3, ... behind it."""
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(path for path in map(Path, names) if not path.exists())


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "prepare": _prepare,
    "pretrain": _pretrain,
    "export": _export,
    "recipes": _recipes,
    "demo": _demo,
}
