"""Pictures of attention show the heads that they name, in the paper's layout."""

from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from mslt.analysis.attention_maps import (
    Maps,
    every_head,
    random_heads,
    rows,
    same_heads,
    save,
    single,
)

TOKENS = ["[CLS]", "a", "$x^$", "<b>", "[SEP]"]


def maps(name: str, layers: int, heads: int = 3) -> Maps:
    """Weights that tell layer and head: (layer + 1) / 10 + head / 100 everywhere."""
    layer, head = torch.arange(layers)[:, None], torch.arange(heads)
    values = (layer + 1) / 10 + head / 100
    return Maps(name, values[:, :, None, None].expand(-1, -1, 5, 5).contiguous(), TOKENS)


def panels(figure: Figure) -> dict[str, float]:
    """Titles of the panels, and the weight in their corner."""
    return {
        axes.get_title(): round(float(axes.images[0].get_array()[0, 0]), 4)
        for axes in figure.axes
        if axes.images and axes.get_title()
    }


def test_figure_3_has_top_half_bottom_half_before_growth_and_whole_with_one_head_a_column() -> None:
    final, before, whole = maps("final", 4), maps("before", 2), maps("whole", 4)
    figure = rows(final, [before, whole], seed=3)
    heads = random_heads(2, 3, 3)
    drawn = [axes for axes in figure.axes if axes.images]
    titles = [axes.get_title() for axes in drawn]
    column = [f"H{head + 1}" for head in heads]
    expected = [f"L{layer} {column[(layer - 1) % 2]}" for layer in (3, 4, 1, 2, 1, 2, 1, 2)]
    assert titles == expected
    labels = [axes.get_ylabel() for axes in drawn if axes.get_ylabel()]
    assert labels == ["final\ntop half", "final\nbottom half", "before", "whole"]
    corner = float(drawn[0].images[0].get_array()[0, 0])
    assert corner == pytest.approx(0.3 + heads[0] / 100)


def test_layers_that_a_model_has_not_stay_empty() -> None:
    figure = rows(maps("final", 6), [maps("before", 2)])
    assert len([axes for axes in figure.axes if axes.images]) == 3 + 3 + 2


def test_long_names_are_broken_to_fit_beside_a_panel() -> None:
    figure = rows(maps("run/4-depth-4", 4), [maps("compared/runs/my-stacking-seed0/1-depth-2", 2)])
    labels = [axes.get_ylabel() for axes in figure.axes if axes.images and axes.get_ylabel()]
    assert labels[1:] == ["run/4-depth-4\nbottom half", "my-stacking-seed0/\n1-depth-2"]


def test_of_a_name_of_more_than_two_lines_both_ends_are_kept() -> None:
    names = [
        "bert_tiny_whole-seed0",
        "bert_tiny_stacking-seed0",
        f"bert_tiny_mslt-{'x' * 40}-seed0",
    ]
    figure = rows(maps("run", 4), [maps(name, 2) for name in names])
    labels = [axes.get_ylabel() for axes in figure.axes if axes.images and axes.get_ylabel()]
    assert labels[2:] == [
        "bert_tiny_whole-\nseed0",
        "bert_tiny_stacking\n-seed0",
        "bert_tiny_mslt-\nxxx…xxxxxxxxxxx-\nseed0",
    ]


def test_a_name_with_dollar_signs_is_no_formula(tmp_path: Path) -> None:
    name = r"p$\frac$"
    for figure in (
        rows(maps(name, 4), []),
        every_head(maps(name, 2)),
        single([maps(name, 1)], 0, 0),
    ):
        save(figure, tmp_path / "picture")
        assert name in (tmp_path / "picture.svg").read_text(encoding="utf-8")


def test_figure_2_has_the_same_head_of_every_layer() -> None:
    found = panels(same_heads(maps("model", 4), [0, 2]))
    assert found == {
        **{f"L{n} H1": n / 10 for n in range(1, 5)},
        **{f"L{n} H3": round(n / 10 + 0.02, 4) for n in range(1, 5)},
    }


def test_every_head_has_its_place_in_the_grid() -> None:
    figure = every_head(maps("model", 2))
    field = figure.axes[0].images[0].get_array()
    assert [float(field[0, x]) for x in (0, 7, 14)] == pytest.approx([0.1, 0.11, 0.12])
    assert [float(field[7, x]) for x in (0, 7, 14)] == pytest.approx([0.2, 0.21, 0.22])
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["H1", "H2", "H3"]


def test_a_single_head_has_its_tokens_as_they_are(tmp_path: Path) -> None:
    figure = single([maps("one", 2), maps("two", 4)], 2, 1)
    assert panels(figure) == {"two, L3 H2": 0.31}
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == TOKENS
    files = save(figure, tmp_path / "head")
    assert [file.name for file in files] == ["head.png", "head.svg"]
    assert "$x^$" in files[1].read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="no model has L9H1"):
        single([maps("one", 2)], 8, 0)


def test_pictures_are_the_same_byte_for_byte(tmp_path: Path) -> None:
    one, other = (save(rows(maps("m", 4), []), tmp_path / name) for name in ("a", "b"))
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in other]


def test_random_heads_follow_the_seed() -> None:
    assert random_heads(12, 12, 1) == random_heads(12, 12, 1)
    assert random_heads(12, 12, 1) != random_heads(12, 12, 2)
    assert set(random_heads(200, 3, 0)) == {0, 1, 2}
