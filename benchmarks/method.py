"""What multi-stage training saves: seconds per step of every stage of a plan and of the whole.

    python benchmarks/method.py --shape base|small|albert_base|... [--plan mslt --k 4 --retrain 0.2]
                                [--mode exact fast] [--against hf] [--device cuda] [--no_memory]

Every stage and the whole model, each with a trainer of its own, take turns block by block; a step
is what a run's loop does: make the batch, train on it. Medians over the blocks, weighted by the
plan's steps, give the ratio; beside it stands what the cost model predicts from FLOPs alone.
`--mode` says how forward-only layers compute: exact, as those that learn; fast, in the fewest bits
that suit the machine, predicted at twice the speed; cached, not at all but at a batch's first visit
in a stage, which no block counts. First, losses and gradients of every stage must be those of the
plain reference, or there is no ratio. `--against hf` lets Hugging Face's whole model take its turns
too, always with AdamW. The last line is one JSON object, of the first of the modes; the others are
in it under "also".

Peak memory is that of a process that trains the stage and nothing else; on a GPU, what a trainer of
the stage and a step allocate, before it is recorded, after which its graphs keep about as much.
There, where timing a phase means to wait for the device, phases are timed in a block of their own,
of steps that are not repeated from records, so that they add up to more than a step takes; only
updates are timed as they are, many in a row.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from common import Setting, Variant, finish, matrix_product, options, setting, take_turns
from memory import peak, peak_of_gpu
from reference import EAGER, best, parity, refuse_without, rivals
from stages import CACHED, PHASES, Logging, Steps, Way, ways

from mslt.analysis.formats import aligned
from mslt.config import InstanceConfig, OptimizerConfig, PlanConfig
from mslt.cost import FREE, speedup, step_cost
from mslt.plan import Stage

PREFIX_SPEED = {"exact": 1.0, "fast": 2.0, CACHED: FREE}  # what the cost model takes for granted
UPDATES = 20  # that a GPU does in a row, so that it waits for nobody
MOST = 0.03  # share of a step that data, logging and optimizer are to stay below


class Measured:
    """Every way to train that a comparison needs, timed in turns.

    Args:
        settings: by mode; they differ in nothing else.
        held: bytes of memory at the peak, where they are known.
        against_hf: whether Hugging Face's whole model takes part.
    """

    def __init__(
        self, settings: dict[str, Setting], held: dict[Way, int | None], against_hf: bool
    ) -> None:
        first = self.setting = next(iter(settings.values()))
        self.held = held
        self.steps = {way: Steps(its, way) for way, its in ways(settings).items()}
        self.variants = {
            way: Variant(str(way), steps, rest=steps.rest) for way, steps in self.steps.items()
        }
        self.hf = rivals(first, compiled=False) if against_hf else []
        self.logging = Variant("logging", Logging(first))
        product, flops = matrix_product(first.device, first.job.precision)
        gemm = Variant("matrix product", product)
        variants = [*self.variants.values(), *self.hf, self.logging, gemm]
        take_turns(variants, first.blocks, first.steps, first.device)
        self.peak_flops = flops / gemm.median
        if not all(steps.watching for steps in self.steps.values()):
            for steps in self.steps.values():
                steps.watching = True
            again = [Variant(f"phases of {way}", steps) for way, steps in self.steps.items()]
            take_turns(again, 1, first.steps, first.device)
            updates = {way: Variant(f"updates of {way}", s.update) for way, s in self.steps.items()}
            take_turns([*updates.values()], 1, UPDATES, first.device)
            for way, variant in updates.items():
                self.steps[way].update_seconds = variant.median

    def stage(self, stage: Stage, mode: str) -> dict[str, Any]:
        """What is known of a stage's steps in a mode."""
        way, whole = Way.of(stage, mode), Way.of(self.setting.whole, mode)
        variant, phases = self.variants[way], self.steps[way].phases
        cost, all_of_it = (
            step_cost(self.setting.model, s, self.setting.batch_size, self.setting.slots)
            for s in (stage, self.setting.whole)
        )
        row = {
            "depth": stage.depth,
            "learns_from": stage.learns_from,
            "steps": stage.steps,
            "seconds": variant.median,
            "least": min(variant.seconds),
            "most": max(variant.seconds),
            "phases": phases | {"rest": max(0.0, variant.median - sum(phases.values()))},
            "of_whole": variant.median / self.variants[whole].median,
            "predicted_of_whole": cost.total(PREFIX_SPEED[mode]) / all_of_it.total(),
            "mfu": self.setting.flops(stage, FREE if mode == CACHED else 1.0)
            / variant.median
            / self.peak_flops,
            "peak_bytes": self.held.get(way),
        }
        return row | ({"first_visit": self.steps[way].first_visit} if way.mode == CACHED else {})

    def result(self, mode: str) -> dict[str, Any]:
        """Ratio, prediction and stages of a mode."""
        model, plan, slots = self.setting.model, self.setting.job.plan, self.setting.slots
        whole = self.stage(self.setting.whole, mode)
        stages = [self.stage(stage, mode) for stage in plan.stages]

        def mean(seconds: Callable[[dict[str, Any]], float]) -> float:
            return sum(row["steps"] * seconds(row) for row in stages) / plan.steps

        ours = mean(lambda row: row["seconds"])
        result = {
            "ratio": whole["seconds"] / ours,
            "predicted": speedup(model, plan, slots, prefix_speed=PREFIX_SPEED[mode]),
            "stages": stages,
            "whole": whole,
        }
        if mode == CACHED:
            some = mean(
                lambda row: (row.get("first_visit", row["seconds"]) + 9 * row["seconds"]) / 10
            )
            result["ratio_at_ten_visits"] = whole["seconds"] / some
        if hf := best(self.hf, EAGER):
            result["end_to_end"] = hf / ours
        return result


