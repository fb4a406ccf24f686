"""What the choices that the paper leaves open are worth: held-out loss by variant and seed.

    python benchmarks/choices.py --store STORE [--steps 1600] [--seeds 3] [--only NAME ...]

Every variant trains the demo's model on the same data for the same steps; variants differ from
`mslt` in one choice each. Prints a line per finished run and ends with one JSON object: for each
variant the held-out losses by seed, their mean and spread, and the mean training seconds. Seconds
are for orientation: runs follow each other, so a shared machine's drift is in them.
"""

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from mslt.config import Config
from mslt.console import Console
from mslt.data.store import TokenStore
from mslt.job import Job
from mslt.pretrain import train
from mslt.recipes import demo_mslt, demo_whole
from mslt.run import Run

MSLT = replace(demo_mslt(), prefix="exact")


def variants() -> dict[str, Config]:
    """The configs to compare, by name."""
    schedule, optimizer, plan = MSLT.schedule, MSLT.optimizer, MSLT.plan
    dropout = replace(MSLT.model, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    return {
        "whole": demo_whole(),
        "stacking": replace(MSLT, plan=replace(plan, method="stacking", shares=None)),
        "mslt": MSLT,
        "mslt, rate per stage": replace(MSLT, schedule=replace(schedule, per_stage=True)),
        "mslt, linear decay": replace(MSLT, schedule=replace(schedule, shape="linear")),
        "mslt, copied moments": replace(
            MSLT, optimizer=replace(optimizer, copied_moments="copied")
        ),
        "mslt, fresh moments on return": replace(
            MSLT, optimizer=replace(optimizer, returning_moments="fresh")
        ),
        "mslt, 50/5/5/5/35": replace(MSLT, plan=replace(plan, shares=[50, 5, 5, 5, 35])),
        "mslt, int8 below": replace(MSLT, prefix="int8"),
        "mslt, bf16 below": replace(MSLT, prefix="bf16"),
        "mslt, dropout": replace(MSLT, model=dropout),
        "mslt, dropout but below": replace(MSLT, model=dropout, prefix="fp32"),
        "mslt, dropout but int8 below": replace(MSLT, model=dropout, prefix="int8"),
        "mslt, dropout but fp8 below": replace(MSLT, model=dropout, prefix="fp8"),
    }


def finish(config: Config, store: TokenStore) -> tuple[float, float]:
    """Held-out loss and training seconds of a run."""
    job = Job.prepare(config, store)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        run = Run.create(out, job.config, job.facts(store), store.path / "tokenizer")
        console = Console(job.plan, config.batch_size, quiet=True)
        for _ in train(job, job.first_state(), run, console):
            pass
        last = run.heldout()[-1]
    return last["mlm_loss"], last["seconds"]


def main() -> None:
    """Run every variant with every seed, seeds in the outer loop."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(variants()))
    given = parser.parse_args()
    store = TokenStore.open(given.store)
    losses: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {}
    for seed in range(given.seeds):
        for name, config in variants().items():
            if given.only and name not in given.only:
                continue
            config = replace(
                config,
                steps=given.steps,
                seed=seed,
                eval_every=0,
                eval_batches=64,
                save_every=given.steps,
            )
            loss, took = finish(config, store)
            losses.setdefault(name, []).append(round(loss, 4))
            seconds.setdefault(name, []).append(took)
            print(f"seed {seed}, {name}: held-out loss {loss:.4f}, {took:.0f} s", flush=True)
    result = {
        name: {
            "losses": values,
            "mean": round(statistics.mean(values), 4),
            "spread": round(max(values) - min(values), 4),
            "seconds": round(statistics.mean(seconds[name]), 1),
        }
        for name, values in losses.items()
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
