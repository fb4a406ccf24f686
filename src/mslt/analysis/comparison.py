"""What a comparison has come to: tables and curves of its finished runs."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mslt import foreign, layout
from mslt.analysis.curves import Curve, draw
from mslt.analysis.formats import to_csv, to_latex, to_markdown, to_text, to_values
from mslt.analysis.paper import Table, paper_tables
from mslt.analysis.results import Result, finished
from mslt.files import naming


def write_results(
    out: Path, names: list[str], seeds: list[int], budget: str, lost: Mapping[str, str]
) -> dict[str, Any]:
    """Write tables and curves of a comparison's finished runs, and show the tables.

    Args:
        out: its folder.
        names: of the plans.
        seeds: of the runs of each.
        budget: steps, time or recipe.
        lost: by the name of a run, why it was given up.

    Returns:
        What compare.json keeps of them.

    Raises:
        ValueError: naming a damaged file of a run.
        OSError: the disk is full or not writable.
    """
    runs = [run for run in compared_runs(out, names, seeds) if finished(run)]
    if not runs:
        return {}
    results = results_of(runs)
    first, *others = paper_tables(results, budget)
    given_up = [f"{name} was given up: {why}." for name, why in lost.items()]
    tables = [replace(first, notes=(*first.notes, *given_up)), *others]
    write_tables(out, tables)
    curves = [Curve.of(run) for run in runs]
    for kind in ("png", "svg"):
        draw(curves, out / f"curves.{kind}", loss="heldout")  # of many runs the other is a cloud
    width = shutil.get_terminal_size().columns
    shown = [to_text(table, width) for table in tables if table.has_scores or not table.number]
    print("\n" + "\n\n".join(shown) + "\n")
    return summary(results, tables)


def compared_runs(out: Path, names: list[str], seeds: list[int]) -> list[Path]:
    """The folders of a comparison's runs that are there, plans in their order, then seeds."""
    paths = [layout.compared_run(out, name, seed) for name in names for seed in seeds]
    return [path for path in paths if (path / layout.CONFIG).is_file()]


def read_comparison(out: Path) -> tuple[layout.Budget, list[Path]]:
    """What the plans of a comparison have in common, and `compared_runs` of it.

    Raises:
        ValueError: its compare.json is missing or damaged.
        OSError: it cannot be read.
    """
    file = out / layout.COMPARISON
    values = foreign.read_json_object(file)
    wanted = {"budget": layout.Budget, "configs": dict, "seeds": list[int]}
    foreign.require(values, wanted, str(file))
    for name in values["configs"]:
        foreign.require_name(name, str(file))
    return values["budget"], compared_runs(out, list(values["configs"]), values["seeds"])


def write_tables(out: Path, tables: list[Table]) -> None:
    """tables.md, tables.csv and tables.tex in a folder.

    Raises:
        OSError: they cannot be written.
    """
    texts = {
        "md": "\n\n".join(map(to_markdown, tables)) + "\n",
        "tex": "\n\n".join(map(to_latex, tables)) + "\n",
        "csv": to_csv(tables),
    }
    for kind, text in texts.items():
        path = out / f"tables.{kind}"
        with naming(path):
            path.write_text(text, encoding="utf-8")


def results_of(runs: list[Path]) -> list[Result]:
    """The results of the runs that are finished.

    Raises:
        ValueError: naming a damaged file.
    """
    return [result for result in map(finished, runs) if result]


def summary(results: list[Result], tables: list[Table]) -> dict[str, Any]:
    """Results and tables, for JSON."""
    runs = [
        {
            "plan": result.plan,
            "seed": result.seed,
            "steps": result.stages.steps,
            "tokens": result.tokens,
            "seconds": result.seconds,
            "heldout_loss": result.loss,
            "baseline_mlm_loss": result.baseline,
            "parameters": result.parameters,
            "scores": dict(result.scores),
            "score_seeds": dict(result.score_seeds),
        }
        for result in results
    ]
    return {"runs": runs, "tables": [to_values(table) for table in tables]}
