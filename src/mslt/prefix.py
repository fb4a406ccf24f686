"""The forward-only layers of a stage: run without gradients, and faster than the layers that learn.

They are fixed for the whole stage, so what they compute may be prepared once. `exact` runs the
model's own layers, dropout included: the same mathematics as a backward pass that stops above them.
The fast kinds leave dropout out and multiply in fewer bits: in bf16 on a GPU and on a CPU that is
fast at it; or, on x86 CPUs, with weights in int8, scaled row by row, and activations in 8 bits (7
without VNNI), scaled as they come. What that does to the loss is measured in docs/log.md.
"""

import copy
import warnings
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from mslt.attention import attend
from mslt.machine import has_onednn_bf16, multiplies_bf16_fast, multiplies_int8
from mslt.model import Block, Encoder
from mslt.objective import Inputs

Kind = Literal["exact", "fp32", "bf16", "int8"]

# What the layers of each kind take and give.
_INSIDE = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.float32}

# Width from which layers in int8 are faster than in bf16 on a CPU with VNNI that is fast at both:
# at 256, 512 and 768 they take 1.2, 0.8 and 0.65 times as long (Zen 4; docs/log.md).
WIDE = 512


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
        self.dtype = model.dtype
        self.width = model.config.hidden_size
        self.embeddings = model.embeddings
        self.repeat = model.config.repeat
        fixed = model.blocks[: model.config.blocks(layers)]
        self.blocks = nn.ModuleList(_prepared(cast(Block, block), kind) for block in fixed)

    @torch.no_grad()
    def __call__(self, inputs: Inputs) -> Tensor:
        """Output of the highest of the layers, in the dtype of those that learn: [B, L, D]."""
        return self.through(inputs, None, 0, self.layers).to(self.dtype)

    @torch.no_grad()
    def through(self, inputs: Inputs, x_BLD: Tensor | None, start: int, stop: int) -> Tensor:
        """Output of the layers from `start` up to `stop`, in the dtype they compute in: [B, L, D].

        Args:
            inputs: the tokens.
            x_BLD: output of the layers below `start`; None where that is 0, for the embeddings'.
            start: layers that are passed already.
            stop: layers that are passed then.
        """
        for module in (self.embeddings, self.blocks):
            module.train(self.kind == "exact")
        if x_BLD is None:
            x_BLD = self.embeddings(inputs.input_ids, inputs.segment_ids)
        x_BLD = x_BLD.to(_INSIDE.get(self.kind, self.dtype))
        for layer in range(start, stop):
            x_BLD = self.blocks[layer // self.repeat](x_BLD, inputs.seen)
        return x_BLD


def _prepared(block: Block, kind: Kind) -> nn.Module:
    """The layer itself, or a copy of it that computes in another way."""
    dtype = next(block.parameters()).dtype
    if kind == "exact" or (kind == "fp32" and dtype == torch.float32):
        return block
    if kind == "bf16" and block.mlp.up.weight.device.type == "cpu" and has_onednn_bf16():
        return PackedBlock(block)
    if kind != "int8":
        return block if dtype == _INSIDE[kind] else copy.deepcopy(block).to(_INSIDE[kind])
    quantized = copy.deepcopy(block)
    for module in list(quantized.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, Int8Linear(child))
    return quantized.float()


class PackedBlock(nn.Module):
    """A fixed layer in bf16 on a CPU, without dropout: weights packed once for oneDNN, which adds
    biases and residuals and applies GELU as it writes a product. A sixth faster than op by op.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        half = copy.deepcopy(block).bfloat16()
        self.heads = half.attention.heads
        self.gelu = half.mlp.gelu
        self.norms = half.attention.norm, half.mlp.norm
        linears = half.attention.qkv, half.attention.out, half.mlp.up, half.mlp.down
        self.packed = [
            (torch.ops.mkldnn._reorder_linear_weight(each.weight.detach()), each.bias.detach())
            for each in linears
        ]

    def forward(self, x_BLD: Tensor, seen_BL: Tensor | None) -> Tensor:
        """[B, L, D], the same shape as it is given."""
        qkv, out, up, down = self.packed
        one, plus = torch.ops.mkldnn._linear_pointwise, torch.ops.mkldnn._linear_pointwise.binary
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in one(x_BLD, *qkv, "none", [], "").chunk(3, -1)
        )
        mixed_BLD = attend(q, k, v, seen_BL, 0.0).transpose(1, 2).flatten(2)
        x_BLD = self.norms[0](plus(mixed_BLD, x_BLD, *out, "add"))
        inner = one(x_BLD, *up, "gelu", [], self.gelu)
        after: Tensor = self.norms[1](plus(inner, x_BLD, *down, "add"))
        return after


class Int8Linear(nn.Module):
    """A fixed linear layer whose products are of 8-bit integers.

    Weights are scaled row by row and packed once; each call scales its input by its range.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        torch.backends.quantized.engine = "onednn"
        weight = linear.weight.detach().float()
        scales = weight.abs().amax(1).clamp(min=1e-12) / 127
        zeros = torch.zeros(len(weight), dtype=torch.int64)
        with warnings.catch_warnings():
            # Quantized tensors are to leave torch after 2.13; the packed product here is the last
            # use of one, and the faster of those there are.
            warnings.simplefilter("ignore")
            integers = torch.quantize_per_channel(weight, scales.double(), zeros, 0, torch.qint8)
            self.packed = torch.ops.quantized.linear_prepack(integers, linear.bias.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        """[..., out] for [..., in], both fp32."""
        # Without VNNI, sums of two 8-bit products overflow 16 bits: the input then takes 7.
        narrow = not torch.cpu._is_vnni_supported()
        y: Tensor = torch.ops.quantized.linear_dynamic(x, self.packed, reduce_range=narrow)
        return y


def pick_kind(wanted: str, device: str, width: int) -> Kind:
    """How forward-only layers compute: `fast` is the fastest kind that the device has.

    Args:
        wanted: what the config says.
        device: where they run.
        width: of the model. Between products in int8, all else is in fp32, so that where bf16 is
            fast it takes a wide model for int8 to be faster.

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
