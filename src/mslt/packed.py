"""Fixed layers whose weights were brought into the form that their products want, once a stage."""

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mslt.fused import Ragged, attention
from mslt.kernels import Kernels
from mslt.model import Block

# The largest number in 8 bits with 4 of exponent and 3 of mantissa.
E4M3_MOST = 448.0


class PackedBlock(nn.Module):
    """A fixed layer without dropout.

    Args:
        block: the layer.
        product: makes of a linear layer what multiplies in its place.
        kernels: of the type of its inputs, if any.
    """

    def __init__(
        self,
        block: Block,
        product: "Callable[[nn.Linear], Bf16Product | Int8Product | Fp8Product]",
        kernels: Kernels | None = None,
    ) -> None:
        super().__init__()
        attention, mlp = block.attention, block.mlp
        self.heads = attention.heads
        self.qkv, self.out = product(attention.qkv), product(attention.out)
        self.up = product(mlp.up)
        self.down = (
            Fp8Product(mlp.down, _most_after_gelu(block))
            if product is Fp8Product
            else product(mlp.down)
        )
        self.gelu = mlp.gelu
        self.compiles = product is Fp8Product
        self.kernels = kernels
        norms = (copy.deepcopy(norm) for norm in (attention.norm, mlp.norm))
        on_cpu = mlp.up.weight.device.type == "cpu"
        self.norms = nn.ModuleList(n.float() if on_cpu else n.bfloat16() for n in norms)

    def forward(self, x: Tensor, seen: Tensor | Ragged | None) -> Tensor:
        """Same shape: [B, L, D], or [T, D] of ragged sequences."""
        mixed = attention(None, self.qkv(x), self.heads, seen, 0.0, self.kernels)
        x = self.norms[0](self.out.onto(x, mixed))
        after: Tensor = self.norms[1](self.down.onto(x, self.up(x, self.gelu)))
        return after


def _through(gelu: str | None) -> tuple[str, list[float], str]:
    """What oneDNN is told to apply to a product: GELU of that name, if any."""
    return ("none", [], "") if gelu is None else ("gelu", [], gelu)


class Bf16Product:
    """A fixed linear layer in bf16 on a CPU, packed for oneDNN, which adds the bias and a residual
    and applies GELU as it writes a product.
    """

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
    """A fixed linear layer on a CPU; products are of 8-bit integers, the output is of x's dtype.

    Weights are scaled row by row and packed once; each call scales its input by its range.

    Args:
        linear: the layer.
        kernels: of the type of its inputs, if any.
    """

    def __init__(self, linear: nn.Linear, kernels: Kernels | None = None) -> None:
        self._kernels = kernels
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
        if self._kernels is not None and x.dtype == self._kernels.dtype:
            return *self._kernels.quantize(x.contiguous(), self._most), self._most + 1
        low, high = torch.aminmax(x)
        scale = max(-float(low), float(high), 1e-12) / self._most
        zero = self._most + 1
        signed = (x * (1 / scale)).round_().to(torch.int8)
        return signed.view(torch.uint8).add_(zero), scale, zero


class Fp8Product(nn.Module):
    """A fixed linear layer on a GPU whose products are of 8-bit floats, and its output in bf16.

    Weights are scaled row by row, and inputs too, unless it is known how large they may be. A
    compiler makes scaling a part of what comes before.

    Args:
        linear: the layer.
        most: the largest that an input can be; None to look for it in each row.
    """

    weight: Tensor
    scales: Tensor
    bias: Tensor
    most: Tensor | None

    def __init__(self, linear: nn.Linear, most: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("most", most, persistent=False)
        eighth, scales = _in_eight_bits(linear.weight.detach())
        self.register_buffer("weight", eighth, persistent=False)
        self.register_buffer("scales", scales.mT.contiguous(), persistent=False)
        self.register_buffer("bias", linear.bias.detach().bfloat16(), persistent=False)

    def forward(self, x: Tensor, gelu: str | None = None) -> Tensor:
        """[..., out] for [..., in]; through the GELU of that name, if any."""
        eighth, scales = _in_eight_bits(x.flatten(0, -2), self.most)
        y = torch._scaled_mm(
            eighth,
            self.weight.mT,
            scale_a=scales,
            scale_b=self.scales,
            bias=self.bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        ).view(*x.shape[:-1], -1)
        return y if gelu is None else F.gelu(y, approximate=gelu)

    def onto(self, residual: Tensor, x: Tensor) -> Tensor:
        """residual + the layer's output."""
        return residual + self(x)


def _in_eight_bits(x_NI: Tensor, most: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Rows as 8-bit floats, and what one is worth in each row [N, 1]."""
    if most is None:
        most_N1 = x_NI.abs().amax(1, keepdim=True).float().clamp(min=1e-12)
    else:
        most_N1 = most.repeat(len(x_NI), 1)
    # To multiply takes a fraction of what to divide does.
    return (x_NI.float() * (E4M3_MOST / most_N1)).to(torch.float8_e4m3fn), most_N1 / E4M3_MOST


def _most_after_gelu(block: Block) -> Tensor:
    """The largest [1] that the feed-forward part's inner values can be, whatever the text.

    A row that LayerNorm puts out, before its weight and bias, has the norm sqrt(D), so that its
    product with a row of weights is at most the product of the norms (Cauchy and Schwarz). That is
    some 30 times what it is as a rule; 8-bit floats lose nothing by that, and 3,072 values need not
    be read twice for their largest.
    """
    norm, up = block.attention.norm, block.mlp.up
    gain, shift, weight, bias = (
        p.detach().float() for p in (norm.weight, norm.bias, up.weight, up.bias)
    )
    reach = (weight * gain).norm(dim=1) * math.sqrt(weight.shape[1])
    most = (reach + weight @ shift + bias).amax().clamp(min=1.0)[None]
    return 1.2 * most  # what is multiplied is rounded to 3 bits on both sides, and to bf16
