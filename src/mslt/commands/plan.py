"""mslt plan: what a run will take, before it is begun."""

import json
import re
import shutil
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mslt.commands.pretrain import chosen, show_recipe
from mslt.config import Config
from mslt.options import Options, Values, unflatten

if TYPE_CHECKING:
    from mslt.analysis.estimate import Machine
    from mslt.analysis.planning import Outlook, Prospect, Split

PIECES = 30_522  # where no store says how many: as many as BERT's vocabulary
SHOWN = 25  # rows of a search
TENSORS = "tensors at their peak, without what Python and torch take themselves"


def command(argv: list[str]) -> int:
    """Tell what a run will take: time, memory, disk, traffic."""
    options = _options()
    show_recipe(options, argv)
    given = options.parse(argv)
    config = Config.from_dict(unflatten(chosen(options, given)))
    _refuse_without_effect(given)
    machine = _machine(given)
    if given.get("measure"):
        options.need(given, "data")

    from mslt.data.store import TokenStore
    from mslt.job import refuse_too_many

    refuse_too_many(machine.gpus, config)
    store = TokenStore.open(Path(given["data"])) if "data" in given else None
    pieces = store.vocab_size if store else config.model.vocab_size or PIECES
    config = replace(config.with_vocabulary(pieces), prefix_cache=None, prefix_cache_gb=None)

    from mslt.analysis.planning import beside, search

    name = given.get("recipe") or "this run"
    configs = beside(name, config)
    prospect = _prospect(given, config, [c.stages() for c in configs.values()], machine, store)
    outlooks = [prospect.outlook(key, each) for key, each in configs.items()]
    found = search(config, prospect) if given.get("search") else []
    if given.get("json"):
        _print_json(outlooks, found)
    else:
        _print(outlooks, found, machine, store is not None, given)
    return 0


def _options() -> Options:
    """What `mslt plan` is told."""
    options = Options(
        "mslt plan RECIPE [options]",
        "Tell what a run will take, stage by stage, beside the other methods for as many steps. "
        "By arithmetic, or by steps that are timed here. Every option of mslt pretrain counts.",
        [
            "mslt plan bert_tiny_mslt --data store --measure",
            "mslt plan bert_base_mslt --gpus 8 --link 25GbE",
            "mslt plan bert_base_mslt --gpus 32 --link 100GbE --tflops 300 --plan.k 6",
            "mslt plan bert_tiny_mslt --data store --measure --search",
            "mslt plan bert_tiny_mslt --data store --measure --json > plan.json",
            "mslt pretrain bert_tiny_mslt --data store --out run --forecast plan.json",
        ],
    )
    options.positional("recipe", "a name that `mslt recipes` lists")
    options.option("data", str, "the token store; only its vocabulary counts without --measure")
    options.option(
        "measure",
        bool,
        "time every kind of step a few times on this machine, and predict from that; with --gpus, "
        "the share of one of them, to which the traffic is added by arithmetic",
        False,
    )
    options.option("gpus", int, "processes with a GPU each (default: this machine's device, alone)")
    options.option(
        "link",
        str,
        "what joins them: NVLink (the default), or a port of so many Gbit/s each way, as in 25GbE",
    )
    options.option(
        "tflops",
        float,
        "10^12 FLOP/s that a device sustains in training. Default: with --gpus, an H100 at 40 %% "
        "of its 989; else 60 %% of what a matrix product makes here in half a second",
    )
    options.option(
        "search",
        bool,
        "rank ways to split the steps of mslt by predicted time. How well the models do is not "
        "predicted",
        False,
    )
    options.option("json", bool, "print a line of JSON instead, which --forecast reads", False)
    options.option("config", str, "a YAML file of some or all options, on top of RECIPE")
    options.add_fields(Config)
    return options


def _refuse_without_effect(given: Values) -> None:
    if given.get("measure") and "tflops" in given:
        raise ValueError("tflops has no effect beside measure")
    if "gpus" in given and given["gpus"] < 1:
        raise ValueError(f"gpus must be 1 or more, not {given['gpus']}")
    if "link" in given and given.get("gpus", 1) < 2:
        raise ValueError("link has no effect without several --gpus")
    if "tflops" in given and not given["tflops"] > 0:
        raise ValueError(f"tflops must be above 0, not {given['tflops']}")


