"""mslt pretrain: options, recipes and what a resumed run was started with."""

from pathlib import Path

import yaml

from mslt import foreign
from mslt.config import Config
from mslt.launcher import first_here_speaks
from mslt.layout import read_start
from mslt.options import Options, Values, unflatten
from mslt.recipes import RECIPES, recipe_values


def command(argv: list[str]) -> int:
    """Train on a token store by a recipe; --resume goes on."""
    with first_here_speaks():
        options = _options()
        show_recipe(options, argv)
        given = options.parse(argv)
        values = chosen(options, given)
        config = Config.from_dict(unflatten(values))
        if given.get("print_config"):
            print(yaml.safe_dump(unflatten(values), sort_keys=False), end="")
            return 0
        data, out = _places(options, given)
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
        forecast=Path(given["forecast"]) if "forecast" in given else None,
    )


def _places(options: Options, given: Values) -> tuple[Path, Path]:
    """The token store and the run's folder.

    Raises:
        ValueError: one is missing, or an option has no effect.
    """
    out = Path(options.need(given, "out"))
    if given.get("allow_change") and not given.get("resume"):
        raise ValueError("allow_change has no effect without --resume")
    if given.get("rehearse") and given.get("resume"):
        raise ValueError("rehearse has no effect with --resume: the run has begun")
    if given.get("forecast") and given.get("resume"):
        raise ValueError("forecast has no effect with --resume: the run keeps what it began with")
    data = _data_of(out, given) if given.get("resume") else Path(options.need(given, "data"))
    return data, out


def _options() -> Options:
    """What `mslt pretrain` is told."""
    options = Options(
        "mslt pretrain RECIPE --data STORE --out RUN [options]",
        "Pre-train a BERT. RECIPE sets every option below; what is given here comes on top.",
        [
            "mslt pretrain bert_tiny_mslt --data store --out run --steps 300",
            "mslt pretrain --resume --out run",
            "torchrun --standalone --nproc-per-node 8 -m mslt pretrain bert_base_mslt "
            "--data store --out run",
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
        "forecast",
        str,
        "what `mslt plan --json` wrote of this run: what it takes is compared with it in the end. "
        "Without it, with a rehearsal, or with what its own first steps say of the rest",
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


def show_recipe(options: Options, argv: list[str]) -> None:
    """Let the help show the values of the recipe that is named."""
    for word in argv:
        if word in RECIPES:
            options.set_defaults(recipe_values(word))


def chosen(options: Options, given: Values) -> Values:
    """Every field's value: the recipe's or the resumed run's, then the file's, then the given."""
    name = given.get("recipe")
    base = {} if name is None else recipe_values(name)
    over = options.read(Path(given["config"])) if "config" in given else {}
    over |= {key: given[key] for key in options.fields if key in given}
    if given.get("resume"):
        return _resumed(options, given, over) | over
    if name is not None:
        return _begun(given, base | over, over)
    if "config" not in given:
        raise ValueError("RECIPE is missing (mslt recipes lists them), and so is --config")
    absent = [key for key in options.fields if key not in over]
    if absent:
        raise ValueError(f"{given['config']} does not give {absent[0]}: name a RECIPE for the rest")
    return _begun(given, over, over)


# What a trained model says of its shape; its depth and its blocks are the plan's to change.
_SHAPE = (
    *("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "embedding_size"),
    *("max_position_embeddings", "hidden_act", "layer_norm_eps"),
)


def _begun(given: Values, values: Values, over: Values) -> Values:
    """The values of a run that begins with a trained model, where one lies in its folder.

    Raises:
        ValueError: naming an option that says otherwise than the model.
    """
    start = read_start(Path(given["out"])) if "out" in given else None
    if start is None:
        return values
    theirs = {f"model.{key}": getattr(start.model, key) for key in _SHAPE}
    theirs["plan.start_depth"] = start.depth
    layers, repeat = values["model.num_hidden_layers"], start.model.repeat
    if start.model.num_hidden_groups:
        if layers % repeat:
            raise ValueError(
                f"model.num_hidden_layers is {layers}, but {repeat} layers share a block of "
                f"weights in the model in {start.folder}"
            )
        theirs["model.num_hidden_groups"] = layers // repeat
    for key, value in theirs.items():
        if key in over and over[key] != value:
            raise ValueError(f"{key} is {over[key]}, but {value} in the model in {start.folder}")
    return values | {"model.num_hidden_groups": 0} | theirs


def _resumed(options: Options, given: Values, over: Values) -> Values:
    """The values of the run in `out`. A recipe beside --resume must be of its kind."""
    out, recipe = Path(options.need(given, "out")), given.get("recipe")
    file = out / "config.yaml"
    if not file.is_file():
        raise ValueError(f"{out} is no run to resume: it has no config.yaml")
    values = options.read(file)
    told = _begun(given, recipe_values(recipe) | over, over) if recipe else values
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
