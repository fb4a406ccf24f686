"""Tables as text, Markdown, CSV, LaTeX and JSON. Imports no torch.

What was not measured is written n/a, in CSV it is left empty, and in JSON it is null.
"""

import csv
import io
import math
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from mslt.analysis.paper import Cell, Table

ABSENT = "n/a"
MARK = "~"  # behind what may be noise

_TIMES = ((2 * 3600.0, "h", 3600.0), (120.0, "min", 60.0), (0.0, "s", 1.0))
_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns of text: the first to the left, the others to the right, under a ruled heading."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]

    def row(line: Sequence[str]) -> str:
        first, *rest = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths))
        )
        return "  ".join([first, *rest]).rstrip()

    return "\n".join(
        [row(lines[0]), "  ".join("-" * width for width in widths), *map(row, lines[1:])]
    )


def broken(lines: Sequence[Sequence[str]], width: int) -> str:
    """Columns of text, in as many tables as the width takes, each with the first column."""
    widths = [max(len(line[i]) for line in lines) + 2 for i in range(len(lines[0]))]
    left, groups, room = widths[0] - 2, list[list[int]](), 0
    for i, each in enumerate(widths[1:], 1):
        if each > room:
            groups.append([])
            room = width - left
        groups[-1].append(i)
        room -= each
    return "\n\n".join(
        aligned([[line[0], *(line[i] for i in group)] for line in lines]) for group in groups
    )


def to_text(table: Table, width: int) -> str:
    """For a terminal of so many columns, without those of the table that have no figure."""
    lines = written(table.without_empty_columns(), f" {MARK}")
    title, *notes = (textwrap.fill(text, width) for text in (_title(table), *table.notes))
    return "\n".join([title, "", broken(lines, width), "", *notes])


def to_markdown(table: Table) -> str:
    """For a page."""
    head, *rows = written(table, f" {MARK}", _in_markdown)
    rule = ["---", *("---:" for _ in head[1:])]
    lines = [f"| {' | '.join(line)} |" for line in (head, rule, *rows)]
    notes = [_in_markdown(note) for note in table.notes]
    return "\n".join([f"**{_in_markdown(_title(table))}**", "", *lines, "", *notes])


def to_latex(table: Table) -> str:
    """For a paper: needs the package booktabs."""
    head, *rows = written(table, r" $^{\sim}$", in_latex)
    body = [" & ".join(line) + r" \\" for line in (head, *rows)]
    notes = " ".join(in_latex(note) for note in table.notes)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{in_latex(_title(table))}. {notes}}}",
            rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
            r"\toprule",
            body[0],
            r"\midrule",
            *body[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def to_csv(tables: Sequence[Table]) -> str:
    """All tables, a line per plan and column; times in seconds."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["table", "plan", "column", "unit", "median", "low", "high", "seeds", "noise"])
    for table in tables:
        for name, cells in table.rows.items():
            for column, cell in zip(table.columns, cells):
                unit = "s" if column.digits is None else column.unit
                numbers: list[Any] = ["", "", "", 0, ""]
                if cell:
                    spread = cell.spread
                    numbers = [spread.median, spread.low, spread.high, len(spread.values)]
                    numbers.append("" if cell.noise is None else str(cell.noise).lower())
                key = table.number or table.title
                writer.writerow([key, name, column.title, unit, *numbers])
    return file.getvalue()


def to_values(table: Table) -> dict[str, Any]:
    """For JSON; times in seconds."""

    def value(cell: Cell | None) -> dict[str, Any] | None:
        if cell is None:
            return None
        spread = cell.spread
        numbers = {"median": spread.median, "low": spread.low, "high": spread.high}
        return {**numbers, "values": list(spread.values), "noise": cell.noise}

    titles = [column.title for column in table.columns]
    return {
        "table": table.number,
        "title": table.title,
        "units": {c.title: "s" if c.digits is None else c.unit for c in table.columns},
        "rows": {name: dict(zip(titles, map(value, cells))) for name, cells in table.rows.items()},
        "notes": list(table.notes),
    }


def in_latex(text: str) -> str:
    """Text as LaTeX shows it as it is."""
    return "".join(_TEX.get(sign, sign) for sign in text)


def _in_markdown(text: str) -> str:
    return "".join(f"\\{sign}" if sign in r"\`*_{}[]<>|~" else sign for sign in text)


def _title(table: Table) -> str:
    """Its number in the paper, if any, and what it shows."""
    title = table.title[0].upper() + table.title[1:]
    return f"Table {table.number}: {table.title}" if table.number else title


def written(
    table: Table, mark: str, escape: Callable[[str], str] = lambda text: text
) -> list[list[str]]:
    """Heading and rows, as text."""
    shown = [_column(table, i) for i in range(len(table.columns))]
    lines = [[escape("plan"), *(escape(heading) for heading, _ in shown)]]
    for name, cells in table.rows.items():
        texts = [
            ABSENT if cell is None else show(cell) + (mark if cell.noise else "")
            for cell, (_, show) in zip(cells, shown)
        ]
        lines.append([escape(name), *texts])
    return lines


def _column(table: Table, index: int) -> tuple[str, Callable[[Cell], str]]:
    """Its heading, and what makes text of a cell."""
    column = table.columns[index]
    unit, scale, digits = column.unit, 1.0, column.digits
    spreads = [cell.spread for row in table.rows.values() if (cell := row[index])]
    if digits is None:
        longest = max((spread.high for spread in spreads), default=0.0)
        unit, scale = next((name, by) for least, name, by in _TIMES if longest >= least)
        digits = 1
    least = min((spread.low for spread in spreads), default=0.0)
    if column.figures and least > 0:
        digits = max(digits, column.figures - 1 - math.floor(math.log10(least)))

    def number(value: float) -> str:
        text = f"{value / scale:,.{digits}f}"
        return f"+{text}" if column.signed and value > 0 else text

    def show(cell: Cell) -> str:
        middle, low, high = (
            number(value) for value in (cell.spread.median, cell.spread.low, cell.spread.high)
        )
        measured = len(cell.spread.values)
        more = [] if low == high else [f"{low} to {high}"]
        more += [] if measured == cell.seeds else [f"{measured} of {cell.seeds} seeds"]
        return f"{middle} ({'; '.join(more)})" if more else middle

    return f"{column.title} ({unit})" if unit else column.title, show