def one_step(given: argparse.Namespace, scratch: Path, way: Way) -> Callable[[], object]:
    """A step with all that it needs, yet to be done: for a process of its own."""
    setting = in_mode(given, scratch, way.mode or given.mode[0])
    return lambda: Steps(setting, way)(0)


def in_mode(given: argparse.Namespace, scratch: Path, mode: str) -> Setting:
    """The options' setting in one of the modes."""
    plan = PlanConfig(given.plan, k=given.k, retrain=given.retrain)
    optimizer = OptimizerConfig(given.optimizer)
    if mode != CACHED:
        return setting(given, plan, scratch, prefix=mode, optimizer=optimizer)
    if given.store:
        raise ValueError(
            "--mode cached makes up its text, which comes again soon: leave --store out"
        )
    once = InstanceConfig(dupe_factor=1)
    return setting(given, plan, scratch, prefix="fast", instances=once, optimizer=optimizer)


def table(result: dict[str, Any]) -> str:
    """A row per stage, and one of the whole model."""
    heads = ("stage", "layers", "learn", "steps", "s/step", "least", "most")
    lines = [(*heads, *PHASES, "rest", "of whole", "predicted", "MFU", "peak MB")]
    rows = [(f"{i}", row) for i, row in enumerate(result["stages"], 1)]
    for name, row in [*rows, ("whole", result["whole"])]:
        lines.append(
            (
                name,
                f"{row['depth']}",
                f"{row['depth'] - row['learns_from']}",
                f"{row['steps']}" if name != "whole" else "",
                *(f"{row[key]:.4f}" for key in ("seconds", "least", "most")),
                *(f"{seconds:.4f}" for seconds in row["phases"].values()),
                f"{row['of_whole']:.3f}",
                f"{row['predicted_of_whole']:.3f}",
                f"{row['mfu']:.0%}",
                f"{row['peak_bytes'] / 1e6:,.0f}" if row["peak_bytes"] else "",
            )
        )
    return aligned(lines)


