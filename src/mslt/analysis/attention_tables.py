"""What `mslt.analysis.attention_numbers` measured: as values for JSON, as text and as CSV.

Layers and heads are counted from 1 here. A spread over sequences or heads is a standard deviation;
that of a CKA is its standard error by the jackknife. What has none (one sequence) is null.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mslt.analysis.formats import ABSENT, aligned, broken

if TYPE_CHECKING:
    from torch import Tensor

    from mslt.analysis.attention_numbers import Alone, Measured, Pair

CLASSES = ("[CLS]", "[SEP]", "neighbours", "elsewhere")
NEAR = 0.1  # a Jensen-Shannon distance below which a layer counts as settled
_BESIDE = 6  # columns of a table in a terminal
_SPREADS = ("mean", "over_sequences", "over_heads")

Values = dict[str, Any]


def to_values(
    measured: "Measured",
    names: Sequence[str],
    sample: Values,
    last: int,
) -> Values:
    """All numbers, as plain values.

    Args:
        measured: the numbers.
        names: of the models, in their order.
        sample: what is to be said of the sample: `text`, `sequences` and `tokens`.
        last: the model, counted from 0, with which the others were compared.

    Returns:
        `sample`; `last`; `uniform`, what each class of places would get from a head that looks
        everywhere alike; `models`, each with its `layers` and the `halves`, distances of
        bottom and top; `pairs`, each with `from`, `to` and its `layers`, of which the first, 0,
        are the embeddings; and `settled`, for each layer the first model from which on its
        attention stays nearer than `NEAR` to the last one's, null where none does.
    """
    models = [
        {"name": name, "layers": _layers(alone), "halves": _halves(alone)}
        for name, alone in zip(names, measured.alone)
    ]
    pairs = [
        {"from": names[i], "to": names[j], "models": [i, j], "layers": _of_pair(pair)}
        for (i, j), pair in measured.pairs.items()
    ]
    uniform = dict(zip(CLASSES, _rounded(measured.uniform_C)))
    return {
        "sample": sample,
        "last": last,
        "uniform": uniform,
        "models": models,
        "pairs": pairs,
        "settled": _settled(pairs, last),
    }


def _settled(pairs: Sequence[Values], last: int) -> list[Values]:
    """Where in the trail each layer's attention came to be what it is in the last model."""
    trail = [pair for pair in pairs if pair["models"][1] == last and pair["models"][0] < last]
    since: dict[int, str | None] = {}
    for pair in trail:
        for row in pair["layers"][1:]:
            near = row["distance"]["mean"] < NEAR
            found = since.get(row["layer"])
            since[row["layer"]] = (found or pair["from"]) if near else None
    return [{"layer": layer, "model": since[layer]} for layer in sorted(since)]


def _rounded(values: "Tensor") -> list[float]:
    return [round(float(value), 6) for value in values]


def _spread(values_SH: "Tensor") -> Values:
    """Mean of [S, H], its spreads over both, and the mean of each head."""
    sequences, heads = values_SH.mean(1), values_SH.mean(0)

    def deviation(values: "Tensor") -> float | None:
        return round(float(values.std()), 6) if len(values) > 1 else None

    return {
        "mean": round(float(values_SH.mean()), 6),
        "over_sequences": deviation(sequences),
        "over_heads": deviation(heads),
        "heads": _rounded(heads),
    }


def _layers(alone: "Alone") -> list[Values]:
    rows = []
    for i, share_SC in enumerate(alone.shares().unbind(1)):
        looks = alone.looks_SNHC[:, i].unbind(-1)
        shares = [_spread(share_S[:, None]) for share_S in share_SC.unbind(-1)]
        rows.append(
            {
                "layer": i + 1,
                "share_of_heads": dict(zip(CLASSES, shares)),
                "attention": dict(zip(CLASSES, map(_spread, looks))),
                "between_heads": _spread(alone.heads_SN[:, i, None]),
            }
        )
    return rows


def _halves(alone: "Alone") -> list[Values]:
    layers, half = alone.looks_SNHC.shape[1], alone.halves_ShH.shape[1]
    return [
        {"bottom": i + 1, "top": i + 1 + layers - half, "distance": _spread(alone.halves_ShH[:, i])}
        for i in range(half)
    ]


def _of_pair(pair: "Pair") -> list[Values]:
    error = pair.cka_error
    rows = []
    for layer, cka in enumerate(_rounded(pair.cka_n1)):
        row: Values = {"layer": layer, "cka": cka}
        row["cka_error"] = None if error is None else round(float(error[layer]), 6)
        if layer:
            row["distance"] = _spread(pair.distance_SnH[:, layer - 1])
            row["weights"] = round(pair.weights_n[layer - 1], 6)
        rows.append(row)
    return rows


