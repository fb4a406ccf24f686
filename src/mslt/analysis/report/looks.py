"""Where the heads of a run's models look, stage by stage, and how far its layers moved on.

The models are those at the stages' ends; what is measured of them is `mslt attention`'s. Shapes as
in `mslt.analysis.attention`.
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
from mslt.analysis.attention import Sentences, held_out, observe
from mslt.analysis.attention_numbers import Alone, Pair, measure
from mslt.analysis.attention_tables import CLASSES
from mslt.analysis.report.groups import Group, grouped
from mslt.analysis.report.series import short
from mslt.analysis.report.subjects import Subject
from mslt.data import tokenizer as tokenizers
from mslt.data.store import TokenStore
from mslt.pretrained import open_model

SHOWN = 3  # sentences whose attention the page has
SAMPLE = 32  # held-out sequences that are measured on
_LENGTHS = (8, 22)  # tokens of a sentence that is shown, without [CLS] and [SEP]
_MOST = 2_400_000  # bytes of attention in a page

Charts = list[dict[str, Any]]


def look(
    runs: Sequence[Subject], text: str | None = None, data: str | None = None
) -> dict[str, Any]:
    """Attention and drift of some runs' first seeds, for the page.

    Args:
        runs: read already.
        text: a sentence to show; held-out ones by default.
        data: the token store, where it is not where the runs had it.

    Returns:
        `attention` and `drift`, each None where there is nothing to show, and `absent`, why. Drift
        is measured on held-out text; where there is no store, on the sentence given.

    Raises:
        ValueError: a model is damaged, or a store that was named is, or is of other pieces.
    """
    groups = [group for group in grouped(runs) if layout.stage_folders(group.first.path)]
    if not groups:
        return {"absent": "No stage of these runs has ended: there is no model to look into."}
    first = groups[0].first
    groups = [g for g in groups if same_pieces(g.first, first)]
    tokenizer = tokenizers.load(first.path / "tokenizer")
    shown = None if text is None else _given(text, tokenizer, first)
    store, absent = _store(first, tokenizer, data)
    if shown is None:
        if store is None:
            return {"absent": absent}
        shown = _heldout(first, store, tokenizer)
    if shown is None:
        return {"absent": "No attention: the held-out text has no sentence of a fitting length."}
    left = _MOST
    attention: list[dict[str, Any]] = []
    charts: Charts = []
    for group in groups:
        models = _of_group(group, shown, left)
        left -= sum(len(text) * 3 // 4 for model in models for text in model["maps"])
        attention += models
        charts += _drift(group, shown, store)
    if not attention:
        return {"absent": "No attention: these models have too many heads for a page."}
    return {
        "attention": {"sentences": shown.tokens, "models": attention},
        "drift": charts or None,
    }


def _given(text: str, tokenizer: Any, run: Subject) -> Sentences:
    """A sentence of the user's, cut to what a page can show."""
    longest = min(run.config.model.max_position_embeddings, 2 + 2 * _LENGTHS[1])
    ids = tokenizer.encode(text).ids[:longest]
    if len(ids) < 3:
        raise ValueError("text has no token to look at")
    return _sentences([ids], tokenizer)


def _sentences(ids: list[list[int]], tokenizer: Any) -> Sentences:
    tokens = [[str(tokenizer.id_to_token(i)) for i in one] for one in ids]
    return Sentences.of(ids, tokens, tokenizer.token_to_id("[PAD]"))


def _store(run: Subject, tokenizer: Any, data: str | None) -> tuple[TokenStore | None, str]:
    """The token store or, where none was named and there is none, what the page says of that."""
    try:
        store = TokenStore.open(Path(data) if data is not None else Path(run.facts["data"]))
        pieces = tokenizers.load(store.path / "tokenizer").get_vocab()
    except (ValueError, OSError) as error:
        if data is not None:
            raise
        return None, f"No attention: the token store cannot be read ({_why(error)})."
    if pieces != tokenizer.get_vocab():
        if data is not None:
            raise ValueError(f"{data} has other pieces than the run")
        return None, "No attention: the token store has other pieces than the run."
    return store, ""


