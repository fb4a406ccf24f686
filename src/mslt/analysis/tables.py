"""Tables of what runs took and reached."""

from collections.abc import Mapping, Sequence
from typing import Any

from mslt.analysis.formats import aligned
from mslt.run import Run

HEADINGS = ("plan", "stage", "depth", "learn", "steps", "seconds", "tokens/s", "held-out loss")


def stage_rows(run: Run) -> list[dict[str, Any]]:
    """One row per finished stage of a run.

    Returns:
        `stage`, `depth`, `learn` (layers that learned), `steps`, `seconds` and `tokens_per_second`
        of the stage alone, and `heldout`, the held-out loss at its end in nats.
    """
    plan, config = run.config.stages(), run.config
    heldout = {line["step"]: line for line in run.heldout()}
    rows, before = [], 0.0
    for i, (stage, end) in enumerate(zip(plan.stages, plan.ends)):
        if end not in heldout:
            break
        seconds = heldout[end]["seconds"] - before
        before = heldout[end]["seconds"]
        tokens = stage.steps * config.batch_size * stage.seq_len
        rows.append(
            {
                "stage": i + 1,
                "depth": stage.depth,
                "learn": stage.depth - stage.learns_from,
                "steps": stage.steps,
                "seconds": seconds,
                "tokens_per_second": tokens / max(seconds, 1e-9),
                "heldout": heldout[end]["mlm_loss"],
            }
        )
    return rows


def stage_table(runs: Mapping[str, Run]) -> str:
    """The stages of several runs and their totals, for a terminal."""
    lines: list[Sequence[str]] = [HEADINGS]
    for name, run in runs.items():
        rows = stage_rows(run)
        for row in rows:
            lines.append(
                (
                    name,
                    f"{row['stage']}",
                    f"{row['depth']}",
                    f"{row['learn']}",
                    f"{row['steps']:,}",
                    f"{row['seconds']:.1f}",
                    f"{row['tokens_per_second']:,.0f}",
                    f"{row['heldout']:.4f}",
                )
            )
        total = sum(row["seconds"] for row in rows)
        steps = sum(row["steps"] for row in rows)
        loss = f"{rows[-1]['heldout']:.4f}" if rows else ""
        lines.append((name, "all", "", "", f"{steps:,}", f"{total:.1f}", "", loss))
    return aligned(lines)
