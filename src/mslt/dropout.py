"""Dropout with masks that cost little.

torch draws a CPU mask one element at a time, which for a small BERT is a seventh of the step. Here
a mask is 16 random bits an element from one SFC64 stream (O'Neill's "small fast chaotic" generator,
as in numpy), compared with a threshold: the probability is exact to 2^-17. Layers that have kernels
(`kernels.c`) draw theirs there.

What torch.compile makes for a GPU computes a hundred integer operations an element, as its random
numbers are to pass every test, and is bound by them. Here an element's place is hashed with two
random numbers, a sixth of the work, and the backward pass does it again and reads no mask.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mslt.machine import generator

_LEVELS = 1 << 16


def kept_share(p: float) -> float:
    """Share of elements that a CPU mask keeps: 1 - p to the nearest 2^-16, and never nothing."""
    return max(1, round((1 - p) * _LEVELS)) / _LEVELS


class Words:
    """A stream of uniformly random int16, on the CPU.

    The thread's generator, torch's own as a rule, gives the stream's seed, so that whatever seeds,
    saves or restores that one, as activation checkpointing does, governs these numbers too.
    """

    def __init__(self) -> None:
        seed = torch.empty((), dtype=torch.int64).random_(generator=generator())
        self._stream = np.random.SFC64(int(seed))

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """The next of them [shape]; a multiple of four is drawn, the rest of it left out."""
        count = math.prod(shape)
        words = np.asarray(self._stream.random_raw(-(-count // 4))).view(np.int16)
        return torch.from_numpy(words[:count]).view(shape)


def below_threshold(p: float) -> int:
    """The int16 that a random word reaches with the probability of being kept."""
    return _LEVELS // 2 - round(kept_share(p) * _LEVELS)


def keep_mask(shape: tuple[int, ...], p: float) -> Tensor:
    """Bool [shape], on the CPU: True with probability `kept_share(p)`."""
    return Words().draw(shape) >= below_threshold(p)


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """As `torch.nn.functional.dropout`: zeros with probability p, the rest scaled up."""
    if not training or p == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p)
    return x * _scaled_mask(x, p)


@torch.compiler.disable
def _scaled_mask(x: Tensor, p: float) -> Tensor:
    mask = torch.empty(x.shape, dtype=x.dtype)
    torch.ge(Words().draw(tuple(x.shape)), below_threshold(p), out=mask)
    return mask.mul_(1 / kept_share(p))


def hashed(x: Tensor, p: float, words: Tensor) -> Tensor:
    """As `torch.nn.functional.dropout`, where a compiler makes a part of a kernel of it.

    Args:
        x: of less than 2^32 elements.
        p: probability of zero, exact to 2^-32.
        words: two random numbers, int32.
    """
    place = torch.arange(x.numel(), dtype=torch.int32, device=x.device).view(x.shape)
    kept = _mixed(_mixed(place + words[0]) + words[1]) >= round(p * 2**32) - 2**31
    return torch.where(kept, x * (1 / (1 - p)), 0.0)


def _mixed(x: Tensor) -> Tensor:
    """Each bit of int32 as good as random of all others (C. Wellons' lowbias32, public domain)."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    x = (x ^ ((x >> 15) & 0x1FFFF)) * (0x846CA68B - (1 << 32))
    return x ^ ((x >> 16) & 0xFFFF)


class Dropout(nn.Module):
    """`torch.nn.Dropout` by way of `dropout`, or of `hashed` once it has `words` (`deal_words`)."""

    words: Tensor | None

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.register_buffer("words", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape; x itself where nothing is dropped."""
        if self.training and self.p and self.words is not None:
            return hashed(x, self.p, self.words)
        return dropout(x, self.p, self.training)

    def onto(self, residual: Tensor, x: Tensor) -> Tensor:
        """residual + dropout(x), of the same shape; on a CPU in one pass over the three."""
        plain = x.device.type != "cpu" or self.words is not None
        if not self.training or self.p == 0 or plain:
            return residual + self(x)
        return torch.addcmul(residual, x, _scaled_mask(x, self.p))


def deal_words(model: nn.Module, device: torch.device) -> Tensor:
    """Room for the random numbers of each dropout of a model [dropouts, 4], to be drawn anew
    before each forward pass. Rows of 16 bytes are what a compiler takes for granted.
    """
    found = [module for module in model.modules() if isinstance(module, Dropout)]
    words = torch.zeros(len(found), 4, dtype=torch.int32, device=device)
    for module, its in zip(found, words):
        module.words = its
    return words
