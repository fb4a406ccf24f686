"""Hugging Face's model beside ours: the same weights and the same inputs."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForPreTraining, PreTrainedModel

from mslt.config import ModelConfig
from mslt.huggingface import config_to_hf, family_of, from_hf
from mslt.model import Encoder
from mslt.objective import Inputs

DROPOUT_OFF = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def shape(layers: int = 3, width: int = 32, heads: int = 4, **more: Any) -> ModelConfig:
    return ModelConfig(
        vocab_size=101,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=3 * width,
        max_position_embeddings=24,
        **DROPOUT_OFF,
        **more,
    )


def their_model(config: ModelConfig, seed: int = 0) -> PreTrainedModel:
    """With random biases and LayerNorms too: zeros and ones would hide a wrong mapping."""
    model = AutoModelForPreTraining.from_config(
        AutoConfig.for_model(**config_to_hf(config, config.num_hidden_layers))
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.1, generator=generator)
            if name.lower().endswith(("layernorm.weight", "layer_norm.weight")):
                parameter += 1
    return model.eval()


def our_model(theirs: PreTrainedModel, config: ModelConfig) -> Encoder:
    model = Encoder(config)
    model.load_state_dict(from_hf(theirs.state_dict(), config), strict=True)
    return model


def some_inputs(padded: bool = False, seed: int = 1) -> Inputs:
    """Four sequences of 20 tokens with 5 prediction slots, some of them without use."""
    B, L, M, V = 4, 20, 5, 101
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int, *size: int) -> Tensor:
        return torch.randint(low, high, size, generator=generator)

    lengths = torch.tensor([20, 13, 17, 8]) if padded else torch.full((B,), L)
    real = torch.arange(L) < lengths[:, None]
    used = torch.arange(M) < torch.tensor([5, 2, 3, 1])[:, None]
    positions = torch.stack([torch.randperm(7, generator=generator)[:M] + 1 for _ in range(B)])
    return Inputs(
        input_ids=draw(5, V, B, L) * real,
        segment_ids=(torch.arange(L) >= lengths[:, None] // 2).long() * real,
        seen=real if padded else None,
        masked_positions=positions * used,
        masked_ids=draw(5, V, B, M) * used,
        masked_weights=used.float(),
        pair_labels=torch.tensor([0, 1, 1, 0]),
        ids=np.arange(B),
    )


def call_theirs(model: PreTrainedModel, inputs: Inputs, **labels: Tensor) -> Any:
    return model(
        input_ids=inputs.input_ids,
        token_type_ids=inputs.segment_ids,
        attention_mask=None if inputs.seen is None else inputs.seen.long(),
        **labels,
    )


def their_labels(inputs: Inputs) -> Tensor:
    """[B, L] with -100 wherever nothing is to be predicted."""
    labels = torch.full_like(inputs.input_ids, -100)
    rows, slots = inputs.masked_weights.nonzero(as_tuple=True)
    labels[rows, inputs.masked_positions[rows, slots]] = inputs.masked_ids[rows, slots]
    return labels


def their_loss(model: PreTrainedModel, config: ModelConfig, inputs: Inputs) -> Any:
    """What they compute with labels for both heads."""
    pair = {family_of(config).pair_labels: inputs.pair_labels}
    return call_theirs(model, inputs, labels=their_labels(inputs), **pair)


def their_pair_logits(output: Any, config: ModelConfig) -> Tensor:
    return getattr(output, family_of(config).pair_logits)
