"""Loss curves of runs (the paper's Figure 4), against steps, tokens and training time.

Reads run folders and imports no torch, and matplotlib only to draw.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from mslt import layout
from mslt.analysis.results import plan_and_seed, tokens_at
from mslt.files import naming

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Axis = Literal["steps", "tokens", "seconds"]
Loss = Literal["heldout", "train", "both"]

# Okabe and Ito's palette, which stays distinct for colour-blind readers, and dashes for more runs.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
KINDS = (".png", ".svg", ".pdf")
WINDOWS = 25  # over a run, each of which is one point of its training loss

_LABELS = {"steps": "optimisation steps", "tokens": "tokens", "seconds": "training time"}
_UNITS: dict[str, tuple[tuple[float, str, float], ...]] = {
    "steps": ((0, "", 1),),
    "tokens": ((2e9, "billions", 1e9), (2e6, "millions", 1e6), (0, "thousands", 1e3)),
    "seconds": ((7200, "hours", 3600), (180, "minutes", 60), (0, "seconds", 1)),
}
_GREY = "0.4"


class Point(NamedTuple):
    """A loss in nats, and where it was measured."""

    steps: int
    tokens: int
    seconds: float
    loss: float


@dataclass(frozen=True)
class Curve:
    """Held-out and training loss of one run, and where its stages ended.

    Args:
        name: of its plan; runs of one name are drawn in one colour, with a median.
        heldout: of every evaluation, over tokens that the model sees as [MASK].
        train: of every logged step, over all tokens that are predicted.
        ends: held-out loss where each stage but the last ended.
        baseline: held-out loss of the tokens' own frequencies.
    """

    name: str
    heldout: tuple[Point, ...]
    train: tuple[Point, ...]
    ends: tuple[Point, ...]
    baseline: float

    @classmethod
    def of(cls, run: Path, name: str | None = None) -> "Curve":
        """Read a run's folder.

        Args:
            run: the folder.
            name: by default the folder's, without the seed at its end.

        Raises:
            ValueError: it holds no run, a damaged one, or one that was not evaluated yet.
        """
        config = layout.read_config(run)
        plan, lines = config.stages(), layout.read_metrics(run)

        def points(kind: str) -> tuple[Point, ...]:
            return tuple(
                Point(
                    line["step"],
                    tokens_at(plan, config.batch_size, line["step"]),
                    line["seconds"],
                    line["mlm_loss"],
                )
                for line in lines
                if line["kind"] == kind and line["mlm_loss"] is not None
            )

        heldout = points("heldout")
        if not heldout:
            raise ValueError(f"{run} has no evaluation yet: there is nothing to draw")
        return cls(
            name=name or plan_and_seed(run.resolve())[0],
            heldout=heldout,
            train=points("train"),
            ends=tuple(point for point in heldout if point.steps in plan.ends[:-1]),
            baseline=layout.read_facts(run)["baseline_mlm_loss"],
        )


def middle(curves: Sequence[Curve]) -> tuple[Point, ...]:
    """The median of several runs' held-out losses, and of where they are, step by step.

    Steps that one of them was not evaluated at are left out.
    """
    by_step = [{point.steps: point for point in curve.heldout} for curve in curves]
    common = sorted(set.intersection(*(set(points) for points in by_step)))
    return tuple(
        Point(
            step,
            round(median(points[step].tokens for points in by_step)),
            median(points[step].seconds for points in by_step),
            median(points[step].loss for points in by_step),
        )
        for step in common
    )


def smooth(points: Sequence[Point], windows: int = WINDOWS) -> tuple[Point, ...]:
    """Means over consecutive parts of about equal length, placed at their last points."""
    width = max(1, -(-len(points) // windows))
    parts = [points[i : i + width] for i in range(0, len(points), width)]
    return tuple(part[-1]._replace(loss=fmean(point.loss for point in part)) for part in parts)


def draw(
    curves: Sequence[Curve],
    path: Path,
    xs: Sequence[Axis] = ("steps", "seconds"),
    loss: Loss = "both",
) -> Path:
    """A panel for each x: held-out losses as lines, training losses faint and dotted.

    Runs of one name have one colour, thin lines and a thick median. Dots mark where a stage ended
    and the model grew; the dashed line is the loss of knowing only how often each token occurs.

    Args:
        curves: one or more.
        path: .png, .svg or .pdf.
        xs: what the losses are drawn against.
        loss: which.

    Returns:
        The path.

    Raises:
        ValueError: the path has another ending, or there is nothing to draw.
        OSError: it cannot be written.
    """
    if path.suffix not in KINDS:
        raise ValueError(f"{path} must end in {', '.join(KINDS)}")
    if not curves:
        raise ValueError("there is no run to draw")
    for x in xs:
        if x not in get_args(Axis):
            raise ValueError(f"x must be of {', '.join(get_args(Axis))}, not {x!r}")
    figure = _figure(len(xs))
    panels = figure.subplots(1, len(xs), sharey=True, squeeze=False)[0]
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        groups.setdefault(curve.name, []).append(curve)
    for axes, x in zip(panels, xs):
        _panel(axes, groups, x, loss)
    panels[0].set_ylabel("masked-token loss (nats)")
    panels[0].set_ylim(top=_top(curves, loss))
    _legend(figure, panels[0], groups, loss)
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return path


def _figure(panels: int) -> "Figure":
    from mslt.analysis.pictures import Figure

    return Figure(figsize=(1.2 + 4.9 * panels, 4.6), layout="constrained", dpi=130)


def _panel(axes: "Axes", groups: dict[str, list[Curve]], x: Axis, loss: Loss) -> None:
    everything = [curve for curves in groups.values() for curve in curves]
    longest = max(getattr(curve.heldout[-1], x) for curve in everything)
    unit, scale = next((name, by) for least, name, by in _UNITS[x] if longest >= least)

    def line(points: Sequence[Point], **look: object) -> None:
        where = [getattr(point, x) / scale for point in points]
        axes.plot(where, [point.loss for point in points], **look)  # type: ignore[arg-type]

    for index, curves in enumerate(groups.values()):
        colour, dashes = style(index)
        many = len(curves) > 1
        for curve in curves:
            if loss != "heldout":
                faint = {"alpha": 0.5, "lw": 0.7} if loss == "both" else {"lw": 1.4}
                line(smooth(curve.train), color=colour, ls=":", **faint)
            if loss != "train":
                thin = {"alpha": 0.4, "lw": 0.7} if many else {"lw": 1.8}
                line(curve.heldout, color=colour, ls=dashes, **thin)
        if loss == "train":
            continue
        shown = middle(curves) if many else curves[0].heldout
        if many:
            line(shown, color=colour, ls=dashes, lw=1.9)
        ends = {point.steps for point in curves[0].ends}
        dots = [point for point in shown if point.steps in ends]
        line(dots, color=colour, ls="", marker="o", ms=5.5, mec="white", mew=0.8, zorder=3)
    axes.axhline(everything[0].baseline, color=_GREY, ls="--", lw=1)
    axes.set_xlabel(f"{_LABELS[x]} ({unit})" if unit else _LABELS[x])
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def style(index: int) -> tuple[str, object]:
    """Colour and dashes of the plan number `index`, counted from 0."""
    return COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]


def _top(curves: Sequence[Curve], loss: Loss) -> float:
    """Above what is drawn, but for what a model says before it knows how often tokens occur.

    That is cut off where at least a tenth of the range is below the baseline: else it is the curve.
    """
    if loss == "train":
        measured = [point.loss for curve in curves for point in smooth(curve.train)]
    else:
        measured = [point.loss for curve in curves for point in curve.heldout]
    baseline = curves[0].baseline
    low, high = min([*measured, baseline]), max([*measured, baseline])
    below = baseline - low
    top = min(high, baseline + 0.35 * below) if below > 0.1 * (high - low) else high
    return top + 0.04 * (top - low)


def _legend(figure: "Figure", axes: "Axes", groups: dict[str, list[Curve]], loss: Loss) -> None:
    """Below the panels: plans by colour, then what the kinds of lines are."""
    from matplotlib.lines import Line2D

    entries = []
    for index, (name, curves) in enumerate(groups.items()):
        colour, dashes = style(index)
        label = f"{name} ({len(curves)} runs)" if len(curves) > 1 else name
        entries.append(Line2D([], [], color=colour, ls=dashes, lw=1.9, label=label))
    if loss != "train":
        if any(curve.ends for curves in groups.values() for curve in curves):
            entries.append(Line2D([], [], color=_GREY, ls="", marker="o", label="a stage ends"))
        entries.append(Line2D([], [], color=_GREY, lw=1.9, label="held-out, [MASK] alone"))
    if loss != "heldout":
        label = "training, all predictions"
        entries.append(Line2D([], [], color=_GREY, ls=":", lw=1.2, label=label))
    entries.append(Line2D([], [], color=_GREY, ls="--", lw=1, label="token frequencies"))
    widest = 0.65 + 0.085 * max(len(str(entry.get_label())) for entry in entries)  # inches
    columns = max(1, min(len(entries), int(figure.get_figwidth() / widest)))
    rows = -(-len(entries) // columns)
    figure.set_figheight(figure.get_figheight() + 0.2 * max(0, rows - 2))
    figure.legend(handles=entries, loc="outside lower center", ncols=columns, frameon=False)
