"""The drift chart shows every mark whole and every name as it is."""

from pathlib import Path
from typing import Any

from mslt.analysis.attention_charts import drift

NAME = r"p$\frac$"


def values(weights: list[float]) -> dict[str, Any]:
    """An earlier model beside the last: their first layers are the same."""
    rows = [
        {
            "distance": {"mean": float(i > 1), "over_sequences": 0.0},
            "cka": 1.0,
            "cka_error": None,
            "weights": weight,
        }
        for i, weight in enumerate([0.0, *weights])
    ]
    layers = [{"between_heads": {"mean": 0.5}} for _ in weights]
    return {
        "models": [{"name": NAME}, {"name": f"last {NAME}", "layers": layers}],
        "last": 1,
        "pairs": [{"models": [0, 1], "from": NAME, "layers": rows}],
    }


def test_marks_at_the_edge_of_a_panel_are_not_cut() -> None:
    figure = drift(values([0.30, 0.31, 0.31]))
    for axes in figure.axes:
        line = axes.get_lines()[-1]
        low, high = axes.get_ylim()
        assert not line.get_clip_on()
        assert all(low <= y <= high for y in line.get_ydata())


def test_a_name_with_dollar_signs_is_no_formula(tmp_path: Path) -> None:
    figure = drift(values([0.0, 0.1]))
    figure.savefig(tmp_path / "drift.png")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["different heads", NAME]
