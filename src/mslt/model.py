"""BERT and ALBERT, written for pre-training: fused QKV, logits at masked positions only.

Shapes: B sequences, L length, R rows of a sequence that are needed, M masked positions, D width,
E width of the embeddings, H heads, K width of a head, V vocabulary. Weights and losses equal those
of Hugging Face's `BertForPreTraining` and `AlbertForPreTraining` (see `huggingface.py`).

BERT is ALBERT of which every block is one layer, and E is D. An ALBERT's block is several layers in
a row, which share its weights, and a matrix brings the embeddings to the layers' width.

The model knows nothing of stages or freezing. Its forward-only layers cost no backward pass
because no tensor that enters them asks for a gradient: autograd then saves nothing for them.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mslt import initial
from mslt.dropout import Dropout
from mslt.fused import Ragged, attention, gelu_of, normed_sum, ragged
from mslt.kernels import Kernels
from mslt.linear import Linear, linear
from mslt.masked_loss import Slopes
from mslt.norm import LayerNorm
from mslt.shape import ModelConfig

# What torch calls them.
GELU = {"gelu": "none", "gelu_new": "tanh"}


class Embeddings(nn.Module):
    """Token, position and segment embeddings, summed, normalised and as wide as the layers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.embedding_width
        self.token = nn.Embedding(config.vocab_size, width)
        self.position = nn.Embedding(config.max_position_embeddings, width)
        self.segment = nn.Embedding(2, width)
        self.norm = LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.project = Linear(width, config.hidden_size) if config.embedding_size else None

    def forward(self, input_ids_BL: Tensor, segment_ids_BL: Tensor) -> Tensor:
        """[B, L, D] of the tokens and the segment (0 or 1) that each belongs to."""
        position_LE = self.position.weight[: input_ids_BL.shape[1]]
        x_BLE = rows_of(self.token, input_ids_BL) + self._segments(segment_ids_BL) + position_LE
        x_BLE = self.dropout(self.norm(x_BLE))
        return x_BLE if self.project is None else self.project(x_BLE)

    def _segments(self, segment_ids_BL: Tensor) -> Tensor:
        """[B, L, E]. A GPU would add up an embedding's gradient row by row, for each of the two."""
        if segment_ids_BL.device.type == "cpu":
            return rows_of(self.segment, segment_ids_BL)
        first, second = self.segment.weight
        return torch.where(segment_ids_BL[..., None] == 0, first, second)


@torch.compiler.disable  # which would add up a gradient in another order at each run
def rows_of(embedding: nn.Embedding, ids_BL: Tensor) -> Tensor:
    """[B, L, E]: the rows that are looked up."""
    x_BLE: Tensor = embedding(ids_BL)
    return x_BLE


class Attention(nn.Module):
    """Multi-head self-attention, its residual and LayerNorm (post-LN, as in BERT)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.qkv = Linear(config.hidden_size, 3 * config.hidden_size)
        self.out = Linear(config.hidden_size, config.hidden_size)
        self.norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.weights_dropout_prob = config.attention_probs_dropout_prob
        self.kernels: Kernels | None = None

    def forward(self, x: Tensor, seen: Tensor | Ragged | None, rows_BR: Tensor | None) -> Tensor:
        """[B, R, D] for the rows that are asked for, or the shape of x for all of them."""
        D = x.shape[-1]
        queries_BRD = None
        if rows_BR is None:
            residual = x
            projected = self.qkv(x)
        else:
            residual = seen.take(x, rows_BR) if isinstance(seen, Ragged) else take_rows(x, rows_BR)
            queries_BRD = linear(residual, self.qkv.weight[:D], self.qkv.bias[:D])
            projected = linear(x, self.qkv.weight[D:], self.qkv.bias[D:])
        p = self.weights_dropout_prob if self.training else 0.0
        mixed = attention(queries_BRD, projected, self.heads, seen, p, self.kernels)
        return normed_sum(residual, self.out, mixed, self.dropout, self.norm, self.kernels)


class FeedForward(nn.Module):
    """The two-layer feed-forward part, its residual and LayerNorm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = Linear(config.hidden_size, config.intermediate_size)
        self.down = Linear(config.intermediate_size, config.hidden_size)
        self.norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.gelu = GELU[config.hidden_act]
        self.kernels: Kernels | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        inner = gelu_of(self.up, x, self.gelu, self.kernels)
        return normed_sum(x, self.down, inner, self.dropout, self.norm, self.kernels)


