"""Dropout with masks that cost little on a CPU.

torch draws a CPU mask one element at a time, which for a small BERT is a seventh of the step. Here
a mask is 16 random bits an element from one SFC64 stream (O'Neill's "small fast chaotic" generator,
as in numpy), compared with a threshold: the probability is exact to 2^-17.
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


class Dropout(nn.Module):
    """`torch.nn.Dropout` by way of `dropout`."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Same shape; x itself where nothing is dropped."""
        return dropout(x, self.p, self.training)

    def onto(self, residual: Tensor, x: Tensor) -> Tensor:
        """residual + dropout(x), of the same shape; on a CPU in one pass over the three."""
        if not self.training or self.p == 0 or x.device.type != "cpu":
            return residual + self(x)
        return torch.addcmul(residual, x, _scaled_mask(x, self.p))
