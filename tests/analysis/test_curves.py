"""The picture of a run's losses holds the run's numbers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up_run import CONFIG, new_run
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mslt.analysis.curves import COLOURS, Curve, Point, draw, middle, smooth, style
from mslt.cli import main
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


def points(pairs: list[tuple[int, float]], pace: float = 0.1) -> list[Point]:
    tokens = CONFIG.batch_size * 32
    return [Point(step, step * tokens, pytest.approx(step * pace), loss) for step, loss in pairs]


def curve(name: str, losses: list[float], pace: float = 1.0) -> Curve:
    """A run that was evaluated every hundred steps."""
    found = [Point(100 * i, 1000 * i, 100 * i * pace, loss) for i, loss in enumerate(losses, 1)]
    return Curve(name, tuple(found), tuple(found), (), baseline=5.0)


def test_a_curve_is_what_the_runs_folder_tells(tmp_path: Path) -> None:
    found = Curve.of(trained(tmp_path / "a" / "run").path, "mine")
    assert list(found.heldout) == points(EVALUATIONS)
    assert list(found.train) == points(LOGGED)
    assert list(found.ends) == points([(400, 2.5), (800, 2.0)])
    assert (found.name, found.baseline) == ("mine", 2.5)


def test_a_curve_is_named_after_its_folder_without_the_seed(tmp_path: Path) -> None:
    assert Curve.of(trained(tmp_path / "a" / "early-seed3").path).name == "early"
    assert Curve.of(trained(tmp_path / "b" / "mine").path).name == "mine"


def test_a_run_that_was_not_evaluated_yet_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    run = new_run(tmp_path / "a" / "run")
    with pytest.raises(ValueError, match="run has no evaluation yet"):
        Curve.of(run.path)


def test_the_median_of_several_runs_is_taken_step_by_step() -> None:
    runs = [curve("a", [9.0, 5.0, 3.0]), curve("a", [8.0, 4.0], 2.0), curve("a", [7.0, 6.0], 4.0)]
    assert middle(runs) == (Point(100, 1000, 200.0, 8.0), Point(200, 2000, 400.0, 5.0))


def test_training_losses_are_means_of_equal_parts() -> None:
    found = curve("a", [1.0, 3.0, 5.0, 7.0, 9.0]).train
    assert [(p.steps, p.loss) for p in smooth(found, 2)] == [(300, 3.0), (500, 8.0)]
    assert smooth(found, 5) == smooth(found, 99) == found
    assert smooth(()) == ()


@pytest.mark.parametrize(("suffix", "begins"), [(".png", b"\x89PNG\r\n"), (".svg", b"<?xml")])
def test_a_picture_is_written_where_it_is_asked_for_and_twice_the_same(
    tmp_path: Path, suffix: str, begins: bytes
) -> None:
    path = tmp_path / "new" / f"curves{suffix}"
    run = trained(tmp_path / "a" / "run")
    assert draw([Curve.of(run.path)], path) == path
    first = path.read_bytes()
    assert first.startswith(begins)
    assert len(first) > 1000
    draw([Curve.of(run.path)], path)
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    ("x", "pace", "scale", "label"),
    [
        ("steps", 1.0, 1.0, "optimisation steps"),
        ("tokens", 1.0, 256 / 1e3, "tokens (thousands)"),
        ("seconds", 0.1, 0.1, "training time (seconds)"),
        ("seconds", 0.6, 0.01, "training time (minutes)"),
        ("seconds", 36.0, 0.01, "training time (hours)"),
    ],
)
def test_a_panel_holds_the_numbers_of_every_run(
    tmp_path: Path, figures: list[Figure], x: Any, pace: float, scale: float, label: str
) -> None:
    curves = [Curve.of(trained(tmp_path / m / "run", m, pace).path, m) for m in ENDS]
    draw(curves, tmp_path / "curves.png", [x])
    (axes,) = figures[0].axes
    *drawn, baseline = lines(axes)
    wanted = [(LOGGED, EVALUATIONS, ends) for ends in ENDS.values()]
    assert drawn == [
        ([pytest.approx(step * scale) for step, _ in part], [loss for _, loss in part])
        for parts in wanted
        for part in parts
    ]
    assert baseline[1] == [2.5, 2.5]
    assert axes.get_xlabel() == label
    assert axes.get_ylabel() == "masked-token loss (nats)"
    assert axes.get_xlim()[0] == 0


def test_there_is_a_panel_for_each_x_and_either_loss_can_be_left_out(
    tmp_path: Path, figures: list[Figure]
) -> None:
    curves = [Curve.of(trained(tmp_path / "a" / "run").path)]
    for loss, count in (("both", 4), ("heldout", 3), ("train", 2)):
        draw(curves, tmp_path / "c.svg", ["steps", "tokens", "seconds"], loss)
        assert [len(axes.get_lines()) for axes in figures[-1].axes] == [count] * 3


def test_runs_of_one_name_share_a_colour_and_have_a_thick_median(
    tmp_path: Path, figures: list[Figure]
) -> None:
    curves = [curve("a", [3.0, 2.0]), curve("b", [4.0, 3.0]), curve("a", [5.0, 4.0])]
    draw(curves, tmp_path / "c.png", ["steps"], "heldout")
    *drawn, _ = figures[0].axes[0].get_lines()
    colours = [line.get_color() for line in drawn]
    assert colours == [COLOURS[0]] * 4 + [COLOURS[1]] * 2
    median = drawn[2]
    assert list(median.get_ydata()) == [4.0, 3.0]
    assert median.get_linewidth() > 2 * drawn[0].get_linewidth()
    legend = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert legend == ["a (2 runs)", "b", "held-out, [MASK] alone", "token frequencies"]


def test_a_name_with_dollar_signs_is_no_formula(tmp_path: Path) -> None:
    path = draw([curve(r"p$\frac$", [3.0, 2.0])], tmp_path / "c.svg")
    assert path.stat().st_size > 1000


def test_more_plans_than_colours_are_told_apart_by_dashes() -> None:
    looks = [style(index) for index in range(20)]
    assert len(set(looks)) == 20
    assert len({dashes for _, dashes in looks[:7]}) == 1


@pytest.mark.parametrize("xs", [["steps"], ["steps", "tokens", "seconds"]])
def test_the_legend_of_many_plans_stays_inside_the_picture(
    tmp_path: Path, figures: list[Figure], xs: Any
) -> None:
    draw(
        [curve(f"a plan by a long name, number {i}", [3.0, 2.0]) for i in range(12)],
        tmp_path / "c.png",
        xs,
    )
    (legend,) = figures[0].legends
    box, room = legend.get_window_extent(), figures[0].bbox
    assert room.x0 <= box.x0 < box.x1 <= room.x1
    assert room.y0 <= box.y0
    assert box.y1 < figures[0].axes[0].get_window_extent().y0


@pytest.mark.parametrize("last", [5.5, 5.001, 4.997])
def test_losses_that_stay_at_or_above_the_token_frequencies_are_all_in_the_picture(
    tmp_path: Path, figures: list[Figure], last: float
) -> None:
    for loss in ("heldout", "train"):
        draw([curve("a", [8.0, 6.0, last])], tmp_path / "c.png", ["steps"], loss)
        low, high = figures[-1].axes[0].get_ylim()
        assert low < min(last, 5.0)
        assert 8.0 < high < 8.5


def test_losses_before_anything_is_known_do_not_flatten_what_is_learned_after(
    tmp_path: Path, figures: list[Figure]
) -> None:
    draw([curve("a", [10.0, 6.0, 4.0])], tmp_path / "c.png", ["steps"])
    assert 5.3 < figures[0].axes[0].get_ylim()[1] < 5.5  # the frequencies alone are at 5


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.png"):
        draw([curve("a", [1.0])], tmp_path / "c.gif")
    with pytest.raises(ValueError, match="x must be of steps, tokens, seconds, not 'hours'"):
        draw([curve("a", [1.0])], tmp_path / "c.png", ["hours"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="there is no run to draw"):
        draw([], tmp_path / "c.png")


def test_the_command_draws_runs_and_comparisons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path / "runs" / "a-seed0").path
    values = {"budget": "steps", "configs": {"a": {}, "b": {}}, "seeds": [0, 1]}
    (tmp_path / "compare.json").write_text(json.dumps(values))
    out = str(tmp_path / "c.svg")
    for words in ([str(run), str(run), "--names", "x,y", "--x", "tokens"], [str(tmp_path)]):
        assert main(["curves", *words, "--out", out]) == 0
        assert Path(out).stat().st_size > 1000
        assert capsys.readouterr().out == f"wrote {out}\n"
        Path(out).unlink()
    for words, says in (
        ([str(run), "--names", "x,y"], "names has 2 for 1 runs"),
        ([str(tmp_path), "--names", "x"], "names has no effect on"),
        ([str(tmp_path / "no")], "no is not a run"),
    ):
        assert main(["curves", *words, "--out", out]) == 2
        assert says in capsys.readouterr().err
