"""Charts of what `mslt.analysis.attention_numbers` measured, from the values in attention.json."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes

from mslt.analysis.attention_tables import CLASSES, Values
from mslt.analysis.pictures import Figure

# Okabe and Ito: blue, orange, green, and a grey for the rest; hatches for print.
_PLACES = dict(zip(CLASSES, (("#0072B2", ""), ("#D55E00", "//"), ("#009E73", ".."), ("0.82", ""))))
_MARKS = "osD^vP*X"


def drift(values: Values) -> Figure:
    """How far each layer of the other models is from the last one, in attention, states, weights.

    Bands are one standard deviation over sequences (of the CKA its standard error). Darker lines
    are later models; dashed ones are those beside the trail. The grey line in the first panel is
    the distance between different heads of a layer.
    """
    pairs = [pair for pair in values["pairs"] if pair["models"][1] == values["last"]]
    last = values["models"][values["last"]]
    figure = Figure(figsize=(11.5, 4.2), layout="constrained", dpi=110)
    attention, states, weights = figure.subplots(1, 3)
    apart = [row["between_heads"] for row in last["layers"]]
    attention.plot(
        range(1, len(apart) + 1),
        [x["mean"] for x in apart],
        color="0.6",
        ls=":",
        label="different heads",
    )
    for pair, style in zip(pairs, _styles(pairs, values["last"])):
        rows = pair["layers"]
        distances = [row["distance"] for row in rows[1:]]
        _line(attention, range(1, len(rows)), distances, style, pair["from"])
        ckas = [{"mean": row["cka"], "over_sequences": row["cka_error"]} for row in rows]
        _line(states, range(len(rows)), ckas, style, pair["from"])
        moved = [{"mean": row["weights"], "over_sequences": None} for row in rows[1:]]
        _line(weights, range(1, len(rows)), moved, style, pair["from"])
    for axes, label in (
        (attention, "Jensen-Shannon distance of attention"),
        (states, "linear CKA of hidden states"),
        (weights, "relative change of weights"),
    ):
        _dress(axes, label, len(apart))
    attention.set_ylim(0, 1)
    states.set_xticks([0, *states.get_xticks()])  # the embeddings
    states.set_ylim(min(0.5, states.get_ylim()[0]), 1.02)
    weights.set_ylim(bottom=0)
    figure.suptitle(f"How far from {last['name']}", fontsize=10)
    handles, labels = attention.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def looks(values: Values) -> Figure:
    """Where the attention of each layer goes on average, a panel for each model."""
    models = values["models"]
    across = min(3, len(models))
    down = -(-len(models) // across)
    figure = Figure(figsize=(3.6 * across + 0.6, 2.3 * down + 0.6), layout="constrained", dpi=110)
    panels = figure.subplots(down, across, squeeze=False, sharey=True)
    for axes in panels.flat[len(models) :]:
        axes.set_axis_off()
    most = max(len(model["layers"]) for model in models)
    for model, axes in zip(models, panels.flat):
        _bars(axes, model)
        _dress(axes, "", most)
        axes.set_title(model["name"], fontsize=9)
        axes.set_ylim(0, 1)
    for line in panels:
        line[0].set_ylabel("part of the attention", fontsize=9)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def _bars(axes: Axes, model: dict[str, Any]) -> None:
    numbers = [row["layer"] for row in model["layers"]]
    floor = [0.0] * len(numbers)
    for place, (colour, hatch) in _PLACES.items():
        heights = [row["attention"][place]["mean"] for row in model["layers"]]
        axes.bar(
            numbers,
            heights,
            0.8,
            floor,
            color=colour,
            hatch=hatch,
            edgecolor="w",
            lw=0,
            label=place,
        )
        floor = [below + height for below, height in zip(floor, heights)]


def _styles(pairs: Sequence[dict[str, Any]], last: int) -> list[dict[str, Any]]:
    """A line for each pair: the trail's from light to dark, others dashed."""
    shade: Callable[[float], Any] = matplotlib.colormaps["viridis_r"]
    trail = [pair["models"][0] for pair in pairs if pair["models"][0] < last]
    styles = []
    for i, pair in enumerate(pairs):
        place = pair["models"][0]
        # Layers that were fixed for a while are the same in several models, to the last bit: a
        # line that lies on others is thinner than they are, so that all of them are seen.
        wide = 1 - i / len(pairs)
        mark = {"marker": _MARKS[i % len(_MARKS)], "ms": 3 + 7 * wide, "lw": 1 + 4 * wide}
        if place < last:
            part = 0.15 + 0.8 * trail.index(place) / max(1, len(trail) - 1)
            styles.append({**mark, "color": shade(part)})
        else:
            styles.append({**mark, "color": "#D55E00", "ls": "--"})
    return styles


def _line(
    axes: Axes, x: range, cells: Sequence[dict[str, Any]], style: dict[str, Any], name: str
) -> None:
    means = [cell["mean"] for cell in cells]
    # Where a value is the least or the most there can be, half of its mark is outside the axes.
    axes.plot(x, means, label=name, clip_on=False, zorder=3, **style)
    if all(cell["over_sequences"] is not None for cell in cells):
        low, high = (
            [cell["mean"] + sign * cell["over_sequences"] for cell in cells] for sign in (-1, 1)
        )
        axes.fill_between(x, low, high, color=style["color"], alpha=0.15, lw=0)


def _dress(axes: Axes, label: str, layers: int) -> None:
    axes.set_xlabel("layer", fontsize=9)
    axes.set_ylabel(label, fontsize=9)
    axes.set_xticks(range(1, layers + 1, 1 if layers <= 12 else 3))
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
