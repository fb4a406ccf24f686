"""The picture of a run's losses holds the run's numbers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up_run import CONFIG, new_run
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mslt.analysis.curves import COLOURS, Curve, draw
from mslt.config import PlanConfig
from mslt.run import Run

EVALUATIONS = [(200, 3.0), (400, 2.5), (600, 2.25), (800, 2.0), (1000, 1.5)]  # step, loss
LOGGED = [(step, 4.0 - step / 500) for step in range(100, 1001, 100)]
ENDS = {"mslt": [(400, 2.5), (800, 2.0)], "whole": []}


def trained(path: Path, method: str = "mslt", pace: float = 0.1) -> Run:
    """A run that took `pace` seconds for each of its 1000 steps."""
    plan = PlanConfig(method="mslt", k=2, retrain=0.2, seq_len=32)
    plan = plan if method == "mslt" else PlanConfig(method="whole", seq_len=32)
    path.parent.mkdir()
    run = new_run(path, replace(CONFIG, plan=plan))
    for kind, losses in (("train", LOGGED), ("heldout", EVALUATIONS)):
        for step, loss in losses:
            run.record(kind, step, {"mlm_loss": loss, "mlm_accuracy": 0.5, "seconds": step * pace})
    return run


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is saved."""
    saved: list[Figure] = []
    savefig = Figure.savefig

    def record(figure: Figure, *args: Any, **kwargs: Any) -> None:
        saved.append(figure)
        savefig(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", record)
    return saved


def lines(axes: Axes) -> list[tuple[list[float], list[float]]]:
    """x and y of every line, in the order in which they were drawn."""
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()]


def points(pairs: list[tuple[int, float]], unit: float) -> tuple[list[float], list[float]]:
    return [pytest.approx(step * unit) for step, _ in pairs], [loss for _, loss in pairs]


def test_a_curve_is_what_the_runs_folder_tells(tmp_path: Path) -> None:
    curve = Curve.of(trained(tmp_path / "a" / "run"), "mine")
    assert (curve.steps, curve.heldout) == ([200, 400, 600, 800, 1000], [3.0, 2.5, 2.25, 2.0, 1.5])
    assert curve.seconds == [20.0, 40.0, 60.0, 80.0, 100.0]
    assert list(zip(curve.train_steps, curve.train)) == LOGGED
    assert curve.train_seconds == pytest.approx([step / 10 for step, _ in LOGGED])
    assert curve.ends == [(400, 40.0, 2.5), (800, 80.0, 2.0)]
    assert (curve.name, curve.baseline) == ("mine", 2.5)


@pytest.mark.parametrize(("suffix", "begins"), [(".png", b"\x89PNG\r\n"), (".svg", b"<?xml")])
def test_a_picture_is_written_where_it_is_asked_for(
    tmp_path: Path, suffix: str, begins: bytes
) -> None:
    path = tmp_path / "new" / f"curves{suffix}"
    assert draw([Curve.of(trained(tmp_path / "a" / "run"), "mine")], path) == path
    assert path.read_bytes().startswith(begins)
    assert path.stat().st_size > 1000


@pytest.mark.parametrize(("pace", "unit", "word"), [(0.1, 0.1, "seconds"), (0.6, 0.01, "minutes")])
def test_both_panels_hold_the_numbers_of_every_run(
    tmp_path: Path, figures: list[Figure], pace: float, unit: float, word: str
) -> None:
    curves = [Curve.of(trained(tmp_path / method / "run", method, pace), method) for method in ENDS]
    draw(curves, tmp_path / "curves.png")
    by_step, by_time = figures[0].axes
    for axes, scale in ((by_step, 1.0), (by_time, unit)):
        *drawn, baseline = lines(axes)
        wanted = [(LOGGED, EVALUATIONS, ends) for ends in ENDS.values()]
        assert drawn == [points(part, scale) for parts in wanted for part in parts]
        assert baseline[1] == [2.5, 2.5]
        assert axes.get_xlim()[0] == 0
    assert by_step.get_xlabel() == "optimisation steps"
    assert by_time.get_xlabel() == f"training time ({word})"


def test_runs_have_their_colours_stage_ends_dots_and_the_legend_names_all(
    tmp_path: Path, figures: list[Figure]
) -> None:
    curves = [Curve.of(trained(tmp_path / method / "run", method), method) for method in ENDS]
    draw(curves, tmp_path / "curves.svg")
    for axes in figures[0].axes:
        *drawn, baseline = axes.get_lines()
        assert [line.get_color() for line in drawn] == [COLOURS[0]] * 3 + [COLOURS[1]] * 3
        assert [line.get_marker() for line in drawn[2::3]] == ["o", "o"]
        assert baseline.get_linestyle() == "--"
    legend = figures[0].axes[1].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        *("mslt, held-out", "whole, held-out", "token frequencies")
    ]
