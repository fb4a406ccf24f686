"""Hugging Face transformers: the names of their weights and config, and reading their folders.

Nothing here imports transformers.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mslt import foreign
from mslt.cost import head_parameters, parameters
from mslt.model import Encoder
from mslt.shape import ModelConfig
from mslt.weights import NUMBERS, Given, opened_safetensors, unpickled_weights


@dataclass(frozen=True)
class Family:
    """The names of one of their kinds of models.

    Args:
        model_type: in config.json.
        architecture: the class with both pre-training heads.
        body: what the names of the encoder's tensors begin with.
        modules: our module, and theirs. A fused one has a name for each of its parts.
        layer: what the names of a block's tensors begin with, but for the block's number.
        inside: what stands between that number and the names in `block`.
        block: as `modules`, of one block.
        heads: what the names of tensors begin with that a model may lack.
        tied: beside the weights: the output matrix and its bias, which are tied to tensors of other
            names, and constants.
        pair_labels: the argument that takes the labels of sentence pairs.
        pair_logits: the output that has the pair head's logits.
    """

    model_type: str
    architecture: str
    body: str
    modules: Mapping[str, tuple[str, ...]]
    layer: str
    inside: str
    block: Mapping[str, tuple[str, ...]]
    heads: tuple[str, ...]
    tied: frozenset[str]
    pair_labels: str
    pair_logits: str

    def names(self, given: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Our modules and theirs, for as many blocks as the names given, ours or theirs, are of."""
        pattern = re.compile(rf"(?:blocks\.|{re.escape(self.layer)})(\d+)\.")
        blocks = {match[1] for name in given if (match := pattern.match(name))}
        return {
            **self.modules,
            **{
                f"blocks.{i}.{ours}": tuple(f"{self.layer}{i}.{self.inside}{p}" for p in theirs)
                for i in blocks
                for ours, theirs in self.block.items()
            },
        }


BERT = Family(
    model_type="bert",
    architecture="BertForPreTraining",
    body="bert.",
    modules={
        "embeddings.token": ("bert.embeddings.word_embeddings",),
        "embeddings.position": ("bert.embeddings.position_embeddings",),
        "embeddings.segment": ("bert.embeddings.token_type_embeddings",),
        "embeddings.norm": ("bert.embeddings.LayerNorm",),
        "head": ("cls.predictions",),
        "head.transform": ("cls.predictions.transform.dense",),
        "head.norm": ("cls.predictions.transform.LayerNorm",),
        "head.pooler": ("bert.pooler.dense",),
        "head.pair": ("cls.seq_relationship",),
    },
    layer="bert.encoder.layer.",
    inside="",
    block={
        "attention.qkv": tuple(f"attention.self.{part}" for part in ("query", "key", "value")),
        "attention.out": ("attention.output.dense",),
        "attention.norm": ("attention.output.LayerNorm",),
        "mlp.up": ("intermediate.dense",),
        "mlp.down": ("output.dense",),
        "mlp.norm": ("output.LayerNorm",),
    },
    heads=("cls.", "bert.pooler."),
    tied=frozenset(
        (
            *("cls.predictions.decoder.weight", "cls.predictions.decoder.bias"),
            *("bert.embeddings.position_ids", "bert.embeddings.token_type_ids"),
        )
    ),
    pair_labels="next_sentence_label",
    pair_logits="seq_relationship_logits",
)
# Its sentence-pair head is called the classifier of sentence order, whatever it was trained on.
ALBERT = Family(
    model_type="albert",
    architecture="AlbertForPreTraining",
    body="albert.",
    modules={
        "embeddings.token": ("albert.embeddings.word_embeddings",),
        "embeddings.position": ("albert.embeddings.position_embeddings",),
        "embeddings.segment": ("albert.embeddings.token_type_embeddings",),
        "embeddings.norm": ("albert.embeddings.LayerNorm",),
        "embeddings.project": ("albert.encoder.embedding_hidden_mapping_in",),
        "head": ("predictions",),
        "head.transform": ("predictions.dense",),
        "head.norm": ("predictions.LayerNorm",),
        "head.pooler": ("albert.pooler",),
        "head.pair": ("sop_classifier.classifier",),
    },
    layer="albert.encoder.albert_layer_groups.",
    inside="albert_layers.0.",
    block={
        "attention.qkv": tuple(f"attention.{part}" for part in ("query", "key", "value")),
        "attention.out": ("attention.dense",),
        "attention.norm": ("attention.LayerNorm",),
        "mlp.up": ("ffn",),
        "mlp.down": ("ffn_output",),
        "mlp.norm": ("full_layer_layer_norm",),
    },
    heads=("predictions.", "sop_classifier.", "albert.pooler."),
    tied=frozenset(
        (
            *("predictions.decoder.weight", "predictions.decoder.bias"),
            *("albert.embeddings.position_ids", "albert.embeddings.token_type_ids"),
        )
    ),
    pair_labels="sentence_order_label",
    pair_logits="sop_logits",
)
FAMILIES = {family.model_type: family for family in (BERT, ALBERT)}


