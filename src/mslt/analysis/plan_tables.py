"""What plans will take as tables, for a terminal of any width."""

from collections.abc import Sequence

from mslt.analysis.formats import aligned, broken
from mslt.analysis.planning import Outlook, Split
from mslt.room import run_bytes
from mslt.words import duration, metric

STAGES = ("layers", "learn", "fixed", "length", "steps", "tokens", "learning")
COSTS = ("FLOPs/step", "s/step", "time", "reduced", "sent", "memory")


def stage_table(outlook: Outlook, width: int) -> str:
    """A row per stage, in as many tables beside each other as the width takes."""
    lines = [["stage", *STAGES, *COSTS]]
    for number, row in enumerate(outlook.rows, 1):
        lines.append(
            [
                f"{number}",
                f"{row['depth']}",
                f"{row['depth'] - row['learns_from']}",
                f"{row['learns_from']}",
                f"{row['seq_len']}",
                f"{row['steps']:,}",
                metric(row["tokens"]),
                metric(row["learning"]),
                metric(row["flops"], "F"),
                f"{row['seconds']:.3g}",
                _time(row["steps"] * row["seconds"]),
                metric(row["reduced"], "B"),
                metric(row["sent"], "B"),
                metric(row["memory"], "B"),
            ]
        )
    if not any(row["sent"] for row in outlook.rows):
        lines = _without(lines, "sent")
    return broken(lines, width)


def plan_table(outlooks: Sequence[Outlook], width: int) -> str:
    """A row per plan, and one for the first if its forward-only layers cost nothing."""
    whole = next((o for o in outlooks if o.config.plan.method == "whole"), None)
    base = whole.total("seconds") if whole else None
    lines = [["plan", "time", "of whole", "FLOPs", "sent", "memory", "disk"]]

    def add(key: str, seconds: float, rest: Sequence[str]) -> None:
        share = f"{seconds / base:.3f}" if base else ""
        lines.append([key, _time(seconds), share, *rest])

    for number, outlook in enumerate(outlooks):
        memory = metric(max(row["memory"] for row in outlook.rows), "B")
        rest = (metric(outlook.total("flops"), "F"), metric(outlook.total("sent"), "B"))
        disk = metric(run_bytes(outlook.config), "B")
        add(outlook.name, outlook.total("seconds"), (*rest, memory, disk))
        if number == 0 and outlook.bounded:
            add("  its bound *", outlook.total("bound"), ("", "", "", ""))
    if not any(outlook.total("sent") for outlook in outlooks):
        lines = _without(lines, "sent")
    return broken(lines, width)


def search_table(found: Sequence[Split], whole: float, most: int) -> str:
    """Splits by predicted time, the fastest first.

    Args:
        found: in that order.
        whole: seconds of the whole model for as many steps.
        most: rows.
    """
    lines = [["k", "stage 1", "each other", "retrain", "time", "of whole"]]
    for split in found[:most]:
        seconds = split.outlook.total("seconds")
        first, other, retrain = (f"{share:.1f} %" for share in split.shares)
        lines.append(
            [f"{split.k}", first, other, retrain, _time(seconds), f"{seconds / whole:.3f}"]
        )
    return aligned(lines)


def _without(lines: list[list[str]], heading: str) -> list[list[str]]:
    """The same without a column."""
    gone = lines[0].index(heading)
    return [line[:gone] + line[gone + 1 :] for line in lines]


def _time(seconds: float) -> str:
    """Finer than `duration` where plans are compared: 48 s, 3.6 min, 3 h 20 min."""
    return f"{seconds / 60:.1f} min" if 90 <= seconds < 5370 else duration(seconds)
