"""The page's tables: text in cells, some with a bar. Imports no torch."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mslt.analysis.formats import MARK, written
from mslt.analysis.paper import Table, paper_tables
from mslt.analysis.report.groups import Group
from mslt.analysis.report.says import span
from mslt.analysis.results import finished
from mslt.options import flatten
from mslt.words import metric

NONE = "–"

Cell = str | dict[str, Any]


def paper(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """The overview and those of the paper's tables of which something was measured."""
    results = [(group, finished(run.path)) for group in groups for run in group.runs]
    known = [replace(result, plan=group.name) for group, result in results if result]
    if not known:
        return []
    tables = paper_tables(known, groups[0].first.budget)
    return [_paper(table) for table in tables if table.has_scores or not table.number]


def _paper(table: Table) -> dict[str, Any]:
    head, *rows = written(table.without_empty_columns(), f" {MARK}")
    title = table.title[0].upper() + table.title[1:]
    name = f"Table {table.number}: {table.title}" if table.number else title
    return {"title": name, "head": head, "rows": rows, "notes": list(table.notes)}


def stages(group: Group) -> dict[str, Any]:
    """What each stage of a plan was, and what came out of it."""
    head = ["stage", "layers", "learn", "only forward", "length", "steps", "tokens", "learning"]
    head += ["training time", "loss at its end (nats)", "accuracy"]
    rows: list[list[Cell]] = []
    for row in group.stages():
        done, steps = row["done"], f"{row['steps']:,}"
        rows.append(
            [
                f"{row['number']}",
                f"{row['depth']}",
                f"{row['depth'] - row['fixed']}",
                f"{row['fixed']}",
                f"{row['length']}",
                steps if done in (0, row["steps"]) else f"{done:,} of {steps}",
                metric(row["tokens"]),
                metric(row["learning"]),
                NONE if row["seconds"] is None else span(row["seconds"]),
                NONE if row["heldout"] is None else f"{row['heldout']:.4f}",
                NONE if row["accuracy"] is None else f"{row['accuracy']:.1%}",
            ]
        )
    notes = ["learning: parameters that learn. Tokens count padding."]
    return {"title": group.name, "head": head, "rows": rows, "notes": notes + _medians(group)}


def _medians(group: Group) -> list[str]:
    return [f"Medians of {len(group.runs)} seeds."] if len(group.runs) > 1 else []


def speed(groups: Sequence[Group]) -> dict[str, Any]:
    """Time of a step, tokens per second and memory of each stage of each plan."""
    every = [(index, group, row) for index, group in enumerate(groups) for row in group.stages()]
    slowest = max((row["step_seconds"] or 0 for *_, row in every), default=0) or 1
    largest = max((row["memory"] or 0 for *_, row in every), default=0) or 1
    rows: list[list[Cell]] = []
    for index, group, row in every:
        each, memory = row["step_seconds"], row["memory"]
        rate = row["tokens"] / row["done"] / each if each else None
        rows.append(
            [
                group.name,
                f"{row['number']}",
                _layers(row),
                _bar(milliseconds(each), each, slowest, index),
                NONE if rate is None else f"{rate:,.0f}",
                _bar(NONE if memory is None else metric(memory, "B"), memory, largest, index),
            ]
        )
    head = ["plan", "stage", "layers", "time of a step (ms)", "tokens/s", "peak memory"]
    notes = ["Time is training alone: evaluating and saving do not count."]
    if any(row["memory"] for *_, row in every):
        where = {group.first.facts["device"].startswith("cuda") for group in groups}
        notes.append(
            "Memory is the most in use in a stage: "
            + ("of the GPU." if where == {True} else "of the whole process, its libraries too.")
        )
    else:
        notes.append("These runs recorded no memory.")
    return {"title": "Speed and memory by stage", "head": head, "rows": rows, "notes": notes}


def _layers(row: dict[str, Any]) -> str:
    if not row["fixed"]:
        return f"{row['depth']}, all learn"
    return f"{row['depth']}, the top {row['depth'] - row['fixed']} learn"


def milliseconds(seconds: float | None) -> str:
    """A step's time, in three digits or more."""
    if seconds is None:
        return NONE
    value = 1000 * seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _bar(text: str, value: float | None, most: float, series: int) -> Cell:
    return text if value is None else {"text": text, "bar": round(value / most, 4), "of": series}


def forecasts(groups: Sequence[Group]) -> dict[str, Any] | None:
    """Predicted against measured training time, of stages that are done; None without any."""
    rows, by = [], []
    for group in groups:
        forecast = group.first.forecast
        done = [r for r in group.stages() if r["predicted"] and r["done"] == r["steps"]]
        done = [row for row in done if row["seconds"]]
        if forecast is None or not done:
            continue
        by.append(f"{group.name}: by {forecast.by}.")
        pairs = [(r["predicted"] * r["steps"], r["seconds"]) for r in done]
        names = [f"{row['number']}" for row in done]
        if len(done) > 1:
            pairs.append((sum(p for p, _ in pairs), sum(m for _, m in pairs)))
            names.append("all")
        for name, (expected, took) in zip(names, pairs):
            off = f"{took / expected - 1:+.1%}"
            rows.append([group.name, name, span(expected), span(took), off])
    head = ["plan", "stage", "predicted", "measured", "measured is"]
    title = "Predicted against measured"
    return {"title": title, "head": head, "rows": rows, "notes": by} if rows else None


def differences(groups: Sequence[Group]) -> dict[str, Any] | None:
    """The options in which plans differ; None where they do not, or there is one alone."""
    values = [flatten(group.first.config.to_dict()) for group in groups]
    keys = [k for k in values[0] if k != "seed" and len({repr(v.get(k)) for v in values}) > 1]
    if not keys:
        return None
    rows = [[key, *(_plain(each.get(key)) for each in values)] for key in keys]
    head = ["option", *(group.name for group in groups)]
    return {"title": "Options in which the plans differ", "head": head, "rows": rows, "notes": []}


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(f"{each:g}" if isinstance(each, float) else f"{each}" for each in value)
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else f"{value}"
