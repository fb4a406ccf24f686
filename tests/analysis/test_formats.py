"""Tables in every format, with whatever is in a name or a title."""

import csv
import io
from dataclasses import replace

import pytest
from test_results import result

from mslt.analysis.formats import in_latex, to_csv, to_latex, to_markdown, to_text, to_values
from mslt.analysis.paper import Cell, Column, Table, paper_tables
from mslt.analysis.results import Spread


def _nothing(*_):
    return None


COLUMNS = (
    Column("50% & more_", _nothing, "nats", 2),
    Column("time", _nothing, digits=None),
    Column("gap", _nothing, digits=1, signed=True),
)
ROWS = {
    "a_b": (
        Cell(Spread((1.0, 2.0, 4.0)), 3),
        Cell(Spread((90.0, 150.0)), 3, noise=True),
        Cell(Spread((0.25, 0.25, 0.25)), 3, noise=False),
    ),
    'c,"d"': (None, Cell(Spread((1234.0,)), 1), Cell(Spread((-1.0,)), 1)),
}
TABLE = Table("7", "x|y", COLUMNS, ROWS, ("~: note_1",))


def test_text_is_aligned_with_ranges_marks_and_what_is_absent() -> None:
    lines = to_text(TABLE, 120).split("\n")
    assert lines[0] == "Table 7: x|y"
    assert lines[4].split("  ")[0] == "a_b"
    assert "2.00 (1.00 to 4.00)  2.0 (1.5 to 2.5; 2 of 3 seeds) ~  +0.2" in lines[4]
    assert lines[5].split() == ['c,"d"', "n/a", "20.6", "-1.0"]
    assert "time (min)" in lines[2]


@pytest.mark.parametrize("width", [50, 60, 120])
def test_text_is_broken_to_its_width_and_each_part_says_whose_row_it_is(width: int) -> None:
    table = Table("", "x" * 5, COLUMNS, ROWS, ("a note of many words " * 9,))
    lines = to_text(table, width).split("\n")
    assert max(map(len, lines)) <= width
    parts = sum(line.startswith("plan") for line in lines)
    assert parts == {50: 2, 60: 2, 120: 1}[width]
    assert sum(line.startswith("a_b") for line in lines) == parts


def test_markdown_escapes_what_would_be_a_column_or_a_style() -> None:
    lines = to_markdown(TABLE).split("\n")
    assert lines[0] == r"**Table 7: x\|y**"
    assert lines[2] == r"| plan | 50% & more\_ (nats) | time (min) | gap |"
    assert lines[3] == "| --- | ---: | ---: | ---: |"
    assert lines[4].startswith(r"| a\_b | 2.00 (1.00 to 4.00) |")
    assert lines[-1] == r"\~: note\_1"


def test_latex_escapes_every_sign_that_means_something() -> None:
    assert in_latex(r"a&b%c$d#e_f{g}h~i^j\k") == (
        r"a\&b\%c\$d\#e\_f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}k"
    )
    lines = to_latex(TABLE).split("\n")
    assert r"\caption{Table 7: x|y. \textasciitilde{}: note\_1}" in lines
    assert r"\begin{tabular}{lrrr}" in lines
    assert r"plan & 50\% \& more\_ (nats) & time (min) & gap \\" in lines
    assert (
        r"a\_b & 2.00 (1.00 to 4.00) & 2.0 (1.5 to 2.5; 2 of 3 seeds) $^{\sim}$ & +0.2 \\" in lines
    )
    assert all(line.count("{") == line.count("}") for line in lines)


def test_csv_has_a_line_for_each_figure_in_seconds_and_quotes_what_needs_it() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv([TABLE]))))
    assert len(rows) == 6
    assert rows[1] == {
        **{"table": "7", "plan": "a_b", "column": "time", "unit": "s", "median": "120.0"},
        **{"low": "90.0", "high": "150.0", "seeds": "2", "noise": "true"},
    }
    assert rows[3]["plan"] == 'c,"d"'
    assert (rows[3]["median"], rows[3]["seeds"]) == ("", "0")
    assert (rows[2]["noise"], rows[5]["noise"]) == ("false", "")


def test_json_has_every_value_and_null_for_what_is_absent() -> None:
    values = to_values(TABLE)
    assert values["rows"]["a_b"]["time"] == {
        **{"median": 120.0, "low": 90.0, "high": 150.0, "values": [90.0, 150.0], "noise": True}
    }
    assert values["rows"]['c,"d"']["50% & more_"] is None
    assert values["units"]["time"] == "s"


@pytest.mark.parametrize(
    ("tokens", "shown"),
    [(15_360, "0.015"), (49_000, "0.049"), (320_000, "0.32"), (24_960_000, "25.0"), (0, "0.0")],
)
def test_few_tokens_have_two_digits(tokens: int, shown: str) -> None:
    overview = paper_tables([replace(result(), tokens=tokens)], "steps")[0]
    assert to_text(overview, 200).split("\n")[4].split()[2] == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(59.96, "60.0"), (7200.0, "2.0"), (7199.0, "120.0"), (119.0, "119.0")]
)
def test_times_have_the_unit_that_suits_the_longest(seconds: float, shown: str) -> None:
    unit = {"60.0": "s", "119.0": "s", "120.0": "min", "2.0": "h"}[shown]
    overview = paper_tables([result(seconds=seconds)], "steps")[0]
    text = to_text(overview, 200)
    assert f"time ({unit})" in text
    assert shown in text
