"""Linear layers whose bias costs nothing in bf16 on a CPU.

torch first writes the bias into every row of the output and then adds the product to it: of 4,096
rows, from 256 wide to 1,024, that takes 7.5 ms instead of 5.3. oneDNN adds it as it writes.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mslt.machine import has_onednn_bf16


class Linear(nn.Linear):
    """`torch.nn.Linear` by way of `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., out] for [..., in]."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As `torch.nn.functional.linear`, which a compiler sees; the same bits of a contiguous x."""
    ours = x.device.type == "cpu" and x.dtype == weight.dtype == torch.bfloat16
    if not ours or torch.compiler.is_compiling() or not has_onednn_bf16():
        return F.linear(x, weight, bias)
    y: Tensor = _Linear.apply(x, weight, bias)
    return y


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x weight', for no gradients: [..., out] for [..., in]."""
    if x.dtype != torch.bfloat16 or not has_onednn_bf16():
        return F.linear(x, weight)
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return y


def slopes_of_product(
    ctx: Any, grad: Tensor, x: Tensor, weight: Tensor, first: int
) -> tuple[Tensor | None, Tensor | None]:
    """Slopes along x and weight, the inputs from `first` on of what ctx is of, if wanted."""
    wanted = ctx.needs_input_grad[first : first + 2]
    grad_NO, x_NI = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
    return (
        (grad_NO @ weight).view(x.shape) if wanted[0] else None,
        grad_NO.T @ x_NI if wanted[1] else None,
    )


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, weight)
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        x, weight = ctx.saved_tensors
        dbias = grad.reshape(-1, grad.shape[-1]).sum(0) if ctx.needs_input_grad[2] else None
        return *slopes_of_product(ctx, grad, x, weight, 0), dbias
