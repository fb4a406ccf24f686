"""Initial weights that look at neighbours, so that a small model learns context from the start.

Post-LN BERT spends its first thousands of steps at the loss of the tokens' own frequencies, until
its heads have found out which positions are next to each other. Trained heads "focus on local
positions" (Gong et al. 2019; section 3.1 of the paper), so here they begin that way: head h of
every layer attends mostly to the token at a fixed distance from its own. These are only starting
values. The architecture is plain BERT's, and training is free to leave them.
"""

import math

import torch
from torch import Tensor

# Sharpness: large enough that a head sees its neighbour first, small enough to see the others too.
GAIN = 1.5


def distance(head: int) -> int:
    """How far from its own token a head looks at first: -1, 1, -2, 2, -3, 3, ..."""
    step = head // 2 + 1
    return -step if head % 2 == 0 else step


def _frequencies(width: int) -> Tensor:
    """Evenly over (0, pi), so that all positions up to twice the width differ [width / 2]."""
    return math.pi * (torch.arange(width // 2) + 0.5) / (width // 2)


def positions(length: int, width: int, std: float) -> Tensor:
    """Sines and cosines of the position, of standard deviation `std`: [length, width].

    A shift by any distance is a rotation, the same one at every position.
    """
    angles = torch.arange(length)[:, None] * _frequencies(width)
    return torch.cat([angles.sin(), angles.cos()], dim=1) * (std * math.sqrt(2))


def shift(width: int, by: int) -> Tensor:
    """The rotation [width, width] that takes the row of position p to that of p + by."""
    cosine, sine = (torch.diag(f(by * _frequencies(width))) for f in (torch.cos, torch.sin))
    return torch.cat([torch.cat([cosine, sine], 1), torch.cat([-sine, cosine], 1)])


def frame(width: int, within: int, generator: torch.Generator) -> Tensor:
    """A random frame [width, within] of columns that are orthogonal and of length 1."""
    return torch.linalg.qr(torch.randn(width, within, generator=generator)).Q


def local_queries_and_keys(
    width: int, heads: int, generator: torch.Generator, frame_DE: Tensor | None = None
) -> Tensor:
    """Weights of queries and keys, as `torch.nn.Linear` holds them: [2 width, width].

    Keys are a random projection of the input, and queries the same projection of it shifted, so
    that a query is most like the key of the token at its head's distance.

    Args:
        width: of the layers (D).
        heads: H.
        generator: of the random projections.
        frame_DE: where narrower embeddings (E) lie within the layers' width; there alone a shift
            is a rotation. None where they are as wide.
    """
    size = width // heads
    queries, keys = [], []
    for head in range(heads):
        random = torch.randn(width, size, generator=generator)
        projection = torch.linalg.qr(random).Q.T * GAIN
        keys.append(projection)
        queries.append(projection @ _shift_within(width, distance(head), frame_DE))
    return torch.cat(queries + keys)


def _shift_within(width: int, by: int, frame_DE: Tensor | None) -> Tensor:
    if frame_DE is None:
        return shift(width, by)
    turned = shift(frame_DE.shape[1], by) - torch.eye(frame_DE.shape[1])
    return torch.eye(width) + frame_DE @ turned @ frame_DE.T