def _why(error: Exception) -> str:
    """Without the path, which the page must not give away."""
    return error.strerror or "unreadable" if isinstance(error, OSError) else "it is not there"


def same_pieces(run: Subject, other: Subject) -> bool:
    """Whether both know the same pieces by the same numbers."""
    one, two = (tokenizers.load(each.path / "tokenizer").get_vocab() for each in (run, other))
    return bool(one == two)


def _heldout(run: Subject, store: TokenStore, tokenizer: Any) -> Sentences | None:
    """Held-out sentences of fitting lengths to show, from all over the text."""
    split, bounds = store.heldout, np.asarray(store.heldout.sentences).astype(np.int64)
    lengths = np.diff(bounds)
    longest = min(_LENGTHS[1], run.config.model.max_position_embeddings - 2)
    fitting = np.flatnonzero((lengths >= _LENGTHS[0]) & (lengths <= longest))
    if not len(fitting):
        return None
    chosen = np.unique(fitting[np.linspace(0, len(fitting) - 1, SHOWN).astype(int)])
    ids = [split.tokens[bounds[i] : bounds[i + 1]].astype(int).tolist() for i in chosen]
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    return _sentences([[cls, *sentence, sep] for sentence in ids], tokenizer)


def _of_group(group: Group, shown: Sentences, budget: int) -> list[dict[str, Any]]:
    """Maps of the models at the ends of a plan's stages, the last first while there is room."""
    models: list[dict[str, Any]] = []
    for number, folder in reversed(layout.stage_folders(group.first.path).items()):
        model = open_model(folder).model
        heads = model.config.num_attention_heads
        size = model.depth * heads * sum(length**2 for length in shown.lengths)
        if size > budget:
            break
        budget -= size
        where = f"end of stage {number}" if number < len(group.first.plan.stages) else "finished"
        weights_NBHLL = observe(model, shown).weights_NBHLL
        models.append(
            {
                "name": f"{group.name}, {where} ({model.depth} layers)",
                "layers": model.depth,
                "heads": heads,
                "maps": [
                    _bytes(weights_NBHLL[:, i, :, :length, :length])
                    for i, length in enumerate(shown.lengths)
                ],
            }
        )
    return models[::-1]


def _bytes(maps_NHLL: Tensor) -> str:
    """Shares of 0 to 1 as bytes of 0 to 255, in base64."""
    values = (maps_NHLL * 255).round().byte().contiguous().numpy()
    return base64.b64encode(values.tobytes()).decode()


def _drift(group: Group, shown: Sentences, store: TokenStore | None) -> Charts:
    """Charts of what the models at the stages' ends have to do with each other, by layer."""
    folders = layout.stage_folders(group.first.path)
    opened = [open_model(folder) for folder in folders.values()]
    sample, config = shown, group.first.config
    if store is not None:
        longest = group.first.plan.stages[0].seq_len
        sample = held_out(store, SAMPLE, longest, config.instances)
    pieces = tokenizers.load(group.first.path / "tokenizer").get_vocab()
    encoders = [one.model for one in opened]
    measured = measure(encoders, len(encoders), sample, pieces["[CLS]"], pieces["[SEP]"])
    count = len(sample.lengths)
    over = f"Median and quartiles over {count} sequence{'s' * (count != 1)}."
    *earlier, last = folders
    pairs = {f"since stage {n}": measured.pairs[i, len(earlier)] for i, n in enumerate(earlier)}
    till = f"the end of stage {last}"
    # Few tokens lie along as few directions, and look alike in any two models.
    alike = sum(sample.lengths) > 4 * encoders[-1].config.hidden_size
    deepest = {
        f"end of stage {number}": alone
        for number, alone, model in zip(folders, measured.alone, encoders)
        if model.depth == encoders[-1].depth
    }
    charts = _changes(pairs, till, over, alike) if pairs else []
    charts += _halves(deepest, encoders[-1].depth, over) + _places(measured.alone[-1], till, over)
    return [{**chart, "title": f"{group.name}: {chart['title']}"} for chart in charts]