def family_of(config: ModelConfig) -> Family:
    """What a model of this shape is to them: embeddings of a width of their own make an ALBERT."""
    return ALBERT if config.embedding_size else BERT


def to_hf(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """An `Encoder`'s state dict in the names of its family's class, as its files hold them.

    The fused query, key and value are split; what is tied to another tensor has no name of its
    own. Gradients can be renamed as well as weights.

    Returns:
        Contiguous copies.
    """
    modules = family_of(config).names(state)
    theirs = {}
    for name, tensor in state.items():
        module, _, kind = name.rpartition(".")
        parts = modules[module]
        for part, value in zip(parts, tensor.detach().chunk(len(parts))):
            theirs[f"{part}.{kind}"] = value.clone().contiguous()
    return theirs


def from_hf(theirs: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The inverse of `to_hf`: what `Encoder.load_state_dict` takes, which refuses what is missing.

    Args:
        theirs: the state dict of a `BertForPreTraining` or `AlbertForPreTraining`, or what its
            safetensors file holds.
        config: of the encoder.

    Raises:
        ValueError: naming a tensor that an `Encoder` has no place for.
    """
    family = family_of(config)
    left = set(theirs) - family.tied
    ours = {}
    for module, parts in family.names(theirs).items():
        for kind in ("weight", "bias"):
            names = [f"{part}.{kind}" for part in parts]
            if left.issuperset(names):
                ours[f"{module}.{kind}"] = torch.cat([theirs[name].detach() for name in names])
                left.difference_update(names)
    if left:
        raise ValueError(f"{min(left)} is no tensor of {family.architecture}")
    return ours


def config_to_hf(config: ModelConfig, depth: int, pad_token_id: int = 0) -> dict[str, Any]:
    """What config.json says of a model of `depth` layers, which may be fewer than the config's."""
    family, shape = family_of(config), asdict(config)
    for key in ("initializer", "embedding_size", "num_hidden_groups"):
        del shape[key]
    shared = {
        "embedding_size": config.embedding_size,
        "num_hidden_groups": config.blocks(depth),
        "inner_group_num": 1,
        "classifier_dropout_prob": config.hidden_dropout_prob,  # as a BERT's classifier has it
        "bos_token_id": None,
        "eos_token_id": None,
    }
    return {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        **shape,
        **(shared if family is ALBERT else {}),
        "num_hidden_layers": depth,
        "type_vocab_size": 2,
        "pad_token_id": pad_token_id,
        "tie_word_embeddings": True,
        "dtype": "float32",
    }


# Keys of config.json that change what a model computes, and the only values that ours has.
_ALIKE = {
    "position_embedding_type": "absolute",
    "inner_group_num": 1,
    "type_vocab_size": 2,
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
# What they call the two forms of gelu, of which each class has its own by default.
_ACTIVATIONS: dict[str, Literal["gelu", "gelu_new"]] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
}
_SHAPE = {
    "vocab_size": int,
    "hidden_size": int,
    "num_hidden_layers": int,
    "num_attention_heads": int,
    "intermediate_size": int,
    "max_position_embeddings": int,
}
_SHARED = {"embedding_size": int, "num_hidden_groups": int}  # of an ALBERT
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
    known = " or ".join(FAMILIES)
    if values.get("model_type") not in FAMILIES:
        raise ValueError(f"{where}: model_type is {values.get('model_type')!r}, not {known}")
    for key, allowed in _ALIKE.items():
        if values.get(key, allowed) != allowed:
            raise ValueError(f"{where}: {key} is {values[key]!r}; only {allowed!r} is known here")
    shape, default = dict(_SHAPE), "gelu"
    if FAMILIES[values["model_type"]] is ALBERT:
        shape, default = shape | _SHARED, "gelu_new"
        values = {"num_hidden_groups": 1, **values}
    more = {key: kind for key, kind in _MORE.items() if key in values}
    foreign.require(values, shape | more, where)
    act = values.get("hidden_act", default)
    if act not in _ACTIVATIONS:
        raise ValueError(f"{where}: hidden_act is {act!r}; only forms of gelu are known here")
    try:
        return ModelConfig(
            hidden_act=_ACTIVATIONS[act], **{key: values[key] for key in (*shape, *more)}
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


SAFE, BIN = "model.safetensors", "pytorch_model.bin"


def load(folder: Path, *, pickled: bool = False) -> tuple[Encoder, tuple[str, ...]]:
    """The model in a Hugging Face folder, in fp32, and its heads' tensors that are not there.

    A folder may hold all of a `BertForPreTraining` or `AlbertForPreTraining`, or lack some of the
    heads, or have others on top, as fine-tuning leaves them: those are passed over, and what is
    lacking begins as in a new model.

    Args:
        folder: config.json and model.safetensors.
        pickled: read pytorch_model.bin instead, of which torch takes tensors and nothing else.

    Raises:
        ValueError: it is no such folder, or its weights do not fit its config.
        OSError: it cannot be read.
    """
    where, file = folder / "config.json", folder / (BIN if pickled else SAFE)
    config = config_from_hf(foreign.read_json_object(where), str(where))
    if not file.is_file():
        hint = f"; mslt import --convert_bin reads {BIN}" if (folder / BIN).is_file() else ""
        raise ValueError(f"{folder} has no {file.name}{hint}")
    needs = parameters(config, config.num_hidden_layers) - head_parameters(config)
    if file.stat().st_size < 2 * needs:  # before so much memory is taken
        raise ValueError(f"{file} does not fit {where.name}, by which it has {needs:,} numbers")
    model = Encoder(config)
    wanted, family = to_hf(model.state_dict(), config), family_of(config)
    with (unpickled_weights if pickled else opened_safetensors)(file) as given:
        tensors = _read(file, given, wanted, family)
    fresh = tuple(name for name in wanted if name not in tensors)
    if lacking := [name for name in fresh if not name.startswith(family.heads)]:
        raise ValueError(f"{file} does not fit {where.name}: it lacks {lacking[0]}")
    model.load_state_dict(from_hf(wanted | tensors, config), strict=True)
    return model, fresh


def _read(
    file: Path, given: Mapping[str, Given], wanted: Mapping[str, Tensor], family: Family
) -> dict[str, Tensor]:
    """Those of the tensors wanted that a file has, of any floating-point type, in fp32.

    Raises:
        ValueError: naming one that has another shape, is not finite, or has no place in the model.
    """
    names = _names_today(given, family.body)
    for name in sorted(set(names) - set(wanted) - family.tied):
        if name.startswith(family.body) and not name.startswith(family.heads):
            raise ValueError(f"{file} has a tensor that the model has not, {names[name]}")
    tensors = {}
    for name in [name for name in wanted if name in names]:
        has, needs = given[names[name]], tuple(wanted[name].shape)
        if has.shape != needs or has.dtype not in NUMBERS.values():
            raise ValueError(
                f"{file} does not fit config.json: {names[name]} is {has.dtype} "
                f"{list(has.shape)}, not numbers {list(needs)}"
            )
        tensors[name] = has.read().float()
        if not torch.isfinite(tensors[name]).all():
            raise ValueError(f"{file} is damaged: a number in {names[name]} is not finite")
    return tensors


def _names_today(given: Iterable[str], body: str) -> dict[str, str]:
    """A file's names of tensors, by the names that transformers gives them today.

    Files made from TensorFlow's have gamma and beta; those of a bare encoder no prefix.
    """
    names = {}
    for name in given:
        today = name.replace("LayerNorm.gamma", "LayerNorm.weight")
        names[today.replace("LayerNorm.beta", "LayerNorm.bias")] = name
    if not any(name.startswith(body) for name in names):
        names = {f"{body}{name}": given for name, given in names.items()}
    return names