def small_parts(result: dict[str, Any], logging: float, device: str) -> dict[str, float]:
    """The most that data, logging and optimizer take of any step.

    A GPU computes while the next batch is made, which takes of a step what goes beyond that.

    Args:
        result: of a mode.
        logging: seconds per step.
        device: which computes.
    """
    rows = [*result["stages"], result["whole"]]
    hidden = device.startswith("cuda")

    def share(name: str, row: dict[str, Any]) -> float:
        seconds = row["phases"][name]
        if hidden and name == "data":
            seconds = max(0.0, seconds - row["phases"]["forward"] - row["phases"]["backward"])
        return float(seconds / row["seconds"])

    shares = {name: max(share(name, row) for row in rows) for name in ("data", "optimizer")}
    return shares | {"logging": max(logging / row["seconds"] for row in rows)}


def show(mode: str, result: dict[str, Any], batch: int) -> None:
    """Print the table of a mode and what follows from it."""
    print(f"\n{mode}\n{table(result)}")
    print(f"ratio {result['ratio']:.2f}x, by the cost model {result['predicted']:.2f}x")
    if mode == CACHED:
        print(
            f"{result['ratio_at_ten_visits']:.2f}x where a stage sees each batch ten times and "
            f"computes all its forward-only layers at the first"
        )
    if "end_to_end" in result:
        print(f"{result['end_to_end']:.2f}x as fast as Hugging Face's whole model")
    for name, share in result["shares"].items():
        text = f"{name} takes {share:.2%} of a step at the most"
        print(text if share < MOST else f"{text}, more than {MOST:.0%} (of {batch} sequences)")


def measure(given: argparse.Namespace, scratch: Path) -> None:
    """Check parity, measure memory and times, and print the tables and the JSON line."""
    settings = {mode: in_mode(given, scratch, mode) for mode in given.mode}
    equal: dict[str, dict[str, float]] = {}
    held: dict[Way, int | None] = {}
    for way, its in ways(settings).items():
        found = parity(its, way)
        refuse_without(str(way), found)
        equal[str(way)] = {"loss": found.loss, "gradient": found.gradient}
        if not given.no_memory:
            measured = peak_of_gpu if its.device.startswith("cuda") else peak
            held[way] = measured(one_step, given, scratch, way)
    measured = Measured(settings, held, given.against == "hf")
    setting = measured.setting
    logging = measured.logging.median / setting.job.config.log_every
    results = {}
    for mode in settings:
        result = results[mode] = measured.result(mode)
        result["shares"] = small_parts(result, logging, setting.device)
        show(mode, result, setting.batch_size)
    if measured.hf:
        print(f"\n{outcome(measured.hf)}")
    first, *others = results
    also = {"also": {mode: results[mode] for mode in others}} if others else {}
    facts = {"mode": first, "plan": given.plan, "parity": equal, **setting.facts()}
    finish({**results[first], **also, **facts})


def outcome(variants: list[Variant]) -> str:
    """A line for each variant, with what became of it."""
    return "\n".join(f"{v.name}: {v.note or f'{v.median:.4f} s/step'}" for v in variants)


def main(arguments: list[str] | None = None) -> None:
    """Read the options and measure."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--plan", choices=["mslt", "stacking", "whole"], default="mslt")
    parser.add_argument("--optimizer", choices=["adamw", "lamb"], default="adamw", help="ours")
    parser.add_argument("--k", type=int, help="stages in which the model grows")
    parser.add_argument("--retrain", type=float, help="share of the steps that retrain the whole")
    parser.add_argument("--mode", nargs="+", choices=list(PREFIX_SPEED), default=["exact"])
    parser.add_argument(
        "--against", choices=["hf"], help="let Hugging Face's whole model take part"
    )
    parser.add_argument("--no_memory", action="store_true", help="leave the peak memory out")
    given = parser.parse_args(arguments)
    try:
        with TemporaryDirectory() as folder:
            measure(given, Path(folder))
    except ValueError as error:
        sys.exit(f"method.py: {error}")


if __name__ == "__main__":
    main()
