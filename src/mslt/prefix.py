"""The forward-only layers of a stage: run without gradients, and faster than the layers that learn.

They are fixed for the whole stage, so what they compute may be prepared once. `exact` runs the
model's own layers, dropout included: the same mathematics as a backward pass that stops above them.
The fast kinds leave dropout out and multiply in fewer bits: in bf16 on a GPU and on a CPU that is
fast at it; or, on x86 CPUs, with weights in int8, scaled row by row, and activations in 8 bits (7
without VNNI), scaled as they come. What that does to the loss is measured in docs/log.md.
"""

import copy
from collections.abc import Callable
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from mslt.attention import attend
from mslt.machine import has_onednn_bf16, multiplies_bf16_fast, multiplies_int8, side_by_side
from mslt.model import Block, Encoder
from mslt.objective import Inputs

Kind = Literal["exact", "fp32", "bf16", "int8"]
Seed = Callable[[int], None]

# Width from which layers in int8 are faster than in bf16 on a CPU with VNNI that is fast at both:
# at 64, 128, 256 and 768 they take 1.3, 1.05, 0.83 and 0.64 times as long (Zen 4; docs/log.md).
WIDE = 256

# Tokens that pass all of the layers in one thread before others do: what one operation puts out is
# then in the cache when the next one reads it. Best of 1,024 to all, by up to a quarter.
CACHED_TOKENS = 2048

# Width below which exact layers pass all sequences at once. Threads would mostly wait there for
# their turn in Python, which takes longer than an operation: in all 1.15 times as long at width 64.
NARROW = 128


