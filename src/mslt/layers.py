"""Fixed layers on a CPU that multiplies tiles (AMX), all of them in one call: `layers.c`.

Shapes: B sequences, L length, D width.

From operation to operation a layer's numbers leave the core's cache, and what torch and Python do
between two of them takes as long as either. Here each thread brings a few sequences through all of
the layers.
"""

from collections.abc import Sequence
from ctypes import Structure, byref, c_float, c_int, c_long, c_void_p

import torch
from torch import Tensor, nn

from mslt.kernels import Dropping, Kernels, check, dropping
from mslt.model import Block
from mslt.shape import ModelConfig

# Rows that pass a layer at once, unless a sequence is longer.
TOGETHER = 256

EDGE = 32  # of the squares that are multiplied, which divides the sides of every product

_LINEARS = ("qkv", "out", "up", "down")


class _Linear(Structure):
    _fields_ = (("weight", c_void_p), ("bias", c_void_p), ("scales", c_void_p))


class _Layer(Structure):
    _fields_ = (
        *((name, _Linear) for name in _LINEARS),
        ("weights", c_void_p * 2),
        ("shifts", c_void_p * 2),
        ("eps", c_float),
        ("of_weights", Dropping),
        ("of_sums", Dropping * 2),
    )


class _Sizes(Structure):
    _fields_ = (*((name, c_long) for name in "DHLI"), ("by_tanh", c_int))


class Layers:
    """Fixed layers, packed once.

    Args:
        blocks: one for each layer; several may be the same.
        kernels: in whose library the function is, for numbers in bf16.
        int8: whether to multiply in 8 bits: weights and what they are multiplied with as signed
            integers, scaled row by row.
    """

    def __init__(self, blocks: Sequence[Block], kernels: Kernels, *, int8: bool = False) -> None:
        self._blocks = list(blocks)
        self._kernels = kernels
        self._int8 = int8
        self._kept: list[Tensor] = []
        made = {block: self._layer(block) for block in dict.fromkeys(self._blocks)}
        self._layers = [made[block] for block in self._blocks]

    @staticmethod
    def fit(model: ModelConfig, kernels: Kernels | None, *, int8: bool = False) -> bool:
        """Whether a model's layers can be passed so, and faster than otherwise."""
        width, inner = model.hidden_size, model.intermediate_size
        deep = 2 * EDGE if int8 else EDGE  # sides along which is added up
        odd = inner % deep or width % deep or width // model.num_attention_heads % EDGE
        return kernels is not None and kernels.tiles and not odd

    def _layer(self, block: Block) -> _Layer:
        attention, mlp = block.attention, block.mlp
        layer = _Layer(eps=attention.norm.eps)
        for name, linear in zip(_LINEARS, (attention.qkv, attention.out, mlp.up, mlp.down)):
            setattr(layer, name, self._linear(linear))
        for at, norm in enumerate((attention.norm, mlp.norm)):
            layer.weights[at] = self._keep(norm.weight.detach().float())
            layer.shifts[at] = self._keep(norm.bias.detach().float())
        return layer

    def _linear(self, linear: nn.Linear) -> _Linear:
        weight, at = linear.weight.detach(), None
        if self._int8:
            weight = weight.float()
            scales = weight.abs().amax(1).clamp(min=1e-12) / 127
            weight = (weight / scales[:, None]).round().to(torch.int8).view(self._kernels.dtype)
            at = self._keep(scales)
        weight = weight.to(self._kernels.dtype).contiguous()
        packed = torch.empty_like(weight)
        self._kernels.library.pack_weight(weight.data_ptr(), packed.data_ptr(), *weight.shape)
        return _Linear(self._keep(packed), self._keep(linear.bias.detach().float()), at)

    def _keep(self, x: Tensor) -> int:
        """Where these numbers are for as long as this lives."""
        self._kept.append(x.contiguous())
        return self._kept[-1].data_ptr()

    def __call__(
        self, x_BLD: Tensor, seen_BL: Tensor | None, start: int, stop: int, *, training: bool
    ) -> Tensor:
        """What the layers from `start` up to `stop` make of x: the same shape, zeros for padding.

        Args:
            x_BLD: in bf16.
            seen_BL: True for tokens, which come first, False for padding; None without padding.
            start: layers that are passed already.
            stop: layers that are passed then.
            training: with dropout, drawn from this thread's random numbers.
        """
        B, L, D = x_BLD.shape
        if seen_BL is not None:
            assert seen_BL[:, 1:].le(seen_BL[:, :-1]).all()
        lengths_B = torch.full((B,), L) if seen_BL is None else seen_BL.sum(1)
        assert lengths_B.gt(0).all()
        layers = (_Layer * (stop - start))(*self._layers[start:stop])
        for layer, block in zip(layers, self._blocks[start:stop]):
            attention, mlp = block.attention, block.mlp
            shares = attention.weights_dropout_prob, attention.dropout.p, mlp.dropout.p
            drawn = [dropping(p if training else 0.0) for p in shares]
            layer.of_weights, layer.of_sums[:] = drawn[0], drawn[1:]
        first = self._blocks[0]
        inner, by_tanh = len(first.mlp.up.weight), first.mlp.gelu == "tanh"
        sizes = _Sizes(D, first.attention.heads, L, inner, by_tanh)
        x_BLD = x_BLD.contiguous()
        assert x_BLD.dtype == self._kernels.dtype
        assert lengths_B.dtype == torch.int64
        y_BLD = torch.empty_like(x_BLD)
        at = x_BLD.data_ptr(), y_BLD.data_ptr(), lengths_B.data_ptr()
        pass_layers = self._kernels.library.pass_layers
        check(pass_layers(layers, len(layers), *at, B, TOGETHER, byref(sizes)))
        return y_BLD
