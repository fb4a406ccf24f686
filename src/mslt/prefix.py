"""The forward-only layers of a stage: run without gradients, and faster than the layers that learn.

They are fixed for the whole stage, so what they compute may be prepared once. `exact` is what the
model's own layers compute, dropout included: as if a backward pass had stopped above them.
The fast kinds leave dropout out and multiply in fewer bits: in bf16 on a GPU and on a CPU that is
fast at it; on GPUs that have them in 8-bit floats, scaled row by row; or, on x86 CPUs, with weights
in int8, scaled row by row, and activations in 8 bits (7 without VNNI), scaled as they come. What
that does to the loss is measured in docs/log.md. On a CPU with AMX all of them pass whole, by way
of `Layers`, where they are in bf16 or, in a run in bf16, in int8.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from mslt.kernels import Kernels, find
from mslt.layers import Layers
from mslt.machine import (
    has_onednn_bf16,
    multiplies_bf16_fast,
    multiplies_fp8,
    multiplies_int8,
    side_by_side,
)
from mslt.model import Block, Encoder, equip, through
from mslt.objective import Inputs
from mslt.packed import Bf16Product, Fp8Product, Int8Product, PackedBlock
from mslt.shape import ModelConfig

Kind = Literal["exact", "fp32", "bf16", "int8", "fp8"]
Seed = Callable[[int], None]

# What the layers take and give where that is not what those that learn do.
INSIDE = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp8": torch.bfloat16}

# Width from which layers in int8 are faster than in bf16 on a CPU with VNNI that is fast at both:
# at 64, 128, 256 and 768 they take 1.3, 1.05, 0.83 and 0.64 times as long (Zen 4; docs/log.md).
WIDE = 256

# The same with AMX: 1.05, 0.91, 0.8 and 0.69 times as long at 256, 384, 512 and 768 (`layers.c`).
WIDE_FOR_TILES = 384

# The same for fp8 on a GPU that has it.
WIDE_ON_GPU = 768

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
        self.inside = INSIDE.get(kind, model.dtype)
        self._kernels = None if model.kernels is None else find(self.inside)
        fixed = [cast(Block, block) for block in model.blocks[: model.config.blocks(layers)]]
        self._whole: Layers | None = None
        int8 = kind == "int8"
        fit = kind in ("exact", "bf16", "int8") and layers > 0
        if fit and Layers.fit(model.config, self._kernels, int8=int8):
            each = [fixed[layer // self.repeat] for layer in range(layers)]
            self._whole = Layers(each, cast(Kernels, self._kernels), int8=int8)
            self._parted = False
            self.blocks = nn.ModuleList(fixed)
        else:
            self.blocks = nn.ModuleList(
                _prepared(block, kind, self.inside, self._kernels) for block in fixed
            )

    def compile(self) -> None:
        """Let those of the layers run compiled that are not what a compiler would make of them."""
        for block in self.blocks:
            if isinstance(block, Block) or block.compiles:
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
        if self._whole:
            x, training = x_BLD.to(self.inside), self.kind == "exact"
            return self._whole(x, inputs.seen, start, stop, training=training)
        above = [self.blocks[layer // self.repeat] for layer in range(start, stop)]
        return through(above, x_BLD.to(self.inside), inputs.seen, self._kernels)


def _prepared(block: Block, kind: Kind, inside: torch.dtype, kernels: Kernels | None) -> nn.Module:
    """The layer itself, or a copy of it that computes in another way."""
    weight = block.mlp.up.weight
    if kind == "int8":
        return PackedBlock(block, partial(Int8Product, kernels=kernels), kernels)
    if kind == "fp8":
        return PackedBlock(block, Fp8Product, kernels)
    if kind == "bf16" and weight.device.type == "cpu" and has_onednn_bf16():
        return PackedBlock(block, Bf16Product, kernels)
    if weight.dtype == inside:
        return block
    other = copy.deepcopy(block).to(inside)
    equip(other, kernels)
    return other


def pick_kind(wanted: str, device: str, model: ModelConfig, kernels: Kernels | None) -> Kind:
    """How forward-only layers compute: `fast` is the fastest kind that the device has.

    Args:
        wanted: what the config says.
        device: where they run.
        model: whose layers; where bf16 is fast, it takes a wide one for 8 bits to be faster.
        kernels: by which those that learn compute, if by any.

    Raises:
        ValueError: 8 bits are asked for where torch has no products of them.
    """
    int8 = device == "cpu" and multiplies_int8()
    width = model.hidden_size
    even = width % 16 == 0 == model.intermediate_size % 16
    fp8 = even and multiplies_fp8(device)
    if wanted == "int8" and not int8:
        raise ValueError("prefix int8 needs an x86 CPU; on a GPU, fast is fp8 or bf16")
    if wanted == "fp8" and not fp8:
        raise ValueError(
            "prefix fp8 needs widths that 16 divides, and a GPU of compute capability 8.9 or more "
            "(Ada, Hopper), or a CPU, which is slow at it"
        )
    if wanted != "fast":
        return wanted  # type: ignore[return-value]  # the config has checked it
    if device.startswith("cuda"):
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return "fp8" if fp8 and width >= WIDE_ON_GPU else "bf16" if bf16 else "fp32"
    if multiplies_bf16_fast():
        if torch.cpu._is_amx_tile_supported():
            whole = Layers.fit(model, kernels, int8=True)  # else 8 bits are slower
            return "int8" if whole and width >= WIDE_FOR_TILES else "bf16"
        return "int8" if int8 and torch.cpu._is_vnni_supported() and width >= WIDE else "bf16"
    return "int8" if int8 else "fp32"