class Block(nn.Module):
    """One encoder layer, or several in a row that are the same."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.mlp = FeedForward(config)

    def forward(
        self, x: Tensor, seen: Tensor | Ragged | None = None, rows_BR: Tensor | None = None
    ) -> Tensor:
        """Keys and values come from all of x, the rest from the rows alone that are asked for.

        Args:
            x: [B, L, D], or [T, D] of ragged sequences.
            seen: True for tokens, False for padding [B, L]; None where nothing is padding; or what
                the sequences are.
            rows_BR: positions whose output is needed; None for all.

        Returns:
            [B, R, D] for the rows, else the shape of x.
        """
        return self.mlp(self.attention(x, seen, rows_BR))


def equip(modules: nn.Module, kernels: Kernels | None) -> None:
    """Let the layers among them compute what is between their products by these, or by none."""
    for module in modules.modules():
        if isinstance(module, Attention | FeedForward | Slopes):
            module.kernels = kernels


class Head(nn.Module):
    """The output layer, but for the output matrix, which is the token embedding."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.embedding_width
        self.transform = Linear(config.hidden_size, width)
        self.norm = LayerNorm(width, eps=config.layer_norm_eps)
        self.gelu = GELU[config.hidden_act]
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.pooler = Linear(config.hidden_size, config.hidden_size)
        self.pair = Linear(config.hidden_size, 2)
        self.slopes = Slopes()

    def transformed(self, x_BRD: Tensor) -> Tensor:
        """What the output matrix is multiplied with [B, R, E]."""
        return self.norm(F.gelu(self.transform(x_BRD), approximate=self.gelu))

    def mlm(self, x_BRD: Tensor, token_VE: Tensor) -> Tensor:
        """Logits over the vocabulary [B, R, V]."""
        hidden_BRE = self.transformed(x_BRD)
        return F.linear(hidden_BRE, token_VE[: len(self.bias)].to(hidden_BRE.dtype), self.bias)

    def next_sentence(self, cls_BD: Tensor) -> Tensor:
        """Logits [B, 2] of "B follows A" and "B does not"."""
        return self.pair(torch.tanh(self.pooler(cls_BD)))