def _machine(given: Values) -> "Machine":
    """Processes and what joins them.

    Raises:
        ValueError: a link of no known kind.
    """
    from mslt.analysis.estimate import Machine
    from mslt.analysis.scale import NETWORKS, Network

    gpus, link = given.get("gpus", 1), given.get("link", "NVLink")
    known = {network.name.replace(" ", "").lower(): network for network in NETWORKS}
    network = known.get(link.lower())
    if network is None:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)GbE", link, re.IGNORECASE)
        if not found or not float(found[1]):
            raise ValueError(f"link must be NVLink or a number of Gbit/s as in 25GbE, not {link}")
        hop = known["25gbe"].hop if float(found[1]) < 100 else known["100gbe"].hop
        network = Network(link, bandwidth=float(found[1]) * 1e9 / 8, hop=hop)
    return Machine(gpus, network if gpus > 1 else None, accelerated="gpus" in given)


def _prospect(
    given: Values, config: Config, plans: list[Any], machine: "Machine", store: Any
) -> "Prospect":
    """Where the plans are to run, and what a step takes there."""
    from mslt.analysis.estimate import Calculated
    from mslt.analysis.planning import Prospect
    from mslt.analysis.scale import H100, Accelerator

    if given.get("measure"):
        from mslt.analysis.trial import measured

        return measured(config, store, plans, machine)

    from mslt.analysis.trial import device_here, micro_batches

    if "tflops" in given:
        device = Accelerator(given["tflops"] * 1e12, H100.memory)
        by = f"arithmetic at {given['tflops']:g} TFLOP/s a device"
    elif "gpus" in given:
        device, by = H100, f"arithmetic for H100s at {H100.flops / 1e12:.0f} TFLOP/s each"
    else:
        device, by = device_here(config)
    half = machine.accelerated and config.precision != "fp32"
    return Prospect(
        estimate=Calculated(config, machine, device, by),
        machine=machine,
        micro_batch=micro_batches(config, machine),
        half=half,
        memory={},
    )


def _print_json(outlooks: list["Outlook"], found: list["Split"]) -> None:
    first, *others = (outlook.to_dict() for outlook in outlooks)
    first["beside"] = others
    if found:
        first["search"] = [
            {"options": split.options, "seconds": split.outlook.total("seconds")} for split in found
        ]
    print(json.dumps(first, allow_nan=False))


def _print(
    outlooks: list["Outlook"],
    found: list["Split"],
    machine: "Machine",
    known: bool,
    given: Values,
) -> None:
    from mslt.analysis.plan_tables import plan_table, search_table, stage_table
    from mslt.words import duration

    first, width = outlooks[0], shutil.get_terminal_size().columns
    model, config = first.config.model, first.config
    pieces = f"{model.vocab_size:,} pieces" + ("" if known else " (no --data: BERT's number)")

    def say(text: str) -> None:
        print(textwrap.fill(text, width, break_on_hyphens=False))

    say(
        f"{first.name}: {model.num_hidden_layers} layers of {model.hidden_size}, {pieces}, "
        f"{config.batch_size:,} sequences a step"
    )
    print(f"\n{stage_table(first, width)}\n\n{plan_table(outlooks, width)}\n")
    say(f"By {first.by}.")
    say(f"Memory is that of {'a process at its peak' if given.get('measure') else TENSORS}.")
    if machine.network:
        say(f"{machine.gpus} GPUs joined by {machine.network.name}; traffic by arithmetic.")
    if first.evaluation is not None:
        say(f"Evaluation adds {duration(first.evaluations * first.evaluation)}.")
    if first.bounded:
        say("* if forward-only layers cost nothing, as nearly where they are read from a cache")
    if given.get("prefix_cache"):
        say("The prefix cache is not reckoned with: the time lies between both.")
    if found:
        whole = next(o for o in outlooks if o.config.plan.method == "whole").total("seconds")
        print(f"\n{search_table(found, whole, SHOWN)}\n")
        more = f"; {len(found) - SHOWN} more with --json" if len(found) > SHOWN else ""
        say(f"The first by its options: {found[0].options}{more}.")
        say(
            "This ranks time, not quality: how well these models would do is not predicted. The "
            "embeddings learn in stage 1 and in the retraining alone, and all but the newest "
            "layers in the retraining alone."
        )
