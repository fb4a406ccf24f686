"""Going on with a run: what must be as it was, and what may differ.

Options that decide nothing about the model (`config.OPERATIONAL`) may, and the plan may become
longer as long as every step that is done would be the same by it. Everything else is refused by
its name, unless that name is given as one to change.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any

from mslt.checkpoint import State
from mslt.config import OPERATIONAL, Config
from mslt.data.store import TokenStore
from mslt.devices import pick_device, pick_precision
from mslt.job import Job, fitting_micro_batch
from mslt.layout import read_start, step_of
from mslt.options import did_you_mean, flatten
from mslt.plan import Plan
from mslt.replicas import hand_out
from mslt.run import Run
from mslt.world import World

# What makes a plan longer; a store and a tokenizer are no options, and have names of their own.
LENGTHENING = frozenset(("steps", "plan.retrain", "plan.shares"))
STORE, TOKENIZER = "store", "tokenizer"


def reopen(
    config: Config,
    store: TokenStore,
    run: Run,
    allow_change: Collection[str] = (),
    world: World | None = None,
) -> tuple[Job, State]:
    """What a run that is locked goes on with, and the state to go on from.

    The main process alone reads the run's folder; it tells the others.

    Args:
        config: of the run that goes on.
        store: what it learns from.
        run: its folder.
        allow_change: names of options that may differ from what the run began with, and `store`
            and `tokenizer`.
        world: the processes, which may be more or fewer than those that it began with.

    Raises:
        ValueError: naming what is not as it was when the run began.
    """
    world = world or World(device=pick_device(config.device))
    config = config.with_vocabulary(store.vocab_size)
    _refuse_unknown(allow_change, config)
    kept = world.first_alone(lambda: _as_it_was(run.facts(), config, allow_change, world))
    job = Job.prepare(
        config, store, json.loads(world.tell(json.dumps(kept))), world, read_start(run.path)
    )
    found = world.first_alone(lambda: _go_on(job, store, run, allow_change))
    state = hand_out(world, found, config.model)
    assert state is not None
    return job, state


def _go_on(job: Job, store: TokenStore, run: Run, allow_change: Collection[str]) -> State:
    """Refuse what differs, find the state to go on from, and write down that it is gone on from."""
    facts, here = run.facts(), job.facts(store)
    _refuse_changes(run, job, allow_change)
    _refuse_other_text(run, facts, here, allow_change)
    if job.precision == "bf16" and pick_precision("auto", job.world.device) == "fp32":
        print("mslt: the run began in bf16 and goes on in it, which is slow here", flush=True)
    before = facts.get("kernels", here["kernels"])
    if before != here["kernels"] and not isinstance(before, bool):  # as older runs have it
        print("mslt: the run began with other functions in C: last bits will differ", flush=True)
    run.metrics()  # refuses a damaged file before anything is set aside
    state = run.latest(job.config.model) or job.first_state()
    _refuse_misfit(state, job.plan)
    run.rewind(state.step)
    if state.step < job.plan.steps:
        run.go_on(job.config, state.step, here)
        run.match(job.plan)
        if facts["tokenizer_sha256"] != here["tokenizer_sha256"]:
            run.take_tokenizer(store.path / "tokenizer")
    return state


def _refuse_unknown(names: Collection[str], config: Config) -> None:
    known = [*flatten(config.to_dict()), STORE, TOKENIZER]
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ValueError(f"allow_change: there is no field {name}{hint}")


def _as_it_was(
    facts: Mapping[str, Any], config: Config, allow_change: Collection[str], world: World
) -> dict[str, Any]:
    """What the machine chose when the run began and still holds."""
    kept, plan = {}, config.stages()
    if "precision" not in allow_change:
        kept["precision"] = facts["precision"]
    if not {"prefix", "prefix_cache"} & set(allow_change):
        kept["prefix"] = facts["prefix"]
    if "micro_batch" not in allow_change and "batch_size" not in allow_change:
        lengths = [stage["seq_len"] for stage in facts["stages"]]
        known = dict(zip(lengths, facts["micro_batches"]))
        if [stage.seq_len for stage in plan.stages] == lengths:
            kept["micro_batches"] = facts["micro_batches"]
        else:
            kept["micro_batches"] = [
                known.get(stage.seq_len)
                or fitting_micro_batch(config, stage.seq_len, world.device, world.size)
                for stage in plan.stages
            ]
    return kept


def _refuse_changes(run: Run, job: Job, allow_change: Collection[str]) -> None:
    before, now = flatten(run.config.to_dict()), flatten(job.config.to_dict())
    changed = [name for name in now if not _free(name, before[name], now[name])]
    changed = [name for name in changed if name not in allow_change]
    if changed and LENGTHENING.issuperset(changed) and _lengthened(run, job.plan):
        print(
            f"mslt: the plan is longer, {job.plan.steps:,} steps instead of "
            f"{run.config.steps:,}; those that are done would have been the same by it",
            flush=True,
        )
        return
    for name in changed:
        longer = name in LENGTHENING and job.plan.steps > run.config.steps
        differs = ", by which steps that are done would have been other ones" if longer else ""
        raise ValueError(
            f"{name} is {now[name]}{differs}, but the run in {run.path} was started with "
            f"{before[name]}; --allow_change {name} insists"
        )


def _free(name: str, before: Any, now: Any) -> bool:
    """Whether an option may go from one value to another without further ado."""
    if name == "prefix_cache":  # a folder may give way to another, not to none
        return (before is None) == (now is None)
    return before == now or name in OPERATIONAL


def _lengthened(run: Run, plan: Plan) -> bool:
    """Whether a plan adds steps to the run's, and leaves as they were those that are done."""
    before, folders = run.config.stages(), run.checkpoints()
    done = step_of(folders[-1]) if folders else 0
    return plan.steps > before.steps and all(
        plan.meaning(step) == before.meaning(step) for step in range(done)
    )


def _refuse_other_text(
    run: Run, facts: Mapping[str, Any], here: Mapping[str, Any], allow_change: Collection[str]
) -> None:
    for name in (TOKENIZER, STORE):
        if facts[f"{name}_sha256"] != here[f"{name}_sha256"] and name not in allow_change:
            raise ValueError(
                f"the {name} in {here['data']} is not the one that the run in {run.path} was "
                f"started with; --allow_change {name} insists"
            )


def _refuse_misfit(state: State, plan: Plan) -> None:
    """Raise ValueError where a plan that was insisted on cannot go on from here."""
    if state.step > plan.steps:
        raise ValueError(f"steps is {plan.steps}, but {state.step} are done already")
    if state.step < plan.steps:
        stands, next_depth = state.model.depth, plan.stages[plan.index(state.step)].depth
        if not stands <= next_depth <= 2 * stands:
            raise ValueError(
                f"by this plan, step {state.step} has {next_depth} layers, which the {stands} "
                f"that stand cannot become"
            )