def to_text(values: Values, width: int) -> str:
    """Tables for a terminal of so many columns: models side by side, a row for each layer."""
    sample, models, pairs = values["sample"], values["models"], values["pairs"]
    last, count = models[values["last"]], sample["sequences"]
    name = last["name"]
    before = [pair for pair in pairs if pair["models"][1] == values["last"]]
    onward = [pair for pair in pairs if pair["models"][1] != values["last"]]
    parts = [
        f"{count:,} sequence{'s' * (count != 1)}, {sample['tokens']:,} tokens of {sample['text']}"
        + (", ± standard deviation over sequences" if count > 1 else "")
    ]
    if before:
        apart = {row["layer"]: row["between_heads"] for row in last["layers"]}
        distances = {pair["from"]: _column(pair, "distance") for pair in before}
        ckas = {pair["from"]: _column(pair, "cka") for pair in before}
        weights = {pair["from"]: _column(pair, "weights") for pair in before}
        parts += [
            f"Attention: Jensen-Shannon distance from {name} (0 the same, 1 nothing shared).\n"
            "apart: what different heads of one layer have between them",
            _table(distances | {"apart": apart}),
            f"Hidden states: linear CKA with {name} (1 the same but for turning and scaling; "
            "± standard error).\nLayer 0 are the embeddings",
            _table(ckas),
            f"Weights: change until {name}, as a part of their length",
            _table(weights),
        ]
    if onward:
        steps = {pair["to"]: _column(pair, "distance") for pair in onward}
        settled = [[str(row["layer"]), row["model"] or "not yet"] for row in values["settled"]]
        parts += [
            "Attention: distance from the model before",
            _table(steps),
            f"Settled: the first model from which on a layer's attention is nearer than {NEAR} "
            f"to {name}'s",
            aligned([["layer", "since"], *settled]),
        ]
    halves = {
        model["name"]: {f"{h['bottom']} and {h['top']}": h["distance"] for h in model["halves"]}
        for model in models
        if len(model["layers"]) == len(last["layers"])
    }
    if last["halves"]:
        parts += [
            "Attention: distance of the same heads in the bottom half and in the top half",
            _table(halves, "layers"),
        ]
    parts += [
        f"{name}: share of heads that look most at ..., and of the attention (neighbours: up to "
        "two tokens away, the token itself among them)",
        _looks(last, values["uniform"], width),
    ]
    return "\n\n".join(parts) + "\n"


def _column(pair: Values, key: str) -> dict[Any, Any]:
    """A number of each layer, with its spread."""
    return {
        row["layer"]: {"mean": row[key], "over_sequences": row["cka_error"]}
        if key == "cka"
        else row[key]
        for row in pair["layers"]
        if key in row
    }


def _table(columns: dict[str, dict[Any, Any]], heading: str = "layer") -> str:
    """Columns beside each other, a few at a time; a layer that a model has not stays empty."""
    parts = []
    for begin in range(0, len(columns), _BESIDE):
        part = dict(list(columns.items())[begin : begin + _BESIDE])
        rows = list(dict.fromkeys(row for column in part.values() for row in column))
        body = [
            [str(row), *(_cell(column[row]) if row in column else "" for column in part.values())]
            for row in rows
        ]
        parts.append(aligned([[heading, *part], *body]))
    return "\n\n".join(parts)


def _cell(value: Any) -> str:
    if not isinstance(value, dict):
        return f"{value:.3f}"
    spread = value["over_sequences"]
    return f"{value['mean']:.3f}" + ("" if spread is None else f" ±{spread:.3f}")


def _percent(value: Values) -> str:
    spread = value["over_sequences"]
    return f"{value['mean']:.0%}" + (f" ±{100 * spread:.0f}" if spread else "")


def _looks(model: Values, uniform: Values, width: int) -> str:
    """Where the heads of each layer look."""
    lines = [["layer", *CLASSES, *(f"to {name}" for name in CLASSES)]]
    for row in model["layers"]:
        shares = [_percent(row["share_of_heads"][name]) for name in CLASSES]
        lines.append([str(row["layer"]), *shares, *(_cell(row["attention"][c]) for c in CLASSES)])
    even = [f"{uniform[name]:.3f}" for name in CLASSES]
    lines.append(["a head that looks everywhere alike", *[ABSENT] * len(CLASSES), *even])
    return broken(lines, width)


def to_csv(values: Values) -> str:
    """Every number with its spreads on a line of its own."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["measure", "model", "other", "layer", "place", *_SPREADS])
    writer.writerows(_lines(values))
    return file.getvalue()


def _lines(values: Values) -> Iterator[list[Any]]:
    def numbers(cell: Any) -> list[Any]:
        if not isinstance(cell, dict):
            return [cell, "", ""]
        return ["" if cell[key] is None else cell[key] for key in _SPREADS]

    for model in values["models"]:
        name = model["name"]
        for row in model["layers"]:
            for place in CLASSES:
                share, looks = row["share_of_heads"][place], row["attention"][place]
                yield ["share of heads", name, "", row["layer"], place, *numbers(share)]
                yield ["attention", name, "", row["layer"], place, *numbers(looks)]
            between = numbers(row["between_heads"])
            yield ["distance between heads", name, "", row["layer"], "", *between]
        for row in model["halves"]:
            pair = [row["bottom"], f"layer {row['top']}"]
            yield ["distance of halves", name, "", *pair, *numbers(row["distance"])]
    for pair in values["pairs"]:
        for row in pair["layers"]:
            where = [pair["from"], pair["to"], row["layer"], ""]
            error = "" if row["cka_error"] is None else row["cka_error"]
            yield ["cka", *where, row["cka"], error, ""]
            if row["layer"]:
                yield ["distance", *where, *numbers(row["distance"])]
                yield ["change of weights", *where, *numbers(row["weights"])]
