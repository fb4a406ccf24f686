"""Hugging Face transformers: the names of their weights and config, and export for them.

Nothing here imports transformers, and torch only once there is something to do with tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mslt.config import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor

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
        **asdict(config),
        "num_hidden_layers": depth,
        "hidden_act": "gelu",
        "type_vocab_size": 2,
        "pad_token_id": pad_token_id,
        "tie_word_embeddings": True,
        "dtype": "float32",
    }
