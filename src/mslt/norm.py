"""LayerNorm whose gradients are right in bf16 on a CPU.

torch's CPU kernel adds up the gradients of weight and bias in the type of its input, over all rows:
in bf16 and over 4,096 rows they are a fifteenth off, whatever the type of the weight. Here they are
added up in fp32, a few rows at a time, so that the copies stay in the cache: as fast, and right.
"""

import torch
from torch import Tensor, nn

# Rows that are copied to fp32 at once, as many as fit this: best of 0.25 to 4 MB.
CHUNK_BYTES = 1 << 20


class LayerNorm(nn.LayerNorm):
    """`torch.nn.LayerNorm`; on a CPU its weight and bias are in fp32 where x is in bf16."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        if x.device.type != "cpu" or x.dtype == self.weight.dtype:
            return super().forward(x)
        return _in_chunks(x, self.weight, self.bias, self.eps)


@torch.compiler.disable
def _in_chunks(x: Tensor, weight_D: Tensor, bias_D: Tensor, eps: float) -> Tensor:
    y: Tensor = _Normalise.apply(x, weight_D, bias_D, eps)
    return y


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight_D, bias_D, eps):  # type: ignore[no-untyped-def]
        y, mean, root = torch.native_layer_norm(x, x.shape[-1:], weight_D, bias_D, eps)
        ctx.save_for_backward(x, mean, root, weight_D, bias_D)
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        x, mean, root, weight_D, bias_D = ctx.saved_tensors
        D = x.shape[-1]
        grad_ND, x_ND, mean_N1, root_N1 = (
            t.reshape(-1, t.shape[-1]) for t in (grad, x, mean, root)
        )
        slope_ND = torch.empty_like(x_ND)
        slopes = [torch.zeros_like(weight_D), torch.zeros_like(bias_D)]
        size = max(1, CHUNK_BYTES // (4 * D))
        for start in range(0, len(x_ND), size):
            part = slice(start, start + size)
            slope_ND[part], *added = torch.ops.aten.native_layer_norm_backward(
                grad_ND[part].float(),
                x_ND[part].float(),
                [D],
                mean_N1[part],
                root_N1[part],
                weight_D,
                bias_D,
                ctx.needs_input_grad[:3],
            )
            for total, more in zip(slopes, added):
                if more is not None:
                    total += more
        return slope_ND.view(x.shape), *slopes, None
