"""The page itself: data and files put together so that nothing is fetched and no text is code.

Everything that a run's folder gives travels as JSON in a block that is never executed, and the
scripts put it on the page as text nodes alone. A policy in the page's head lets nothing run or
load but the styles and scripts that are in it, which it knows by their hashes.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

import mslt
from mslt.analysis.report import says, tables
from mslt.analysis.report.groups import Group, grouped
from mslt.analysis.report.series import curves
from mslt.analysis.report.subjects import Subject, subjects
from mslt.files import naming
from mslt.run import to_json, write_text

MOST_BYTES = 5_000_000
MARK = "<!doctype html><!-- mslt report -->"
_POINTS, _FEWEST = 400, 50  # of a curve
_SCRIPTS = ("dom", "tables", "timeline", "plot", "curves", "attention", "drift", "page")


def write_report(
    paths: Sequence[Path], out: Path, looks: dict[str, Any] | None = None, today: str | None = None
) -> int:
    """Write the page about some runs.

    Args:
        paths: runs, or comparisons, all of whose runs are shown.
        out: the file.
        looks: attention and drift, as `mslt.analysis.report.looks.look` gives them.
        today: the date on it; today's by default.

    Returns:
        Its bytes.

    Raises:
        ValueError: a folder holds no run, or a damaged one; or another file stands at `out`.
        OSError: it cannot be written.
    """
    refuse(out)
    groups = grouped(subjects(paths))
    points = _POINTS
    while True:
        data = content(groups, points, looks or {}, today or date.today().isoformat())
        text = html(data)
        size = len(text.encode())
        if size < MOST_BYTES or points <= _FEWEST:
            break
        points //= 2
    if size >= MOST_BYTES:
        raise ValueError(f"the report would have {size:,} bytes: give fewer runs or sentences")
    with naming(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text)
    return size


def refuse(out: Path) -> None:
    """Let no file be overwritten but an earlier report.

    Raises:
        ValueError: something else stands there.
    """
    if not out.exists():
        return
    if not out.is_file() or out.read_bytes()[: len(MARK)] != MARK.encode():
        raise ValueError(f"{out} exists and is no report: choose another --out")


def content(
    groups: Sequence[Group], points: int, looks: dict[str, Any], today: str
) -> dict[str, Any]:
    """All that the page shows, as plain values."""
    names = " · ".join(group.name for group in groups)
    return {
        "title": names,
        "written": f"{today}, mslt {mslt.__version__}",
        "what": says.what_ran(groups),
        "results": says.results(groups),
        "groups": [
            {"name": group.name, "seeds": len(group.runs), "stages": group.stages()}
            for group in groups
        ],
        "stages": [tables.stages(group) for group in groups],
        "tables": tables.paper(groups),
        "speed": tables.speed(groups),
        "forecast": tables.forecasts(groups),
        "differences": tables.differences(groups),
        "runs": [
            {**_run(run, index, points), "first": run is group.first}
            for index, group in enumerate(groups)
            for run in group.runs
        ],
        "attention": looks.get("attention"),
        "drift": looks.get("drift"),
        "absent": looks.get("absent", "Attention was not asked for."),
    }


def _run(run: Subject, group: int, points: int) -> dict[str, Any]:
    config = run.config.to_dict()
    if config["prefix_cache"]:
        config["prefix_cache"] = Path(config["prefix_cache"]).name  # not where it was
    return {
        "name": run.name,
        "group": group,
        "seed": run.config.seed,
        "ends": list(run.plan.ends[:-1]),
        "baseline": run.facts["baseline_mlm_loss"],
        "facts": says.facts(run),
        "config": yaml.safe_dump(config, sort_keys=False),
        "again": says.again(run),
        **curves(run, points),
    }


def html(data: dict[str, Any]) -> str:
    """The page.

    Args:
        data: plain values; text in them may be anything.
    """
    style = _file("page.css")
    script = "\n".join(_file(f"{name}.js") for name in _SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}\n}})();\n'
    parts = {
        "policy": "; ".join(
            [
                "default-src 'none'",
                f"script-src '{_hash(script)}'",
                f"style-src '{_hash(style)}'",
                "base-uri 'none'",
                "form-action 'none'",
            ]
        ),
        "style": style,
        "script": script,
        "data": embedded(data),
    }
    head, *rest = _file("page.html").split("{{")
    text = [head]
    for part in rest:
        name, _, after = part.partition("}}")
        text += [parts[name], after]
    return MARK + "".join(text)


def embedded(data: Any) -> str:
    """JSON that may stand in a script block of HTML, whatever text is in it."""
    text = to_json(data)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    assert json.loads(text) is not None
    return text.encode("utf-8", "replace").decode()


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _file(name: str) -> str:
    return resources.files("mslt.analysis.report").joinpath(name).read_text(encoding="utf-8")
