"""`mslt attention`: models opened and seen to fit together, a sample drawn, all files written."""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mslt.analysis import attention_charts, attention_maps
from mslt.analysis.attention import Sentences, held_out, observe, tokenised
from mslt.analysis.attention_numbers import measure
from mslt.analysis.attention_tables import Values, to_csv, to_text, to_values
from mslt.config import Config, InstanceConfig
from mslt.data import tokenizer as tokenizers
from mslt.data.store import TokenStore
from mslt.files import appearing
from mslt.foreign import read_bytes
from mslt.layout import CONFIG, FACTS, read_config, read_facts
from mslt.pretrained import Pretrained, open_model

_TEXT_BYTES = 16 << 20


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Args:
        models: in the order of their training; the last is what the others are compared with.
        beside: models that were trained otherwise.
        text: what the pictures show; by default the sample's first sequence.
        file: a text file, a sequence per line, to measure on.
        data: a token store, whose held-out text to measure on. Where neither is given, the store
            of the last model's run or, where it has none, the text.
        sequences: the most of them to measure on; 64 where nothing is said.
        seq_len: tokens of the longest; by default that of the last model's first stage, or 128.
        heads: single heads to draw, as in L5H4.
        seed: of the sample and of the heads that are drawn.
    """

    models: list[Path]
    beside: list[Path]
    text: str | None = None
    file: Path | None = None
    data: Path | None = None
    sequences: int | None = None
    seq_len: int | None = None
    heads: tuple[str, ...] = ()
    seed: int = 0


def look(request: Request, out: Path) -> str:
    """Write pictures and numbers to a folder, and return the tables.

    Args:
        request: what is asked for.
        out: the folder, which must not exist: attention.json, attention.csv and pictures, each as
            .png and .svg.

    Raises:
        ValueError: a model, a text or a head is not there, or models do not fit together.
        OSError: something cannot be read or written.
    """
    heads = [_head(text) for text in request.heads]
    models = _opened([*request.models, *request.beside])
    last = len(request.models) - 1
    config = _config_of(request.models[last])
    longest = request.seq_len or (config.stages().stages[0].seq_len if config else 128)
    shown, sample, told = _texts(request, models[last], config, longest)
    vocabulary = tokenizers.given(models[0].tokenizer).get_vocab()
    encoders = [model.model for model in models]
    for layer, head in heads:
        if not any(layer < m.depth and head < m.config.num_attention_heads for m in encoders):
            raise ValueError(f"no model has L{layer + 1}H{head + 1}")
    measured = measure(encoders, last + 1, sample, vocabulary["[CLS]"], vocabulary["[SEP]"])
    values = to_values(measured, [model.name for model in models], told, last)
    maps = [
        attention_maps.Maps(
            model.name, observe(model.model, shown).weights_NBHLL[:, 0], shown.tokens[0]
        )
        for model in models
    ]
    with appearing(out) as folder:
        text = json.dumps(values, allow_nan=False, ensure_ascii=False) + "\n"
        (folder / "attention.json").write_text(text, encoding="utf-8")
        (folder / "attention.csv").write_text(to_csv(values), encoding="utf-8")
        _draw(folder, maps, values, heads, request.seed)
    return to_text(values, shutil.get_terminal_size().columns)


def _draw(
    folder: Path,
    maps: Sequence[attention_maps.Maps],
    values: Values,
    heads: Sequence[tuple[int, int]],
    seed: int,
) -> None:
    """All pictures."""
    last = values["last"]
    earlier = [*reversed(maps[:last]), *maps[last + 1 :]]
    drawn = sorted(set(attention_maps.random_heads(2, maps[last].heads, seed)))
    pictures = {
        "rows": attention_maps.rows(maps[last], earlier, seed),
        "same-heads": attention_maps.same_heads(maps[last], drawn),
        "looks": attention_charts.looks(values),
    }
    if len(maps) > 1:
        pictures["drift"] = attention_charts.drift(values)
    for number, one in enumerate(maps, 1):
        pictures[f"heads-{number}"] = attention_maps.every_head(one)
    for layer, head in heads:
        name = f"L{layer + 1}H{head + 1}"
        pictures[name] = attention_maps.single(maps, layer, head)
    for name, figure in pictures.items():
        attention_maps.save(figure, folder / name)


def _head(text: str) -> tuple[int, int]:
    """L5H4 as (4, 3)."""
    match = re.fullmatch(r"L([1-9]\d{0,3})\s?H([1-9]\d{0,3})", text.strip(), re.IGNORECASE)
    if match is None:
        raise ValueError(f"heads must be of the form L5H4, head 4 of layer 5, not {text}")
    return int(match[1]) - 1, int(match[2]) - 1


def _opened(paths: Sequence[Path]) -> list[Pretrained]:
    """Models of one vocabulary, each of another name."""
    places = [path.resolve() for path in paths]
    if twice := [str(p) for p, place in zip(paths, places) if places.count(place) > 1]:
        raise ValueError(f"{twice[0]} is there twice")
    models = [open_model(path) for path in paths]
    pieces = [tokenizers.given(model.tokenizer).get_vocab() for model in models]
    for path, other in zip(paths, pieces):
        if other != pieces[0]:
            raise ValueError(
                f"{path} has another vocabulary than {paths[0]}: they cannot be shown one text"
            )
    names = _names(paths, [model.name for model in models])
    return [replace(model, name=name) for model, name in zip(models, names)]


def _names(paths: Sequence[Path], names: Sequence[str]) -> list[str]:
    """As short as tells models apart: without the run that all are parts of, or by their path."""
    run = {name.rpartition("/")[0] for name in names}
    if len(names) > 1 and len(run) == 1:
        names = [name.rpartition("/")[2] for name in names]
    return [str(path) if names.count(name) > 1 else name for path, name in zip(paths, names)]


def _run_of(model: Path) -> Path | None:
    """The run that a model is, or is a part of."""
    for folder in (model, *model.resolve().parents[1:2]):
        if (folder / CONFIG).is_file():
            return folder
    return None


def _config_of(model: Path) -> Config | None:
    run = _run_of(model)
    return read_config(run) if run else None


def _texts(
    request: Request, model: Pretrained, config: Config | None, longest: int
) -> tuple[Sentences, Sentences, Values]:
    """What the pictures show, what is measured on, and what is told of that."""
    text = None
    if request.text is not None:
        text = tokenised([request.text], model.tokenizer, longest)
    sample, what = _sample(request, model, config, longest)
    if sample is None:
        if text is None:
            raise ValueError("there is no text to look at: give --text, --file or --data")
        if request.sequences is not None:
            raise ValueError("sequences has no effect on --text alone: give --data or --file too")
        sample, what = text, "the text given"
    told = {"text": what, "sequences": len(sample.lengths), "tokens": sum(sample.lengths)}
    return text or sample[:1], sample, told


def _sample(
    request: Request, model: Pretrained, config: Config | None, longest: int
) -> tuple[Sentences | None, str]:
    count = request.sequences or 64
    if request.file is not None:
        content = read_bytes(request.file, _TEXT_BYTES).decode("utf-8", errors="replace")
        lines = [line for line in content.splitlines() if line.strip()]
        if not lines:
            raise ValueError(f"{request.file} has no text in it")
        return tokenised(lines[:count], model.tokenizer, longest), request.file.name
    data, run = request.data, _run_of(request.models[-1])
    if data is None and run is not None and (run / FACTS).is_file():
        data = Path(read_facts(run)["data"])
        if not data.is_dir():
            data = None  # the run was trained elsewhere
    if data is None:
        return None, ""
    store = TokenStore.open(data)
    pieces = tokenizers.load(store.path / "tokenizer").get_vocab()
    if pieces != tokenizers.given(model.tokenizer).get_vocab():
        raise ValueError(f"{data} has another vocabulary than {model.name}: give --file instead")
    instances = config.instances if config else InstanceConfig()
    return held_out(store, count, longest, instances, request.seed), "held-out text"