def _changes(pairs: dict[str, Pair], till: str, over: str, alike: bool) -> Charts:
    """Attention, hidden states and weights of earlier models beside those of the last."""
    attention = [_spread(name, pair.distance_SnH.mean(-1)) for name, pair in pairs.items()]
    charts = [
        {
            "title": "change of attention",
            "unit": "Jensen-Shannon distance",
            "says": f"Between the ends of earlier stages and {till}: 0 is the same attention, 1 "
            f"shares nothing. {over} Stages between which nothing changed in the layers that both "
            "have share a line.",
            "series": _told_apart(attention),
        },
        {
            "title": "change of weights",
            "unit": "relative",
            "says": f"Length of a layer's change until {till}, over the length of its weights.",
            "series": _told_apart(
                [{"name": name, "values": _short(pair.weights_n)} for name, pair in pairs.items()]
            ),
        },
    ]
    if alike:
        charts.append(
            {
                "title": "likeness of hidden states",
                "unit": "linear CKA",
                "says": f"With those at {till}: 1 is the same but for turning and scaling, 0 has "
                "nothing in common. With standard errors by the jackknife.",
                "series": _told_apart([_cka(name, pair) for name, pair in pairs.items()]),
            }
        )
    return charts


def _cka(name: str, pair: Pair) -> dict[str, Any]:
    values, error = pair.cka_n1[1:], pair.cka_error
    found: dict[str, Any] = {"name": name, "values": _short(values.tolist())}
    if error is not None:
        bounds = (values - error[1:], values + error[1:])
        found["low"], found["high"] = (_short(bound.tolist()) for bound in bounds)
    return found


def _halves(models: dict[str, Alone], depth: int, over: str) -> Charts:
    """Bottom half against top half, of models that are as deep as the last."""
    if depth < 2:
        return []
    series = [_spread(name, alone.halves_ShH.mean(-1)) for name, alone in models.items()]
    return [
        {
            "title": "bottom against top",
            "unit": "Jensen-Shannon distance",
            "says": f"Between the attention of the same heads of a layer and of the one "
            f"{depth - depth // 2} above it, in one model. {over}",
            "series": series,
        }
    ]


def _places(last: Alone, till: str, over: str) -> Charts:
    """Where the last model's heads look."""
    parts = {name: last.looks_SNHC[..., i].mean(-1) for i, name in enumerate(CLASSES)}
    shares = zip(CLASSES, last.shares().mean(0).T.tolist())
    says = "Neighbours are up to two tokens away, the token itself among them."
    return [
        {
            "title": "where attention goes",
            "unit": "part of the attention",
            "says": f"At {till}. {says} {over}",
            "series": [_spread(name, part_SN) for name, part_SN in parts.items()],
        },
        {
            "title": "where heads look most",
            "unit": "share of heads",
            "says": f"Heads of each layer by where most of their attention goes, at {till}. "
            "Mean over sequences.",
            "series": [{"name": name, "values": _short(share)} for name, share in shares],
        },
    ]


def _spread(name: str, values_Sn: Tensor) -> dict[str, Any]:
    """Medians and quartiles over sequences, by layer."""
    low, middle, high = (
        _short(torch.quantile(values_Sn, q, dim=0).tolist()) for q in (0.25, 0.5, 0.75)
    )
    return {"name": name, "values": middle, "low": low, "high": high}


def _told_apart(series: Charts) -> Charts:
    """Without those that the next one repeats and goes on from: fixed layers had not moved."""
    last = series[-1:]
    return [
        one
        for one, after in pairwise(series)
        if one["values"] != after["values"][: len(one["values"])]
    ] + last


def _short(values: Sequence[float]) -> list[float | None]:
    return [short(value) for value in values]
