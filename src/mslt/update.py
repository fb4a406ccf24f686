"""What AdamW and LAMB do to rows of numbers: operations that a compiler makes one pass of, or two,
and the same as functions in C.

Both go Adam's way, with decoupled weight decay (Loshchilov and Hutter 2019). LAMB (You et al. 2019,
algorithm 2) goes as far, tensor by tensor, as the trust ratio ‖w‖ / ‖direction‖ says.

Shapes: R rows, C elements of a row, T tensors.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mslt.config import OptimizerConfig
from mslt.kernels import Kernels


class Rows(NamedTuple):
    """Rows of an optimizer's buffers [R, C], and which tensor each is of [R]."""

    tensor: Tensor
    grads: Tensor
    mean: Tensor
    square: Tensor
    weights: Tensor
    copies: Tensor | None


class Ways(NamedTuple):
    """How an update is computed: by the functions of these names below, or others for them."""

    adamw: Callable[..., None]
    direct: Callable[..., Tensor]
    move: Callable[..., None]


def adamw(rows: Rows, numbers_T4: Tensor, scale: Tensor, config: OptimizerConfig) -> None:
    """Take a step; see `_direction` for what it goes by."""
    move(rows, _direction(rows, numbers_T4, scale, config), numbers_T4[:, :1])


def direct(rows: Rows, numbers_T4: Tensor, scale: Tensor, config: OptimizerConfig) -> Tensor:
    """Put the direction in the gradients' place; norms [R, 2] of the rows of weights and of it."""
    direction_RC = _direction(rows, numbers_T4, scale, config)
    rows.grads.copy_(direction_RC)
    norms = [torch.linalg.vector_norm(x_RC, dim=1) for x_RC in (rows.weights, direction_RC)]
    return torch.stack(norms, 1)


def move(rows: Rows, direction_RC: Tensor, rate_T1: Tensor) -> None:
    """Go there, as far as each tensor's rate says, and let the copies follow."""
    rows.weights.addcmul_(direction_RC, rate_T1[rows.tensor], value=-1)
    if rows.copies is not None:
        rows.copies.copy_(rows.weights)


def _direction(rows: Rows, numbers_T4: Tensor, scale: Tensor, config: OptimizerConfig) -> Tensor:
    """Adam's [R, C]; moves the moments.

    Args:
        rows: of the buffers.
        numbers_T4: of each tensor the learning rate, the weights' decay, and what the first and
            the second moments lack, being young.
        scale: by which gradients are clipped.
        config: the constants.
    """
    _, decay_R1, mean_bias_R1, square_bias_R1 = numbers_T4[rows.tensor].split(1, 1)
    room_RC = rows.grads * scale
    rows.mean.lerp_(room_RC, 1 - config.beta1)
    rows.square.mul_(config.beta2).addcmul_(room_RC, room_RC, value=1 - config.beta2)
    torch.div(rows.square, square_bias_R1, out=room_RC)
    room_RC.sqrt_().add_(config.eps).mul_(mean_bias_R1)
    return torch.div(rows.mean, room_RC, out=room_RC).addcmul_(rows.weights, decay_R1)


PLAIN = Ways(adamw, direct, move)


def compiled() -> Ways:
    """By what torch.compile makes of each."""
    return Ways(torch.compile(adamw), torch.compile(direct), torch.compile(move))


def in_c(kernels: Kernels) -> Ways:
    """By functions in C for rows in fp32, of 128 elements at most (`update.c`).

    Args:
        kernels: of the type of the copies; of any, where there are none.
    """
    library = kernels.library

    def places(*tensors: Tensor | None) -> list[int | None]:
        """Where they begin, for as long as they live."""
        for x in (each for each in tensors if each is not None):
            known = x.dtype in (torch.float32, torch.int32, kernels.dtype)
            if not (known and x.is_contiguous() and x.device.type == "cpu"):
                raise TypeError(f"no function in C updates {x.dtype} on {x.device}")
        return [None if x is None else x.data_ptr() for x in tensors]

    def adamw(rows: Rows, numbers_T4: Tensor, scale: Tensor, config: OptimizerConfig) -> None:
        constants = _constants(scale, config)
        given = places(rows.tensor, rows.grads, rows.mean, rows.square, rows.weights, rows.copies)
        library.adamw(*given, *rows.weights.shape, *places(numbers_T4, constants))

    def direct(rows: Rows, numbers_T4: Tensor, scale: Tensor, config: OptimizerConfig) -> Tensor:
        constants, norms_R2 = _constants(scale, config), torch.empty(len(rows.tensor), 2)
        given = places(rows.tensor, rows.grads, rows.mean, rows.square, rows.weights, norms_R2)
        library.direct(*given, *rows.weights.shape, *places(numbers_T4, constants))
        return norms_R2

    def move(rows: Rows, direction_RC: Tensor, rate_T1: Tensor) -> None:
        given = places(rows.tensor, direction_RC, rows.weights, rows.copies)
        library.move(*given, *rows.weights.shape, *places(rate_T1))

    return Ways(adamw, direct, move)


def _constants(scale: Tensor, config: OptimizerConfig) -> Tensor:
    parts = [part for beta in (config.beta1, config.beta2) for part in (beta, 1 - beta)]
    return torch.tensor([float(scale), *parts, config.eps], dtype=torch.float32)
