"""Attention distributions and hidden states of a model (the paper's section 3.1, Figures 2 and 3).

Shapes: N layers, B sequences, L length, D width, H heads, K width of a head. Layers and heads are
counted from 0 here, and from 1 in what people read ("L5 H4").

    model = open_model(Path("run")).model
    sentences = tokenised(["the cat sat on the mat ."], open_model(Path("run")).tokenizer)
    observed = observe(model, sentences)
    observed.weights_NBHLL[4, 0, 3]    # layer 5, head 4: row i says where token i looks
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mslt.config import InstanceConfig
from mslt.data import tokenizer as tokenizers
from mslt.data.instances import Instances
from mslt.data.store import TokenStore
from mslt.model import Attention, Encoder


@dataclass(frozen=True)
class Sentences:
    """Sequences that a model is shown, without masks.

    Args:
        ids_BL: pieces, padding at the end: int64.
        segments_BL: 0 and, in a second segment, 1: int64.
        lengths: tokens of each that are not padding.
        tokens: those tokens as text.
    """

    ids_BL: Tensor
    segments_BL: Tensor
    lengths: list[int]
    tokens: list[list[str]]

    @classmethod
    def of(cls, ids: Sequence[list[int]], tokens: list[list[str]], pad: int) -> "Sentences":
        """Sequences of one segment each, padded to the longest.

        Args:
            ids: pieces of each, [CLS] and [SEP] among them.
            tokens: the same as text.
            pad: the id of padding.
        """
        lengths = [len(one) for one in ids]
        padded = [one + [pad] * (max(lengths) - len(one)) for one in ids]
        ids_BL = torch.tensor(padded)
        return cls(ids_BL, torch.zeros_like(ids_BL), lengths, tokens)

    @property
    def seen_BL(self) -> Tensor:
        """True for tokens, False for padding."""
        return torch.arange(self.ids_BL.shape[1]) < torch.tensor(self.lengths)[:, None]

    def __getitem__(self, part: slice) -> "Sentences":
        """Some of them, without columns that none of them needs."""
        longest = max(self.lengths[part])
        ids_BL, segments_BL = (all_BL[part, :longest] for all_BL in (self.ids_BL, self.segments_BL))
        return Sentences(ids_BL, segments_BL, self.lengths[part], self.tokens[part])


@dataclass(frozen=True)
class Observed:
    """What a model did with sequences, in fp32.

    Args:
        weights_NBHLL: attention, [N, B, H, L, L]: each row sums to 1; columns of padding are 0.
        hidden_NBLD: hidden states, [N + 1, B, L, D]: of the embeddings, then of each layer.
    """

    weights_NBHLL: Tensor
    hidden_NBLD: Tensor


def tokenised(texts: Sequence[str], tokenizer: Path, longest: int = 128) -> Sentences:
    """Texts as sequences [CLS] text [SEP].

    Args:
        texts: one or more; each is one segment.
        tokenizer: a folder, as `mslt.pretrained.Pretrained` names it.
        longest: tokens, [CLS] and [SEP] among them; what is longer is cut.

    Raises:
        ValueError: no text, one without a token, or a tokenizer that cannot be read.
    """
    if not texts:
        raise ValueError("there is no text to look at")
    encoder = tokenizers.given(tokenizer)
    encoder.enable_truncation(longest)
    encoded = [encoder.encode(text) for text in texts]
    for text, one in zip(texts, encoded):
        if len(one.ids) < 3:
            raise ValueError(f"there is no token in the text {text!r}")
    return Sentences.of(
        [one.ids for one in encoded],
        [list(one.tokens) for one in encoded],
        encoder.get_vocab()["[PAD]"],
    )


def held_out(
    store: TokenStore,
    count: int,
    longest: int = 128,
    config: InstanceConfig = InstanceConfig(),  # noqa: B008 (it is frozen)
    seed: int = 0,
) -> Sentences:
    """Sequences of a store's held-out text as training makes them, but without masks.

    Args:
        store: the token store.
        count: sequences, drawn evenly over the text.
        longest: tokens of each.
        config: how sentences become sequences: pairs of segments or not.
        seed: of the draw.

    Raises:
        ValueError: too little text.
    """
    tokenizer = tokenizers.load(store.path / "tokenizer")
    vocabulary = tokenizers.read_vocabulary(store.path / "tokenizer")
    batch = Instances(store.heldout, config, vocabulary, seed, count).batch(0, longest)
    ids_BL = batch.input_ids.copy()
    row, slot = batch.masked_weights.nonzero()
    ids_BL[row, batch.masked_positions[row, slot]] = batch.masked_ids[row, slot]
    lengths = batch.lengths.tolist()
    tokens = [
        [str(tokenizer.id_to_token(i)) for i in ids[:length]]
        for ids, length in zip(ids_BL.tolist(), lengths)
    ]
    return Sentences(
        torch.from_numpy(ids_BL), torch.from_numpy(batch.token_type_ids), lengths, tokens
    )


@torch.no_grad()
def observe(model: Encoder, sentences: Sentences) -> Observed:
    """Attention and hidden states of every layer, without dropout.

    Of layers that share a block (ALBERT) each is observed by itself.

    Raises:
        ValueError: the sequences are longer than the model's positions, or have ids that it
            does not know.
    """
    config = model.config
    if sentences.ids_BL.shape[1] > config.max_position_embeddings:
        raise ValueError(
            f"{sentences.ids_BL.shape[1]} tokens are more than the model's "
            f"{config.max_position_embeddings} positions"
        )
    if int(sentences.ids_BL.max()) >= config.vocab_size:
        raise ValueError(
            f"the tokens are of another vocabulary: the model's has {config.vocab_size}"
        )
    training, seen_BL = model.training, sentences.seen_BL
    model.eval()
    try:
        x_BLD = model.bottom(sentences.ids_BL, sentences.segments_BL, seen_BL)
        weights, hidden = [], [x_BLD]
        for block in model.layers(0, model.depth):
            weights.append(weights_of(block.attention, x_BLD, seen_BL))  # type: ignore[arg-type]
            x_BLD = block(x_BLD, seen_BL)
            hidden.append(x_BLD)
    finally:
        model.train(training)
    return Observed(torch.stack(weights), torch.stack(hidden))


def weights_of(attention: Attention, x_BLD: Tensor, seen_BL: Tensor) -> Tensor:
    """softmax(q k' / sqrt(K)) of a layer whose input is x: [B, H, L, L].

    The fast path never holds it whole, so it is made here from the layer's own weights.
    """
    D = x_BLD.shape[-1]
    qk = F.linear(x_BLD, attention.qkv.weight[: 2 * D], attention.qkv.bias[: 2 * D])
    q, k = (p.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for p in qk.split(D, dim=-1))
    scores_BHLL = q @ k.mT / q.shape[-1] ** 0.5
    return scores_BHLL.masked_fill(~seen_BL[:, None, None, :], -torch.inf).softmax(-1)
