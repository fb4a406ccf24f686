"""The model that computes: it has the weights that learn, and hands its gradients over.

In bf16 its layers and heads are copies of the fp32 weights: cast once per step, or once per stage
where they are fixed. Embeddings stay in fp32, since a frequent token's gradient is a sum of
hundreds of terms; LayerNorms on a CPU too, where torch adds up the gradient of a bf16 one, over all
rows, in bf16.
"""

import copy
import math
import weakref
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from mslt.growth import learning
from mslt.model import Encoder, Head

# A GPU's products are several times slower where a size is no multiple of 8 or more.
EVEN = 64

TOKEN, OUTPUT = "embeddings.token.weight", "output"  # one matrix, which in bf16 has a copy


class Twin:
    """A model of the same tensors, or of bf16 copies, whose gradients are added up in fp32.

    The first gradient of a step is written over what is there, which spares clearing it.

    Args:
        model: fp32; the `grad` of each parameter that learns is where its gradients are added up.
        copies: where layers and heads compute in bf16, those of what learns, by name, which follow
            it; each flat, and as large as `room` says at least. None for computing in fp32.
        complete: told the name of a parameter whose gradient has just been added. None where
            nothing waits for single ones: `backward` then adds all of a micro-batch at once.
    """

    def __init__(
        self,
        model: Encoder,
        *,
        copies: Mapping[str, Tensor] | None,
        complete: Callable[[str], None] | None,
    ) -> None:
        self.model = _twin(model)
        if copies is not None:
            _halve(self.model, copies)
        self._full = dict(learning(model))
        self._leaves = dict(learning(self.model))
        self._complete = complete
        self._left = set(self._full)
        me = weakref.ref(self)
        for name, leaf in self._leaves.items() if complete else ():
            leaf.register_post_accumulate_grad_hook(partial(_gathered, me, name))

    @property
    def left(self) -> frozenset[str]:
        """Parameters without a gradient in this step: what is there is an earlier step's."""
        return frozenset(self._left)

    @left.setter
    def left(self, names: frozenset[str]) -> None:
        """As they were once before."""
        self._left = set(names)

    def begin(self) -> None:
        """A step begins."""
        self._left = set(self._full)

    @torch.no_grad()
    def gathered(self, name: str) -> None:
        """A leaf has its gradient of one micro-batch: put it to the fp32 one."""
        leaf = self._leaves[name]
        gradient, leaf.grad = leaf.grad, None
        assert gradient is not None
        whole, total = self._total(name)
        if name == OUTPUT:
            gradient = gradient[: len(total)]  # without rows that are no pieces
        if whole not in self._left:
            total += gradient
        elif gradient.is_sparse:
            total.zero_().add_(gradient)
        else:
            total.copy_(gradient)
        self._left.discard(whole)
        if name != OUTPUT and self._complete:  # after it comes the embedding's own
            self._complete(name)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a micro-batch's loss."""
        if self._complete:
            loss.backward()
            return
        leaves = list(self._leaves.values())
        found = torch.autograd.grad(loss, leaves, allow_unused=True)
        written: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for name, gradient in zip(self._leaves, found):
            if gradient is not None:
                whole, total = self._total(name)
                gradient = gradient[: len(total)]  # without rows that are no pieces
                if whole in self._left:
                    totals, gradients = written.setdefault(gradient.dtype, ([], []))
                    totals.append(total)
                    gradients.append(gradient)
                    self._left.discard(whole)
                else:
                    self._flush(written)
                    total += gradient
        self._flush(written)

    @staticmethod
    def _flush(written: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]]) -> None:
        """Write what is to be written, of each type at once."""
        for totals, gradients in written.values():
            torch._foreach_copy_(totals, gradients)
        written.clear()

    def _total(self, name: str) -> tuple[str, Tensor]:
        """The parameter that a leaf's gradient is added to, and where."""
        whole = TOKEN if name == OUTPUT else name
        total = self._full[whole].grad
        assert total is not None
        return whole, total


def _gathered(twin: weakref.ref[Twin], name: str, _: Tensor) -> None:
    """What a leaf's hook does, which must not keep a twin of an earlier stage alive."""
    if (alive := twin()) is not None:
        alive.gathered(name)


def _twin(model: Encoder) -> Encoder:
    """The same model of the same tensors, with gradients of its own."""
    own = {
        id(tensor): nn.Parameter(tensor.detach(), requires_grad=tensor.requires_grad)
        for tensor in model.parameters()
    }
    return copy.deepcopy(model, own)


def _halve(twin: Encoder, copies: Mapping[str, Tensor]) -> None:
    """Let it compute in bf16."""
    on_cpu = twin.device.type == "cpu"
    names = {tensor: name for name, tensor in twin.named_parameters()}
    for module in (*twin.blocks.modules(), *twin.head.modules()):
        if not (on_cpu and isinstance(module, nn.LayerNorm)):
            for tensor in module.parameters(recurse=False):
                tensor.data = _half(tensor, copies.get(names[tensor]), len(tensor))
    token = twin.embeddings.token
    if isinstance(twin.head, Head):
        matrix = _half(token.weight, copies.get(TOKEN), _even(token.weight))
        twin.output = nn.Parameter(matrix, requires_grad=token.weight.requires_grad)
    # A gradient of the rows that were looked up, not of a vocabulary of zeros around them.
    token.sparse = on_cpu


def _half(tensor: Tensor, there: Tensor | None, rows: int) -> Tensor:
    """Its copy in bf16, there or anew, of so many rows: zeros behind its own."""
    shape = rows, *tensor.shape[1:]
    if there is not None:
        return there[: math.prod(shape)].view(shape)
    half = tensor.new_zeros(shape, dtype=torch.bfloat16)
    half[: len(tensor)] = tensor.detach()
    return half


def _even(token_VE: Tensor) -> int:
    """Rows of the output matrix."""
    count = len(token_VE)
    return count if token_VE.device.type == "cpu" else math.ceil(count / EVEN) * EVEN


def room(model: Encoder) -> dict[str, int]:
    """Elements of a copy, by name, where these may be more than the parameter has."""
    token_VE = model.embeddings.token.weight
    return {TOKEN: _even(token_VE) * token_VE.shape[1]}
