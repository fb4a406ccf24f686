"""mslt compare: plans side by side."""

import re
from pathlib import Path

from mslt.config import Config
from mslt.layout import Budget
from mslt.options import Options, Values, unflatten
from mslt.recipes import recipe_values

_BEGINNING = (
    "recipe",
    "budget",
    "timed_by",
    "config",
    "verify",
)  # what a comparison that goes on has had


def command(argv: list[str]) -> int:
    """Train by several recipes in turns, on the same data and seeds, and compare."""
    options = _options()
    given = options.parse(argv)
    out = Path(options.need(given, "out"))
    seeds = given.get("seeds")
    if seeds is not None and seeds < 1:
        raise ValueError(f"seeds must be 1 or more, not {seeds}")
    if given.get("resume"):
        for key in (*_BEGINNING, *options.fields):
            if key in given:
                raise ValueError(f"{key} has no effect with --resume: {out} has begun")

        from mslt.compare import resume

        return resume(out, Path(given["data"]) if "data" in given else None, seeds)
    words = options.need(given, "recipe")
    over = options.read(Path(given["config"])) if "config" in given else {}
    over |= {key: given[key] for key in options.fields if key in given}
    plans = dict(_plan(word, over) for word in words)
    if len(plans) < len(words):
        raise ValueError("two plans have the same name: write NAME=RECIPE")
    if len(plans) < 2:
        raise ValueError(f"a comparison needs two plans or more: {options.usage}")
    data, budget = Path(options.need(given, "data")), given.get("budget", "steps")
    if "timed_by" in given and budget != "time":
        raise ValueError("timed_by has no effect without --budget time")
    if "steps" in over and budget == "recipe":
        raise ValueError("steps has no effect with --budget recipe: each plan has its recipe's own")
    first = next(iter(plans.values())).seed

    from mslt.compare import Comparison, begin

    comparison = Comparison(
        budget=budget,
        data=data,
        seeds=tuple(range(first, first + (seeds or 1))),
        configs=plans,
        given=dict(zip(plans, words)),
    )
    before = Path(given["timed_by"]) if "timed_by" in given else None
    return begin(comparison, out, timed_by=before, verify=given.get("verify", False))


def _plan(word: str, over: Values) -> tuple[str, Config]:
    """NAME=RECIPE+key=value+... as its name and config.

    Raises:
        ValueError: naming the plan, where they make none.
    """
    head, *own = word.split("+")
    name, equals, recipe = head.partition("=")
    if not equals:
        name = recipe = head
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise ValueError(f"{name!r} is no name for a plan: letters, digits, _, . and - make one")
    fields = Options("mslt compare", "")
    fields.add_fields(Config)
    values = recipe_values(recipe) | over
    try:
        given = fields.parse([f"--{pair}" for pair in own])
        if "seed" in given:
            raise ValueError(
                "all plans have the same seeds: --seed gives the first, --seeds how many"
            )
        values |= given
        return name, Config.from_dict(unflatten(values))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _options() -> Options:
    """What `mslt compare` is told."""
    options = Options(
        "mslt compare [NAME=]RECIPE... --data STORE --out DIR [options]",
        "Train by several recipes in turns, a block of steps of each, on the same data and with "
        "the same seeds. Any option of mslt pretrain applies to all of them.",
        [
            "mslt compare bert_tiny_whole bert_tiny_mslt --data store --out compared --seeds 3",
            "mslt compare whole=bert_tiny_whole mslt=bert_tiny_mslt --budget time --data store "
            "--out compared",
            "mslt compare even=bert_tiny_mslt early=bert_tiny_mslt+plan.shares=50,5,5,5,35 "
            "--data store --out compared --steps 500",
            "mslt compare --resume --out compared",
        ],
    )
    options.positional(
        "recipe",
        "names that `mslt recipes` lists, each with a name of its own if it is to have one, and "
        "with options that are its alone: NAME=RECIPE+key=value+key=value",
        many=True,
    )
    options.option("data", str, "the token store, from mslt prepare")
    options.option("out", str, "the folder of the runs, tables and curves")
    options.option(
        "budget",
        Budget,
        "what the plans have in common: steps (section 4.2); time, where each plan has as many "
        "steps as the fastest one takes training time, by timing every stage (section 4.3); "
        "recipe leaves each the steps of its recipe (Table 4)",
        "steps",
    )
    options.option(
        "timed_by",
        str,
        "with --budget time: the folder of a comparison of the same plans, which tells how long "
        "their stages take, instead of timing them anew",
    )
    options.option("seeds", int, "runs of each plan, with as many seeds from --seed on", 1)
    options.option("resume", bool, "go on with what is in --out; finished runs are kept", False)
    options.option("verify", bool, "compare all of the store with its hashes", False)
    options.option("config", str, "a YAML file of options for all plans, on top of RECIPE")
    options.add_fields(Config)
    return options
