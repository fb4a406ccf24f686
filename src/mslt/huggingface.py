"""Hugging Face transformers: the names of their weights and config, and reading their folders.

Nothing here imports transformers.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mslt import foreign
from mslt.config import ModelConfig
from mslt.cost import head_parameters, parameters
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


# Keys of config.json that change what a model computes, and the only values that ours has.
_ALIKE = {
    "hidden_act": ("gelu",),
    "position_embedding_type": ("absolute",),
    "type_vocab_size": (2,),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}
_SHAPE = {
    "vocab_size": int,
    "hidden_size": int,
    "num_hidden_layers": int,
    "num_attention_heads": int,
    "intermediate_size": int,
    "max_position_embeddings": int,
}
_MORE = {
    "hidden_dropout_prob": float,
    "attention_probs_dropout_prob": float,
    "initializer_range": float,
    "layer_norm_eps": float,
}


def config_from_hf(values: Mapping[str, Any], where: str) -> ModelConfig:
    """The shape that a config.json describes; what it says beside that is passed over.

    Args:
        values: its content.
        where: the file, which a complaint begins with.

    Raises:
        ValueError: it is of another kind of model, or one whose arithmetic ours has not.
    """
    if values.get("model_type") != "bert":
        raise ValueError(f"{where}: model_type is {values.get('model_type')!r}, not 'bert'")
    for key, allowed in _ALIKE.items():
        if values.get(key, allowed[0]) not in allowed:
            raise ValueError(
                f"{where}: {key} is {values[key]!r}; only {allowed[0]!r} is known here"
            )
    more = {key: kind for key, kind in _MORE.items() if key in values}
    foreign.require(values, _SHAPE | more, where)
    try:
        return ModelConfig(**{key: values[key] for key in (*_SHAPE, *more)})
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


_NUMBERS = ("F32", "F16", "BF16")
_HEADS = ("cls.", "bert.pooler.")


def load(folder: Path) -> tuple[Encoder, tuple[str, ...]]:
    """The model in a Hugging Face folder, in fp32, and its heads' tensors that are not there.

    A folder may hold a whole `BertForPreTraining`, or lack some of its heads, or have others on
    top, as fine-tuning leaves them: those are passed over, and what is lacking begins as in a new
    model.

    Args:
        folder: config.json and model.safetensors.

    Raises:
        ValueError: it is no such folder, or its weights do not fit its config.
        OSError: it cannot be read.
    """
    where, file = folder / "config.json", folder / "model.safetensors"
    config = config_from_hf(foreign.read_json_object(where), str(where))
    if not file.is_file():
        raise ValueError(f"{folder} has no model.safetensors")
    needs = parameters(config, config.num_hidden_layers) - head_parameters(config)
    if file.stat().st_size < 2 * needs:  # before so much memory is taken
        raise ValueError(f"{file} does not fit {where.name}, by which it has {needs:,} numbers")
    model = Encoder(config)
    wanted = to_hf(model.state_dict())
    tensors = _read(file, wanted)
    fresh = tuple(name for name in wanted if name not in tensors)
    if lacking := [name for name in fresh if not name.startswith(_HEADS)]:
        raise ValueError(f"{file} does not fit {where.name}: it lacks {lacking[0]}")
    model.load_state_dict(from_hf(wanted | tensors), strict=True)
    return model, fresh


def _read(file: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the tensors wanted that a safetensors file has, of any floating-point type.

    Raises:
        ValueError: naming one that has another shape, is not finite, or has no place in the model.
    """
    tensors = {}
    try:
        with safe_open(file, "pt") as opened:
            names = _names_today(opened.keys())
            for name in sorted(set(names) - set(wanted) - _NOT_WEIGHTS):
                if name.startswith("bert.") and not name.startswith("bert.pooler."):
                    raise ValueError(f"{file} has a tensor that the model has not, {names[name]}")
            for name in [name for name in wanted if name in names]:
                has, needs = opened.get_slice(names[name]), list(wanted[name].shape)
                if has.get_shape() != needs or has.get_dtype() not in _NUMBERS:
                    raise ValueError(
                        f"{file} does not fit config.json: {names[name]} is {has.get_dtype()} "
                        f"{has.get_shape()}, not numbers {needs}"
                    )
                tensors[name] = opened.get_tensor(names[name]).float()
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is damaged: {error}") from None
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{file} is damaged: a number in {name} is not finite")
    return tensors


def _names_today(given: Iterable[str]) -> dict[str, str]:
    """A file's names of tensors, by the names that `BertForPreTraining` gives them today.

    Files made from TensorFlow's have gamma and beta; those of a bare `BertModel` no prefix.
    """
    names = {}
    for name in given:
        today = name.replace("LayerNorm.gamma", "LayerNorm.weight")
        names[today.replace("LayerNorm.beta", "LayerNorm.bias")] = name
    if not any(name.startswith("bert.") for name in names):
        names = {f"bert.{name}": given for name, given in names.items()}
    return names
