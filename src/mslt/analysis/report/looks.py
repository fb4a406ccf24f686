"""Where the heads of a run's models look, stage by stage, and how far its layers moved on.

The models are those at the stages' ends. Shapes: B sentences (1 here), L tokens, H heads, N layers.
"""

import base64
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mslt import layout
from mslt.analysis.report.groups import Group, grouped
from mslt.analysis.report.series import short
from mslt.analysis.report.subjects import Subject
from mslt.data import tokenizer as tokenizers
from mslt.data.store import TokenStore
from mslt.model import Encoder
from mslt.pretrained import open_model

SHOWN = 3  # sentences whose attention the page has
SAMPLE = 24  # held-out sentences over which distances are taken
_LENGTHS = (8, 22)  # tokens of a sentence, without [CLS] and [SEP]
_MOST = 2_400_000  # bytes of attention in a page

Ids = list[list[int]]


def look(
    runs: Sequence[Subject], text: str | None = None, data: str | None = None
) -> dict[str, Any]:
    """Attention and drift of some runs' first seeds, for the page.

    Args:
        runs: read already.
        text: a sentence to show; held-out ones by default.
        data: the token store, where it is not where the runs had it.

    Returns:
        `attention` and `drift`, each None where there is nothing to show, and `absent`, why.

    Raises:
        ValueError: a model is damaged, or a store that was named is.
    """
    groups = [group for group in grouped(runs) if layout.stage_folders(group.first.path)]
    if not groups:
        return {"absent": "No stage of these runs has ended: there is no model to look into."}
    first = groups[0].first
    groups = [g for g in groups if same_pieces(g.first, first)]
    tokenizer = tokenizers.load(first.path / "tokenizer")
    if text is not None:
        drawn = [tokenizer.encode(text).ids[: first.config.model.max_position_embeddings]]
        drawn[0] = drawn[0][: 2 + 2 * _LENGTHS[1]]
        if len(drawn[0]) < 3:
            raise ValueError("text has no token to look at")
    else:
        try:
            drawn = _heldout(first, tokenizer, data)
        except (ValueError, OSError) as error:
            if data is not None:
                raise
            return {"absent": f"No attention: the token store cannot be read ({_why(error)})."}
    if not drawn:
        return {"absent": "No attention: the held-out text has no sentence of a fitting length."}
    shown, left = drawn[:SHOWN], _MOST
    attention: list[dict[str, Any]] = []
    charts: list[dict[str, Any]] = []
    for group in groups:
        models = _of_group(group, shown, left)
        left -= sum(len(text) * 3 // 4 for model in models for text in model["maps"])
        attention += models
        charts += _drift(group, drawn)
    if not attention:
        return {"absent": "No attention: these models have too many heads for a page."}
    words = [[tokenizer.id_to_token(i) for i in ids] for ids in shown]
    return {"attention": {"sentences": words, "models": attention}, "drift": charts or None}


def _why(error: Exception) -> str:
    """Without the path, which the page must not give away."""
    return error.strerror or "unreadable" if isinstance(error, OSError) else "it is not there"


def same_pieces(run: Subject, other: Subject) -> bool:
    """Whether both know the same pieces by the same numbers."""
    one, two = (tokenizers.load(each.path / "tokenizer").get_vocab() for each in (run, other))
    return bool(one == two)


def _heldout(run: Subject, tokenizer: Any, data: str | None) -> Ids:
    """Held-out sentences of fitting lengths, from all over the text."""
    store = TokenStore.open(Path(data) if data is not None else Path(run.facts["data"]))
    split, bounds = store.heldout, np.asarray(store.heldout.sentences).astype(np.int64)
    lengths = np.diff(bounds)
    longest = min(_LENGTHS[1], run.config.model.max_position_embeddings - 2)
    fitting = np.flatnonzero((lengths >= _LENGTHS[0]) & (lengths <= longest))
    if not len(fitting):
        return []
    chosen = fitting[np.linspace(0, len(fitting) - 1, SAMPLE).astype(int)]
    ids = [split.tokens[bounds[i] : bounds[i + 1]].astype(int).tolist() for i in np.unique(chosen)]
    top = tokenizer.get_vocab_size()
    if any(piece >= top for sentence in ids for piece in sentence):
        raise ValueError("the store has other pieces than the run")
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    return [[cls, *sentence, sep] for sentence in ids]


@torch.no_grad()
def attention_of(model: Encoder, ids: Sequence[int]) -> Tensor:
    """Attention of every layer and head on one sentence: [N, H, L, L], rows sum to 1."""
    model.eval()
    tokens_BL = torch.tensor([list(ids)])
    x_BLD = model.bottom(tokens_BL, torch.zeros_like(tokens_BL))
    found = []
    for block in model.layers(0, model.depth):
        part: Any = block.attention
        q, k, _ = part.qkv(x_BLD).split(x_BLD.shape[-1], dim=-1)
        q, k = (each.unflatten(-1, (part.heads, -1)).transpose(1, 2) for each in (q, k))
        found.append((q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1)[0])
        x_BLD = block(x_BLD)
    return torch.stack(found)


def _of_group(group: Group, shown: Ids, budget: int) -> list[dict[str, Any]]:
    """Maps of the models at the ends of a plan's stages, the last first while there is room."""
    folders = layout.stage_folders(group.first.path)
    models: list[dict[str, Any]] = []
    for number, folder in reversed(folders.items()):
        model = open_model(folder).model
        size = model.depth * model.config.num_attention_heads * sum(len(ids) ** 2 for ids in shown)
        if size > budget:
            break
        budget -= size
        where = f"end of stage {number}" if number < len(group.first.plan.stages) else "finished"
        models.append(
            {
                "name": f"{group.name}, {where} ({model.depth} layers)",
                "layers": model.depth,
                "heads": model.config.num_attention_heads,
                "maps": [_bytes(attention_of(model, ids)) for ids in shown],
            }
        )
    return models[::-1]


def _bytes(maps_NHLL: Tensor) -> str:
    """Shares of 0 to 1 as bytes of 0 to 255, in base64."""
    return base64.b64encode((maps_NHLL * 255).round().byte().numpy().tobytes()).decode()


def _drift(group: Group, drawn: Ids) -> list[dict[str, Any]]:
    """How far each layer was from the last model at the ends of earlier stages."""
    folders = layout.stage_folders(group.first.path)
    if len(folders) < 2:
        return []
    (last_number, last_folder), *earlier = reversed(folders.items())
    last = open_model(last_folder).model
    final = [attention_of(last, ids) for ids in drawn]
    distances, changes = [], []
    for number, folder in reversed(earlier):
        model, name = open_model(folder).model, f"since stage {number}"
        each = torch.stack(
            [_distance(attention_of(model, ids), maps) for ids, maps in zip(drawn, final)]
        )
        low, middle, high = (each.quantile(q, dim=0).tolist() for q in (0.25, 0.5, 0.75))
        spread = {"values": _short(middle), "low": _short(low), "high": _short(high)}
        distances.append({"name": name, **spread})
        changes.append({"name": name, "values": _short(_weights(model, last))})
    till = f"the end of stage {last_number}"
    distances, changes = (_told_apart(series) for series in (distances, changes))
    return [
        {
            "title": f"{group.name}: change of attention",
            "unit": "Jensen-Shannon distance",
            "says": f"Between the ends of earlier stages and {till}: 0 is the same attention, 1 "
            f"shares nothing. Median and quartiles over {len(drawn)} sentences. Stages between "
            "which nothing changed in the layers that both have share a line.",
            "series": distances,
        },
        {
            "title": f"{group.name}: change of weights",
            "unit": "relative",
            "says": f"Length of a layer's change until {till}, over the length of its weights.",
            "series": changes,
        },
    ]


def _told_apart(series: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without those that the next one repeats and goes on from: fixed layers had not moved."""
    last = series[-1:]
    return [
        one
        for one, after in pairwise(series)
        if one["values"] != after["values"][: len(one["values"])]
    ] + last


def _distance(one_NHLL: Tensor, other_NHLL: Tensor) -> Tensor:
    """Jensen-Shannon distance of attention by layer, the mean over heads and rows: [layers]."""
    one = one_NHLL
    other = other_NHLL[: len(one)]
    middle = (one + other) / 2

    def divergence(p: Tensor) -> Tensor:
        return (p * (p.clamp_min(1e-12) / middle.clamp_min(1e-12)).log2()).sum(-1)

    squared = (divergence(one) + divergence(other)) / 2
    return squared.clamp_min(0).sqrt().mean((1, 2))


def _weights(model: Encoder, last: Encoder) -> list[float]:
    """|change| / |weights before| of each layer that both have."""
    found = []
    for ours, theirs in zip(model.layers(0, model.depth), last.layers(0, model.depth)):
        pairs = [(a.detach(), b.detach()) for a, b in zip(ours.parameters(), theirs.parameters())]
        change = sum(float((a - b).square().sum()) for a, b in pairs)
        found.append((change / sum(float(a.square().sum()) for a, _ in pairs)) ** 0.5)
    return found


def _short(values: Sequence[float]) -> list[float | None]:
    return [short(value) for value in values]