class Prefix:
    """Embeddings and the lowest layers of a model, to be run forward only.

    Args:
        model: whose parameters below `layers` are fixed, and stay so while this lives.
        layers: how many run forward only; 0 makes it do nothing.
        kind: how they compute.
    """

    def __init__(self, model: Encoder, layers: int, kind: Kind) -> None:
        assert kind in get_args(Kind)
        self.layers = layers
        self.kind = kind
        self._parted = model.device.type == "cpu"
        self.dtype = model.dtype
        self.width = model.config.hidden_size
        self.embeddings = model.embeddings
        self.repeat = model.config.repeat
        # What the layers take and give; integers are what they multiply, and no more.
        self.inside = {"fp32": torch.float32, "bf16": torch.bfloat16}.get(kind, model.dtype)
        fixed = model.blocks[: model.config.blocks(layers)]
        self.blocks = nn.ModuleList(
            _prepared(cast(Block, block), kind, self.inside) for block in fixed
        )

    def compile(self) -> None:
        """Let those of the layers run compiled that are not what a compiler would make of them."""
        for block in self.blocks:
            if isinstance(block, Block):
                block.compile(dynamic=False)
                self._parted = False  # it uses all threads, and wants the same sizes each time

    def __call__(self, inputs: Inputs, seed: Seed | None = None) -> Tensor:
        """Output of the highest of the layers, in the dtype of those that learn: [B, L, D].

        Args:
            inputs: the tokens.
            seed: what `through` takes.
        """
        return self.through(inputs, None, 0, self.layers, seed).to(self.dtype)

    @torch.no_grad()
    def through(
        self,
        inputs: Inputs,
        x_BLD: Tensor | None,
        start: int,
        stop: int,
        seed: Seed | None = None,
    ) -> Tensor:
        """Output of the layers from `start` up to `stop`, in the dtype they compute in: [B, L, D].

        Args:
            inputs: the tokens.
            x_BLD: output of the layers below `start`; None where that is 0, for the embeddings'.
            start: layers that are passed already.
            stop: layers that are passed then.
            seed: seeds the dropout of exact layers for the sequences that pass together, by the
                number of the first; without it, all of them do.
        """
        for module in (self.embeddings, self.blocks):
            module.train(self.kind == "exact")

        @torch.no_grad()  # which each thread has of its own
        def work(first: int) -> Tensor:
            if seed is not None:
                seed(first)
            part = slice(first, first + size)
            x = None if x_BLD is None else x_BLD[part]
            return self._pass(inputs[part], x, start, stop)

        sequences = max(1, len(inputs.input_ids))
        drawing = self.kind == "exact" and seed is None
        size = sequences if drawing else self._at_once(inputs.input_ids)
        passed = side_by_side(work, range(0, sequences, size))
        return passed[0] if len(passed) == 1 else torch.cat(passed)

    def _at_once(self, ids_BL: Tensor) -> int:
        """Sequences that pass together, on a CPU as many as share its cache.

        So the number of threads decides nothing about dropout or int8's scales, which are of the
        sequences together.
        """
        sequences, length = ids_BL.shape
        narrow = self.kind == "exact" and self.width < NARROW
        whole = narrow or not self._parted
        return max(1, sequences if whole else CACHED_TOKENS // length)

    def _pass(self, inputs: Inputs, x_BLD: Tensor | None, start: int, stop: int) -> Tensor:
        if x_BLD is None:
            x_BLD = self.embeddings(inputs.input_ids, inputs.segment_ids)
        x_BLD = x_BLD.to(self.inside)
        for layer in range(start, stop):
            x_BLD = self.blocks[layer // self.repeat](x_BLD, inputs.seen)
        return x_BLD


def _prepared(block: Block, kind: Kind, inside: torch.dtype) -> nn.Module:
    """The layer itself, or a copy of it that computes in another way."""
    weight = block.mlp.up.weight
    if kind == "int8":
        return PackedBlock(block, Int8Product)
    if kind == "bf16" and weight.device.type == "cpu" and has_onednn_bf16():
        return PackedBlock(block, Bf16Product)
    return block if weight.dtype == inside else copy.deepcopy(block).to(inside)


class PackedBlock(nn.Module):
    """A fixed layer on a CPU, without dropout: weights packed once for oneDNN, which adds biases
    and residuals and applies GELU as it writes a product.

    Args:
        block: the layer.
        product: makes of a linear layer what multiplies in its place.
    """

    def __init__(self, block: Block, product: "type[Bf16Product | Int8Product]") -> None:
        super().__init__()
        attention, mlp = block.attention, block.mlp
        self.heads = attention.heads
        self.qkv, self.out = product(attention.qkv), product(attention.out)
        self.up, self.down = product(mlp.up), product(mlp.down)
        self.gelu = mlp.gelu
        self.norms = nn.ModuleList(
            copy.deepcopy(norm).float() for norm in (attention.norm, mlp.norm)
        )

    def forward(self, x_BLD: Tensor, seen_BL: Tensor | None) -> Tensor:
        """[B, L, D], the same shape as it is given."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(x_BLD).chunk(3, -1)
        )
        mixed_BLD = attend(q, k, v, seen_BL, 0.0).transpose(1, 2).flatten(2)
        x_BLD = self.norms[0](self.out.onto(x_BLD, mixed_BLD))
        after: Tensor = self.norms[1](self.down.onto(x_BLD, self.up(x_BLD, self.gelu)))
        return after


def _through(gelu: str | None) -> tuple[str, list[float], str]:
    """What oneDNN is told to apply to a product: GELU of that name, if any."""
    return ("none", [], "") if gelu is None else ("gelu", [], gelu)


class Bf16Product:
    """A fixed linear layer in bf16."""

    def __init__(self, linear: nn.Linear) -> None:
        weight, bias = (p.detach().bfloat16() for p in (linear.weight, linear.bias))
        self._fixed = torch.ops.mkldnn._reorder_linear_weight(weight), bias

    def __call__(self, x: Tensor, gelu: str | None = None) -> Tensor:
        """[..., out] for [..., in], both bf16; through the GELU of that name, if any."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, *self._fixed, *_through(gelu))
        return y

    def onto(self, residual: Tensor, x: Tensor) -> Tensor:
        """residual + the layer's output."""
        plus = torch.ops.mkldnn._linear_pointwise.binary
        y: Tensor = plus(x, residual, *self._fixed, "add")
        return y


class Int8Product:
    """A fixed linear layer whose products are of 8-bit integers, and its output of x's dtype.

    Weights are scaled row by row and packed once; each call scales its input by its range.
    """

    def __init__(self, linear: nn.Linear) -> None:
        weight = linear.weight.detach().float()
        scales = weight.abs().amax(1).clamp(min=1e-12) / 127
        integers = (weight / scales[:, None]).round().to(torch.int8)
        packed = torch.ops.onednn.qlinear_prepack(integers, None)
        zeros = torch.zeros(len(weight), dtype=torch.int64)
        self._fixed = packed, scales, zeros
        self._bias = linear.bias.detach().float()
        # Without VNNI, sums of two 8-bit products overflow 16 bits: the input then takes 7.
        self._most = 127 if torch.cpu._is_vnni_supported() else 63

    def __call__(self, x: Tensor, gelu: str | None = None) -> Tensor:
        """[..., out] for [..., in]; through the GELU of that name, if any."""
        multiply, after = torch.ops.onednn.qlinear_pointwise, (1.0, 0, x.dtype, *_through(gelu))
        y: Tensor = multiply(*self._integers(x), *self._fixed, self._bias, *after)
        return y

    def onto(self, residual: Tensor, x: Tensor) -> Tensor:
        """residual + the layer's output."""
        plus = torch.ops.onednn.qlinear_pointwise.binary
        after = 1.0, 0, x.dtype, 1.0, 0, "add", 1.0, *_through(None)
        y: Tensor = plus(*self._integers(x), *self._fixed, residual, self._bias, *after)
        return y

    def _integers(self, x: Tensor) -> tuple[Tensor, float, int]:
        """x as unsigned bytes, what one of them is worth, and which of them is zero."""
        low, high = torch.aminmax(x)
        scale = max(-float(low), float(high), 1e-12) / self._most
        zero = self._most + 1
        signed = (x * (1 / scale)).round_().to(torch.int8)
        return signed.view(torch.uint8).add_(zero), scale, zero


def pick_kind(wanted: str, device: str, width: int) -> Kind:
    """How forward-only layers compute: `fast` is the fastest kind that the device has.

    Args:
        wanted: what the config says.
        device: where they run.
        width: of the model. Where bf16 is fast, it takes a wide one for int8 to be faster.

    Raises:
        ValueError: int8 is asked for where torch has no int8 products.
    """
    int8 = device == "cpu" and multiplies_int8()
    if wanted == "int8" and not int8:
        raise ValueError("prefix int8 needs an x86 CPU; on a GPU the fast kind is bf16")
    if wanted != "fast":
        return wanted  # type: ignore[return-value]  # the config has checked it
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if multiplies_bf16_fast():
        vnni = torch.cpu._is_vnni_supported() and not torch.cpu._is_amx_tile_supported()
        return "int8" if int8 and vnni and width >= WIDE else "bf16"
    return "int8" if int8 else "fp32"
