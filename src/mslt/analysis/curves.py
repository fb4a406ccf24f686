"""Loss curves of runs (the paper's Figure 4), against steps and against training time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a picture file is all we make: no window, no display needed
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mslt.run import Run

# Okabe and Ito's palette, which stays distinct for colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


@dataclass(frozen=True)
class Curve:
    """Held-out and training loss of one run, and where its stages ended.

    Args:
        name: of the run, for the legend.
        steps: of each evaluation.
        seconds: training time at each evaluation.
        heldout: masked-token loss at each evaluation, in nats.
        train_steps: of each logged step.
        train_seconds: training time at each logged step.
        train: masked-token loss of each logged step, in nats.
        ends: (step, seconds, held-out loss) at which each stage but the last ended.
        baseline: held-out loss of the tokens' own frequencies.
    """

    name: str
    steps: list[int]
    seconds: list[float]
    heldout: list[float]
    train_steps: list[int]
    train_seconds: list[float]
    train: list[float]
    ends: list[tuple[int, float, float]]
    baseline: float

    @classmethod
    def of(cls, run: Run, name: str) -> "Curve":
        """Read a run's folder."""
        train = [line for line in run.metrics() if line["kind"] == "train"]
        heldout = run.heldout()
        ends = run.config.stages().ends[:-1]
        return cls(
            name=name,
            steps=[line["step"] for line in heldout],
            seconds=[line["seconds"] for line in heldout],
            heldout=[line["mlm_loss"] for line in heldout],
            train_steps=[line["step"] for line in train],
            train_seconds=[line["seconds"] for line in train],
            train=[line["mlm_loss"] for line in train],
            ends=[
                (line["step"], line["seconds"], line["mlm_loss"])
                for line in heldout
                if line["step"] in ends
            ],
            baseline=run.facts()["baseline_mlm_loss"],
        )


def draw(curves: Sequence[Curve], path: Path) -> Path:
    """Two panels: held-out loss (lines) over training loss (faint), by steps and by time.

    Dots mark where a stage ended and the model grew; the dashed line is the loss of knowing only
    how often each token occurs.

    Args:
        curves: one or more.
        path: .png or .svg.

    Returns:
        The path.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained", dpi=130)
    by_step, by_time = figure.subplots(1, 2, sharey=True)
    minutes = max(curve.seconds[-1] for curve in curves) > 180
    unit = 60.0 if minutes else 1.0
    for curve, colour in zip(curves, COLOURS):
        _panel(by_step, curve, colour, curve.train_steps, curve.steps, [e[0] for e in curve.ends])
        _panel(
            by_time,
            curve,
            colour,
            [s / unit for s in curve.train_seconds],
            [s / unit for s in curve.seconds],
            [e[1] / unit for e in curve.ends],
        )
    for axes in (by_step, by_time):
        axes.axhline(curves[0].baseline, color="0.4", ls="--", lw=1, label="token frequencies")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(left=0)
    by_step.set_ylabel("masked-token loss (nats)")
    by_step.set_xlabel("optimisation steps")
    by_time.set_xlabel(f"training time ({'minutes' if minutes else 'seconds'})")
    by_step.set_title("the same steps")
    by_time.set_title("the same time")
    by_time.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _panel(
    axes: Axes,
    curve: Curve,
    colour: str,
    train_x: Sequence[float],
    heldout_x: Sequence[float],
    ends_x: Sequence[float],
) -> None:
    axes.plot(train_x, curve.train, color=colour, alpha=0.18, lw=0.8)
    axes.plot(heldout_x, curve.heldout, color=colour, lw=1.8, label=f"{curve.name}, held-out")
    axes.plot(ends_x, [e[2] for e in curve.ends], "o", color=colour, ms=5)
