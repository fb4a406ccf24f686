"""A trained model brought into a run's folder, for the run to begin with."""

from dataclasses import asdict, replace
from pathlib import Path

from mslt import huggingface
from mslt.checkpoint import save_model
from mslt.data import tokenizer as tokenizers
from mslt.files import appearing
from mslt.layout import START
from mslt.model import Encoder
from mslt.pretrained import Pretrained, open_model


def bring(
    path: Path,
    out: Path,
    *,
    depth: int | None = None,
    tokenizer: Path | None = None,
    convert_bin: bool = False,
) -> Pretrained:
    """Write a model and its tokenizer as the beginning of a run's folder, which appears whole.

    Args:
        path: what `open_model` opens.
        out: the run's folder: new, or empty.
        depth: the lowest layers to begin with; all of them by default.
        tokenizer: where the folder has none: a vocab.txt, a tokenizer.json or a folder.
        convert_bin: read a Hugging Face folder's pytorch_model.bin instead of safetensors.

    Returns:
        What was written; `fresh` are its tensors that begin at random.

    Raises:
        ValueError: it is no such model, or it does not fit its tokenizer or the depth.
        OSError: the disk is full or not writable; nothing is left under the final name.
    """
    if convert_bin:
        found = Pretrained(path.resolve().name, *_unpickled(path))
    else:
        found = open_model(path)
    pieces = tokenizers.given(tokenizer or found.tokenizer)
    model = _lowest(found.model, depth or found.model.depth, pieces.get_vocab_size())
    facts = {"step": 0, "seconds": 0.0, "name": found.name, "model": asdict(model.config)}
    with appearing(out) as folder:
        save_model(folder / START, model, facts)
        tokenizers.save(pieces, folder / "tokenizer")
    return replace(found, model=model, tokenizer=out / "tokenizer")


def _unpickled(path: Path) -> tuple[Encoder, Path, tuple[str, ...]]:
    if (path / huggingface.SAFE).exists():
        raise ValueError(f"convert_bin has no effect: {path} has {huggingface.SAFE}")
    if not (path / "config.json").is_file():
        raise ValueError(f"{path} is no Hugging Face folder: it has no config.json")
    model, fresh = huggingface.load(path, pickled=True)
    return model, path, fresh


def _lowest(model: Encoder, depth: int, vocab_size: int) -> Encoder:
    """The lowest layers of a model, and as many rows of the vocabulary as the tokenizer has.

    Some models have more rows, up to a round number, which nothing ever means.

    Raises:
        ValueError: there are not as many layers or rows.
    """
    config = model.config
    if not 1 <= depth <= model.depth:
        raise ValueError(f"start_depth must be 1 to {model.depth}, not {depth}")
    if vocab_size > config.vocab_size:
        raise ValueError(
            f"the tokenizer has {vocab_size:,} pieces, and the model {config.vocab_size:,}"
        )
    groups = config.blocks(depth) if config.num_hidden_groups else 0
    shape = replace(
        config, vocab_size=vocab_size, num_hidden_layers=depth, num_hidden_groups=groups
    )
    kept, given = Encoder(shape), model.state_dict()
    weights = {name: given[name] for name in kept.state_dict()}
    for name in ("embeddings.token.weight", "head.bias"):
        weights[name] = weights[name][:vocab_size]
    kept.load_state_dict(weights, strict=True)
    return kept
