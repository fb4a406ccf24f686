"""Hugging Face transformers: the names of their weights and config, and export for them.

Nothing here imports transformers, and torch only once there is something to do with tensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mslt import foreign
from mslt.config import ModelConfig
from mslt.layout import (
    best_checkpoint,
    checkpoint_folders,
    read_config,
    read_facts,
    stage_folders,
)

if TYPE_CHECKING:
    from torch import Tensor

    from mslt.model import Encoder

# Our module, and theirs. A fused one has a name for each of its parts.
_MODULES = {
    "embeddings.token": ("bert.embeddings.word_embeddings",),
    "embeddings.position": ("bert.embeddings.position_embeddings",),
    "embeddings.segment": ("bert.embeddings.token_type_embeddings",),
    "embeddings.norm": ("bert.embeddings.LayerNorm",),
    "head": ("cls.predictions",),
    "head.transform": ("cls.predictions.transform.dense",),
    "head.norm": ("cls.predictions.transform.LayerNorm",),
    "head.pooler": ("bert.pooler.dense",),
    "head.pair": ("cls.seq_relationship",),
}
_BLOCK = {
    "attention.qkv": tuple(f"attention.self.{part}" for part in ("query", "key", "value")),
    "attention.out": ("attention.output.dense",),
    "attention.norm": ("attention.output.LayerNorm",),
    "mlp.up": ("intermediate.dense",),
    "mlp.down": ("output.dense",),
    "mlp.norm": ("output.LayerNorm",),
}
_LAYER = re.compile(r"(?:blocks|bert\.encoder\.layer)\.(\d+)\.")

# What some of their state dicts hold beside the weights: the output matrix and its bias, which are
# tied to tensors of other names, and constants.
_NOT_WEIGHTS = {
    "cls.predictions.decoder.weight",
    "cls.predictions.decoder.bias",
    "bert.embeddings.position_ids",
    "bert.embeddings.token_type_ids",
}


def to_hf(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An `Encoder`'s state dict in the names of `BertForPreTraining`, as its files hold them.

    The fused query, key and value are split; what is tied to another tensor has no name of its
    own. Gradients can be renamed as well as weights.

    Returns:
        Contiguous copies.
    """
    modules = _modules(state)
    theirs = {}
    for name, tensor in state.items():
        module, _, kind = name.rpartition(".")
        parts = modules[module]
        for part, value in zip(parts, tensor.detach().chunk(len(parts))):
            theirs[f"{part}.{kind}"] = value.clone().contiguous()
    return theirs


def from_hf(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_hf`: what `Encoder.load_state_dict` takes, which refuses what is missing.

    Args:
        theirs: the state dict of a `BertForPreTraining`, or what its safetensors file holds.

    Raises:
        ValueError: naming a tensor that an `Encoder` has no place for.
    """
    import torch

    left = set(theirs) - _NOT_WEIGHTS
    ours = {}
    for module, parts in _modules(theirs).items():
        for kind in ("weight", "bias"):
            names = [f"{part}.{kind}" for part in parts]
            if left.issuperset(names):
                ours[f"{module}.{kind}"] = torch.cat([theirs[name].detach() for name in names])
                left.difference_update(names)
    if left:
        raise ValueError(f"{min(left)} is no tensor of BertForPreTraining")
    return ours


def _modules(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Our modules and theirs, for as many layers as the names speak of."""
    layers = {match[1] for name in names if (match := _LAYER.match(name))}
    blocks = {
        f"blocks.{i}.{ours}": tuple(f"bert.encoder.layer.{i}.{part}" for part in theirs)
        for i in layers
        for ours, theirs in _BLOCK.items()
    }
    return _MODULES | blocks


def config_to_hf(config: ModelConfig, depth: int, pad_token_id: int = 0) -> dict[str, Any]:
    """What config.json says of a model of `depth` layers, which may be fewer than the config's."""
    return {
        "architectures": ["BertForPreTraining"],
        "model_type": "bert",
        **{key: value for key, value in asdict(config).items() if key != "initializer"},
        "num_hidden_layers": depth,
        "hidden_act": "gelu",
        "type_vocab_size": 2,
        "pad_token_id": pad_token_id,
        "tie_word_embeddings": True,
        "dtype": "float32",
    }


def export(run: Path, out: Path, stage: int | None = None, *, best: bool = False) -> Path:
    """Write a run's model as a folder that `transformers` loads, with tokenizer and model card.

    Args:
        run: a run's folder.
        out: the folder to write: new, or empty.
        stage: the model at the end of this stage, counted from 1. Without it, the finished model
            or, of a run that is not finished, its newest good checkpoint.
        best: the checkpoint with the lowest held-out loss instead.

    Returns:
        The folder.

    Raises:
        ValueError: the run has no such model, it is damaged, or `out` is not empty.
        OSError: the disk is full or not writable; nothing is left under the final name.
    """
    folders = _model_folders(run, stage, best)

    from mslt.card import Described, model_card
    from mslt.checkpoint import write_file
    from mslt.data.tokenizer import read_vocabulary
    from mslt.files import appearing
    from mslt.run import Run

    opened = Run.open(run)
    config, pad = opened.config.model, read_vocabulary(run / "tokenizer").pad
    model, facts = _load_first_good(folders, config)
    tensors = to_hf(model.state_dict())
    parameters = sum(tensor.numel() for tensor in tensors.values())
    told = json.loads((run / "tokenizer" / "tokenizer_config.json").read_bytes())
    told["model_max_length"] = config.max_position_embeddings
    texts = {
        "config.json": _json(config_to_hf(config, model.depth, pad)),
        "tokenizer_config.json": _json(told),
        "README.md": model_card(Described(opened, facts["step"], facts["seconds"], parameters)),
    }
    with appearing(out) as folder:
        write_file(folder / "model.safetensors", tensors)
        for name, text in texts.items():
            write_file(folder / name, text.encode())
        for name in ("tokenizer.json", "vocab.txt"):
            write_file(folder / name, (run / "tokenizer" / name).read_bytes())
    return out


def _model_folders(run: Path, stage: int | None, best: bool) -> list[Path]:
    """Where the model that is asked for may be, the first choice first. Needs no torch."""
    read_facts(run)  # which the model card needs
    if best:
        if stage is not None:
            raise ValueError("--best has no effect beside --stage: leave one of them out")
        if (folder := best_checkpoint(run)) is None:
            raise ValueError(f"{run} has no checkpoint that was evaluated: leave --best out")
        return [folder]
    stages, ended = read_config(run).stages().stages, stage_folders(run)
    if stage is not None:
        if stage not in ended:
            which = f"these have: {', '.join(map(str, ended))}" if ended else "none has"
            raise ValueError(f"stage {stage} of {len(stages)} has not ended in {run}; {which}")
        return [ended[stage]]
    if len(stages) in ended:
        return [ended[len(stages)]]
    checkpoints = checkpoint_folders(run)
    if not checkpoints:
        raise ValueError(f"{run} has no checkpoint yet: there is no model to export")
    return checkpoints[::-1]


def _load_first_good(
    folders: Sequence[Path], config: ModelConfig
) -> tuple[Encoder, dict[str, Any]]:
    from mslt.checkpoint import FACTS, STATE, load_model

    def load(folder: Path) -> tuple[Encoder, dict[str, Any]]:
        model, facts = load_model(folder, config)
        foreign.require(facts, FACTS, str(folder / STATE))
        return model, facts

    *before, last = folders
    for folder in before:
        try:
            return load(folder)
        except ValueError as error:
            print(f"mslt: {error}; trying the checkpoint before it", flush=True)
    return load(last)


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
