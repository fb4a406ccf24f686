"""Curves of a run for the page: every quantity against steps, tokens and seconds, thinned."""

import math
from collections.abc import Sequence
from typing import Any

from mslt.analysis.report.subjects import Subject, number

TRAIN = ("mlm_loss", "pair_loss", "grad_norm", "lr", "tokens_per_second", "memory")
HELDOUT = ("mlm_loss", "mlm_accuracy", "pair_loss", "pair_accuracy")

Column = list[float | None]


def curves(run: Subject, points: int) -> dict[str, Any]:
    """What the page draws of a run.

    Args:
        run: read already.
        points: most of each curve. Held-out evaluations beyond are left out evenly, but for those
            at stages' ends; of logged training steps the means of neighbours are kept.

    Returns:
        `train` and `heldout`: columns of the same length each, `step`, `tokens`, `seconds` and what
        was measured; `each`, how many logged steps a training point is the mean of.
    """
    train, heldout = run.lines("train"), run.lines("heldout")
    each = math.ceil(len(train) / points) if train else 1
    keep = set(run.plan.ends) | {line["step"] for line in heldout[-1:]}
    every = math.ceil(len(heldout) / points) if heldout else 1
    thin = [line for i, line in enumerate(heldout) if i % every == 0 or line["step"] in keep]
    return {
        "train": _means(_columns(run, train, TRAIN), each),
        "heldout": _columns(run, thin, HELDOUT),
        "each": each,
    }


def _columns(
    run: Subject, lines: Sequence[dict[str, Any]], keys: Sequence[str]
) -> dict[str, Column]:
    columns: dict[str, Column] = {
        "step": [line["step"] for line in lines],
        "tokens": [run.tokens(line["step"]) for line in lines],
        "seconds": [short(line["seconds"]) for line in lines],
    }
    for key in keys:
        values = [short(number(line, key)) for line in lines]
        if any(value is not None for value in values):
            columns[key] = values
    return columns


def _means(columns: dict[str, Column], each: int) -> dict[str, Column]:
    """Neighbours become one; where they stand is the last one's place."""
    if each == 1:
        return columns
    found = {}
    for key, values in columns.items():
        parts = [values[i : i + each] for i in range(0, len(values), each)]
        place = key in ("step", "tokens", "seconds")
        found[key] = [part[-1] if place else _mean(part) for part in parts]
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return short(sum(known) / len(known)) if known else None


def short(value: float | None) -> float | None:
    """Six digits: what a chart can show, in few bytes."""
    return None if value is None else float(f"{value:.6g}")
