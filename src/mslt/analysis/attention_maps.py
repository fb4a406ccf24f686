"""Pictures of attention: all heads, the same heads across layers, rows of models, single heads.

Shapes as in `mslt.analysis.attention`; each model's maps are those of one sequence, [N, H, L, L].
All pictures have one scale, so that any two panels can be compared: the darker, the more
attention, and weak attention is raised (the root of the weight) so that it can be seen.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.image import AxesImage
from torch import Tensor

from mslt.analysis.pictures import Figure
from mslt.files import naming

SHADES = "Blues"  # one hue: what tells panels apart is lightness alone
_WIDE = 6  # panels beside each other
_LONGEST = 48  # tokens that are written at a map's sides
_BESIDE = 18  # letters of a name beside a panel
_EDGE = "0.6"


@dataclass(frozen=True)
class Maps:
    """One model's attention on the sequence that is shown.

    Args:
        name: of the model.
        weights_NHLL: attention.
        tokens: of the sequence [L].
    """

    name: str
    weights_NHLL: Tensor
    tokens: list[str]

    @property
    def layers(self) -> int:
        """Encoder layers (N)."""
        return self.weights_NHLL.shape[0]

    @property
    def heads(self) -> int:
        """Heads of a layer (H)."""
        return self.weights_NHLL.shape[1]


def save(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as .png and .svg.

    Args:
        figure: what is drawn.
        path: without the ending.

    Raises:
        OSError: it cannot be written.
    """
    paths = [path.with_name(f"{path.name}.{kind}") for kind in ("png", "svg")]
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        for file in paths:
            with naming(file):
                figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
            figure.set_layout_engine("none")  # laid out once: what costs most
    return paths


def random_heads(layers: int, heads: int, seed: int) -> list[int]:
    """A head for each layer, drawn evenly ("we randomly choose an attention head")."""
    generator = torch.Generator().manual_seed(seed)
    drawn: list[int] = torch.randint(heads, (layers,), generator=generator).tolist()
    return drawn


