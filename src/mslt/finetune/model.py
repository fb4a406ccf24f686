"""A pre-trained encoder with a head for a task, and how it is written for Hugging Face.

Shapes: B sequences, L length, D width, C classes. What is written loads in
`AutoModelForSequenceClassification` or `AutoModelForQuestionAnswering`, with the same logits.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mslt.checkpoint import write_file
from mslt.data.tokenizer import read_vocabulary
from mslt.dropout import Dropout
from mslt.huggingface import config_to_hf, family_of, to_hf
from mslt.model import Encoder
from mslt.pretrained import open_model
from mslt.shape import ModelConfig
from mslt.weights import opened_safetensors

DROPOUT = 0.1  # everywhere, as in Devlin et al. 2018, whatever the pre-training had


class SentenceHead(nn.Module):
    """The pooler's output of [CLS], dropped out, to C classes or one number."""

    def __init__(self, config: ModelConfig, classes: int) -> None:
        super().__init__()
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = Dropout(DROPOUT)
        self.classifier = nn.Linear(config.hidden_size, classes)

    def forward(self, cls_BD: Tensor) -> Tensor:
        """Logits [B, C]."""
        return self.classifier(self.dropout(torch.tanh(self.pooler(cls_BD))))


class SpanHead(nn.Module):
    """How much each token is the first, and the last, of an answer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.classifier = nn.Linear(config.hidden_size, 2)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Logits of both [B, L, 2]."""
        return self.classifier(x_BLD)


class TaskModel(Encoder):
    """An encoder whose output layer is a task's.

    Args:
        pretrained: what it begins as; left as it is.
        classes: of a task of sentences, 1 for a number; None for spans.
        seed: of the new head's weights, which are normal as in Devlin et al. 2018.
    """

    head: SentenceHead | SpanHead  # type: ignore[assignment]

    def __init__(self, pretrained: Encoder, classes: int | None, seed: int = 0) -> None:
        config = replace(
            pretrained.config,
            hidden_dropout_prob=DROPOUT,
            attention_probs_dropout_prob=DROPOUT,
        )
        super().__init__(config, pretrained.depth)
        self.load_state_dict(pretrained.state_dict())
        pooler = self.head.pooler
        self.head = SpanHead(config) if classes is None else SentenceHead(config, classes)
        if isinstance(self.head, SentenceHead):
            self.head.pooler = pooler  # type: ignore[assignment]
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.head.classifier.weight, std=0.02, generator=generator)
        nn.init.zeros_(self.head.classifier.bias)

    def logits(self, ids_BL: Tensor, segments_BL: Tensor, seen_BL: Tensor | None) -> Tensor:
        """[B, C] of sentences, or [B, L, 2] of spans, in fp32."""
        x_BLD = self.bottom(ids_BL, segments_BL, seen_BL)
        if isinstance(self.head, SpanHead):
            return self.head(self.top(x_BLD, seen_BL)).float()
        first_B1 = torch.zeros_like(ids_BL[:, :1])  # of the last layer only [CLS] is needed
        return self.head(self.top(x_BLD, seen_BL, first_B1)[:, 0]).float()


def write(folder: Path, model: TaskModel, tokenizer: Path, labels: tuple[str, ...] = ()) -> None:
    """Fill a folder that stands with what `transformers` loads.

    Args:
        folder: to fill.
        model: fine-tuned, fp32.
        tokenizer: folder of its tokenizer.
        labels: names of the classes; none for a number or spans.
    """
    config, family = model.config, family_of(model.config)
    spans = isinstance(model.head, SpanHead)
    state = model.state_dict()
    body = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    tensors = to_hf(body, config)
    for kind in ("weight", "bias"):
        theirs = "qa_outputs" if spans else "classifier"
        tensors[f"{theirs}.{kind}"] = state[f"head.classifier.{kind}"].detach().clone()
        if not spans:
            pooler = family.modules["head.pooler"][0]
            tensors[f"{pooler}.{kind}"] = state[f"head.pooler.{kind}"].detach().clone()
    kind = "QuestionAnswering" if spans else "SequenceClassification"
    told = config_to_hf(config, model.depth, read_vocabulary(tokenizer).pad)
    told["architectures"] = [family.architecture.replace("PreTraining", kind)]
    if not spans:
        told |= _classes(labels)
    write_file(folder / "model.safetensors", tensors)
    write_file(folder / "config.json", (json.dumps(told, indent=2) + "\n").encode())
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        if (tokenizer / name).is_file():
            write_file(folder / name, (tokenizer / name).read_bytes())


def read(folder: Path) -> TaskModel:
    """A model that `write` wrote.

    Raises:
        ValueError: the folder holds none, or it is damaged.
        OSError: it cannot be read.
    """
    pretrained = open_model(folder).model
    file = folder / "model.safetensors"
    with opened_safetensors(file) as given:
        theirs = "qa_outputs" if "qa_outputs.weight" in given else "classifier"
        names = [f"{theirs}.{kind}" for kind in ("weight", "bias")]
        for name in names:
            if name not in given:
                raise ValueError(f"{file} has no {name}: it is no fine-tuned model")
        weight, bias = (given[name].read().float() for name in names)
    spans = theirs == "qa_outputs"
    if weight.shape[1:] != (pretrained.config.hidden_size,) or bias.shape != weight.shape[:1]:
        raise ValueError(f"{file} does not fit config.json: {names[0]} is {list(weight.shape)}")
    model = TaskModel(pretrained, None if spans else len(weight))
    model.head.classifier.load_state_dict({"weight": weight, "bias": bias})
    return model


def _classes(labels: tuple[str, ...]) -> dict[str, Any]:
    """What config.json says of the answers."""
    if not labels:
        return {"id2label": {"0": "score"}, "label2id": {"score": 0}, "problem_type": "regression"}
    return {
        "id2label": {str(i): name for i, name in enumerate(labels)},
        "label2id": {name: i for i, name in enumerate(labels)},
        "problem_type": "single_label_classification",
    }