class Encoder(nn.Module):
    """BERT or ALBERT with its pre-training heads, of `depth` layers.

    Args:
        config: the shape; its vocabulary must be known.
        depth: layers that stand, at most the config's. Default: all of them.
        seed: of the initial weights, which are truncated normal (Devlin et al. 2018).

    Raises:
        ValueError: no vocabulary, or a depth outside 1..N, or no whole number of blocks.
    """

    def __init__(self, config: ModelConfig, depth: int | None = None, seed: int = 0) -> None:
        super().__init__()
        depth = config.num_hidden_layers if depth is None else depth
        if not config.vocab_size:
            raise ValueError("model.vocab_size must be known before a model is built")
        if not 1 <= depth <= config.num_hidden_layers:
            raise ValueError(f"depth must be 1 to {config.num_hidden_layers}, not {depth}")
        self.config = config
        self.embeddings = Embeddings(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks(depth)))
        self.head = Head(config)
        self.output: nn.Parameter | None
        self.register_parameter("output", None)
        self._initialise(torch.Generator().manual_seed(seed))

    @property
    def depth(self) -> int:
        """Encoder layers that stand."""
        return len(self.blocks) * self.config.repeat

    @property
    def output_matrix(self) -> Tensor:
        """[V, E]: the token embedding, or the copy of it that stands for it in the output layer.

        On a GPU the copy has a few rows more, all zero, so that its products are of even sizes.
        """
        return self.embeddings.token.weight if self.output is None else self.output

    @property
    def dtype(self) -> torch.dtype:
        """What the layers compute in."""
        return next(self.blocks.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.blocks.parameters()).device

    @property
    def kernels(self) -> Kernels | None:
        """By which the layers compute what is between their products, if by any."""
        return cast(Block, self.blocks[0]).mlp.kernels

    def layers(self, start: int, stop: int) -> list[nn.Module]:
        """The blocks that the layers from `start` up to `stop` are, one for each layer."""
        return [self.blocks[layer // self.config.repeat] for layer in range(start, stop)]

    def _initialise(self, generator: torch.Generator) -> None:
        std = self.config.initializer_range
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(
                    module.weight, std=std, a=-2 * std, b=2 * std, generator=generator
                )
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        if self.config.initializer == "local":
            self._look_at_neighbours(std, generator)

    @torch.no_grad()
    def _look_at_neighbours(self, std: float, generator: torch.Generator) -> None:
        position_LE, project = self.embeddings.position.weight, self.embeddings.project
        length, narrow = position_LE.shape
        position_LE.copy_(initial.positions(length, narrow, std))
        width, heads = self.config.hidden_size, self.config.num_attention_heads
        frame_DE = None
        if project is not None:
            frame_DE = initial.frame(width, narrow, generator)
            project.weight.copy_(frame_DE * (width / narrow) ** 0.5)
        for name, weight in self.blocks.named_parameters():
            if name.endswith("qkv.weight"):
                local = initial.local_queries_and_keys(width, heads, generator, frame_DE)
                weight[: 2 * width] = local

    def bottom(
        self,
        input_ids_BL: Tensor,
        segment_ids_BL: Tensor,
        seen_BL: Tensor | None = None,
        layers: int = 0,
    ) -> Tensor:
        """Output of the embeddings and of the lowest `layers` layers, at every row: [B, L, D].

        Args:
            input_ids_BL: token ids.
            segment_ids_BL: 0 for the first segment, 1 for the second.
            seen_BL: True for tokens, False for padding; None where nothing is padding.
            layers: how many.
        """
        x_BLD = self.embeddings(input_ids_BL, segment_ids_BL)
        return through(self.layers(0, layers), x_BLD.to(self.dtype), seen_BL, self.kernels)

    def top(
        self,
        x_BLD: Tensor,
        seen_BL: Tensor | None = None,
        rows_BR: Tensor | None = None,
        layers: int = 0,
        *,
        recompute: bool = False,
    ) -> Tensor:
        """Output of the last layer: [B, R, D] at the rows asked for, else [B, L, D].

        Args:
            x_BLD: what `bottom` returned for as many `layers`, fewer than stand.
            seen_BL: as there.
            rows_BR: positions whose output is needed. The last layer is then computed for them
                alone, which changes no output: a row of it depends on the others only through
                its keys and values.
            layers: the lowest ones, which x has passed.
            recompute: keep of each layer its input alone, and compute it again in the backward
                pass: a third more work, for memory that hardly grows with the depth.
        """
        above = self.layers(layers, self.depth)
        return through(above, x_BLD, seen_BL, self.kernels, rows_BR=rows_BR, recompute=recompute)

    def hidden(
        self,
        input_ids_BL: Tensor,
        segment_ids_BL: Tensor,
        seen_BL: Tensor | None = None,
        rows_BR: Tensor | None = None,
    ) -> Tensor:
        """Output of the last layer, as `top` has it, for the tokens that `bottom` takes."""
        return self.top(self.bottom(input_ids_BL, segment_ids_BL, seen_BL), seen_BL, rows_BR)

    def forward(
        self,
        input_ids_BL: Tensor,
        segment_ids_BL: Tensor,
        seen_BL: Tensor | None,
        masked_BM: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Logits [B, M, V] at the masked positions, and [B, 2] of the next-sentence head."""
        x_BRD = self.hidden(input_ids_BL, segment_ids_BL, seen_BL, with_cls(masked_BM))
        mlm_BMV = self.head.mlm(x_BRD[:, 1:], self.output_matrix)
        return mlm_BMV, self.head.next_sentence(x_BRD[:, 0])


def through(
    layers: Sequence[nn.Module],
    x_BLD: Tensor,
    seen_BL: Tensor | None,
    kernels: Kernels | None,
    *,
    rows_BR: Tensor | None = None,
    recompute: bool = False,
) -> Tensor:
    """What layers make of x: [B, L, D]; or, at the rows asked for of the last one, [B, R, D].

    Where there are kernels padding does not go through them, and comes out as zeros.
    """
    if not layers:
        return x_BLD
    *middle, last = layers
    rows = ragged(x_BLD, seen_BL, kernels)
    seen, x = (seen_BL, x_BLD) if rows is None else (rows, rows.pack(x_BLD))
    for block in middle:
        x = checkpoint(block, x, seen, use_reentrant=False) if recompute else block(x, seen)
    x = last(x, seen) if rows_BR is None else last(x, seen, rows_BR)
    return x if rows is None or rows_BR is not None else rows.unpack(x)


def with_cls(masked_BM: Tensor) -> Tensor:
    """[B, 1 + M]: the rows that a loss reads, [CLS] and the masked ones."""
    return torch.cat([torch.zeros_like(masked_BM[:, :1]), masked_BM], 1)


def take_rows(x_BLD: Tensor, rows_BR: Tensor) -> Tensor:
    """[B, R, D]: the rows of each sequence that are asked for."""
    B, L, D = x_BLD.shape
    flat = rows_BR + torch.arange(0, B * L, L, device=rows_BR.device)[:, None]
    return x_BLD.reshape(B * L, D)[flat]