def every_head(maps: Maps) -> Figure:
    """A panel for each head of each layer: layers downwards, heads across."""
    N, H, L, _ = maps.weights_NHLL.shape
    gap = max(2, L // 12)
    field = torch.full((N * (L + gap) - gap, H * (L + gap) - gap), float("nan"))
    for layer in range(N):
        for head in range(H):
            top, left = layer * (L + gap), head * (L + gap)
            field[top : top + L, left : left + L] = maps.weights_NHLL[layer, head]
    size = min(0.9, 11 / max(N, H))
    figure = Figure(
        figsize=(max(H * size, 2.2) + 1.6, N * size + 0.9), layout="compressed", dpi=120
    )
    axes = figure.subplots()
    image = _draw(axes, field)
    axes.spines[:].set_visible(False)
    axes.set_xticks([h * (L + gap) + L / 2 for h in range(H)], [f"H{h + 1}" for h in range(H)])
    axes.set_yticks([n * (L + gap) + L / 2 for n in range(N)], [f"L{n + 1}" for n in range(N)])
    axes.tick_params(length=0, labelsize=8)
    axes.xaxis.tick_top()
    axes.set_title(maps.name, fontsize=10)
    _scale(figure, image, [axes])
    return figure


def same_heads(maps: Maps, heads: Sequence[int]) -> Figure:
    """The same head of each layer, the bottom half of the layers above the top half (Figure 2).

    Args:
        maps: of a model.
        heads: counted from 0; each takes two rows.
    """
    half = (maps.layers + 1) // 2
    rows = [(head, start) for head in heads for start in range(0, maps.layers, half)]
    figure, panels = _panels(len(rows), half)
    image = None
    for (head, start), line in zip(rows, panels):
        for layer, axes in zip(range(start, start + half), line):
            if layer < maps.layers:
                image = _draw(axes, maps.weights_NHLL[layer, head])
                axes.set_title(f"L{layer + 1} H{head + 1}", fontsize=9)
            else:
                axes.set_axis_off()
    figure.suptitle(maps.name, fontsize=10)
    _scale(figure, image, panels)
    return figure


def rows(final: Maps, others: Sequence[Maps], seed: int = 0) -> Figure:
    """Heads of several models under each other, a column for each layer (Figure 3).

    The first row is the top half of the final model's layers, the second its bottom half, then
    the same layers of each other model: before growth, trained whole. Below each other stand the
    same heads, drawn at random, one for each column.

    Args:
        final: the model with both halves.
        others: in the order of their rows; what they have not stays empty.
        seed: of the heads that are drawn.
    """
    half = max(1, final.layers // 2)
    heads = random_heads(half, final.heads, seed)
    lines = [
        (f"{_narrow(final.name)}\ntop half", final, final.layers - half),
        (f"{_narrow(final.name)}\nbottom half", final, 0),
        *((_narrow(maps.name), maps, 0) for maps in others),
    ][0 if final.layers > 1 else 1 :]
    figure, panels = _panels(len(lines), half, wide=False)
    image = None
    for (label, maps, start), line in zip(lines, panels):
        for column, (head, axes) in enumerate(zip(heads, line)):
            layer = start + column
            if layer < maps.layers and head < maps.heads:
                image = _draw(axes, maps.weights_NHLL[layer, head])
                axes.set_title(f"L{layer + 1} H{head + 1}", fontsize=9)
            else:
                axes.set_axis_off()
        line[0].set_ylabel(label, fontsize=9)
    _scale(figure, image, panels)
    return figure


def single(models: Sequence[Maps], layer: int, head: int) -> Figure:
    """One head of each model that has it, with the tokens at its sides.

    Args:
        models: of the same sequence.
        layer: counted from 0.
        head: likewise.

    Raises:
        ValueError: no model has it.
    """
    having = [maps for maps in models if layer < maps.layers and head < maps.heads]
    if not having:
        raise ValueError(f"no model has L{layer + 1}H{head + 1}")
    tokens = having[0].tokens[:_LONGEST]
    side = max(2.6, 0.155 * len(tokens))
    across = min(3, len(having))
    down = -(-len(having) // across)
    figure = Figure(
        figsize=(across * (side + 0.9) + 0.8, down * (side + 1.1)), layout="compressed", dpi=120
    )
    figure.get_layout_engine().set(h_pad=0.13)  # type: ignore[union-attr, call-arg]
    panels = figure.subplots(down, across, squeeze=False)
    image, size = None, len(tokens)
    for axes in panels.flat[len(having) :]:
        axes.set_axis_off()
    for maps, axes in zip(having, panels.flat):
        image = _draw(axes, maps.weights_NHLL[layer, head, :size, :size])
        axes.set_xticks(range(size), tokens, rotation=90, fontsize=7)
        axes.set_yticks(range(size), tokens, fontsize=7)
        axes.tick_params(length=0)
        axes.set_title(f"{maps.name}, L{layer + 1} H{head + 1}", fontsize=9)
    figure.supylabel("token that looks", fontsize=8)
    figure.supxlabel("token that is looked at", fontsize=8)
    _scale(figure, image, panels.tolist())
    return figure


def _narrow(name: str) -> str:
    """A name in lines that fit beside a panel; of a part of more than two both ends."""
    if len(name) <= _BESIDE:
        return name
    lines = []
    for part in name.replace("/", "/\n").split("\n")[-2:]:
        long = len(part) > 2 * _BESIDE
        kept = f"{part[:_BESIDE]}…{part[1 - _BESIDE :]}" if long else part
        lines += textwrap.wrap(kept, _BESIDE)
    return "\n".join(lines)


def _panels(rows: int, columns: int, wide: bool = True) -> tuple[Figure, list[list[Axes]]]:
    """Square panels without ticks."""
    side = 1.35 if columns <= 2 * _WIDE else 0.9
    figure = Figure(
        figsize=(columns * side + (1.0 if wide else 1.5), rows * (side + 0.22) + 0.35),
        layout="compressed",
        dpi=120,
    )
    panels: list[list[Axes]] = figure.subplots(rows, columns, squeeze=False).tolist()
    return figure, panels


def _draw(axes: Axes, weights: Tensor) -> AxesImage:
    image = axes.imshow(
        weights.numpy(), cmap=SHADES, norm=PowerNorm(0.5, 0, 1), interpolation="nearest"
    )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(_EDGE)
    return image


def _scale(figure: Figure, image: AxesImage | None, panels: Sequence[Any]) -> None:
    assert image is not None
    flat = [axes for line in panels for axes in (line if isinstance(line, list) else [line])]
    part = min(0.6, 4 / figure.get_figheight())  # four inches at most
    bar = figure.colorbar(image, ax=flat, shrink=part, aspect=30, pad=0.015)
    bar.set_ticks([0, 0.01, 0.1, 0.3, 0.6, 1])
    bar.ax.tick_params(labelsize=7)
    bar.set_label("attention weight", fontsize=8)
    bar.outline.set_visible(False)
