"""LAMB and AdamW over one flat buffer; moments kept by parameter name.

AdamW and LAMB share their update: Adam's step plus decoupled weight decay (Loshchilov and Hutter
2019). LAMB (You et al. 2019, algorithm 2) scales it, tensor by tensor, by the trust ratio
‖w‖ / ‖update‖. All tensors that learn lie in one buffer, so that an update is a handful of
operations whatever their number, and clipping needs one norm.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mslt.config import OptimizerConfig


class Moment(NamedTuple):
    """What Adam remembers of one parameter: mean gradient, mean square, and updates so far."""

    mean: Tensor
    square: Tensor
    updates: int


Moments = dict[str, Moment]


@dataclass
class _Group:
    """Neighbours in the buffer with the same weight decay and number of updates."""

    span: slice
    decay: float
    updates: int
    tensors: list[slice]  # relative to the span; what LAMB takes for one tensor


def decays(name: str) -> bool:
    """Whether weight decay and LAMB's trust ratio apply: not to biases, nor to LayerNorm."""
    return not (name.endswith("bias") or ".norm." in name)


class Optimizer:
    """LAMB or AdamW on the parameters that learn.

    The parameters' data is moved into one flat fp32 buffer, and their `grad` is a view of another,
    into which `backward` accumulates.

    Args:
        parameters: by name; fp32, on one device.
        config: which of the two, and its constants.
        moments: of an earlier stage or run, by name; parameters without any start from zero.

    Raises:
        ValueError: nothing learns, or a moment has another shape than its parameter.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        config: OptimizerConfig,
        moments: Moments | None = None,
    ) -> None:
        if not parameters:
            raise ValueError("no parameter learns: there is nothing to optimise")
        self.config = config
        moments = moments or {}

        def order(name: str) -> tuple[bool, int]:
            return decays(name), moments[name].updates if name in moments else 0

        self.names = sorted(parameters, key=order)
        size = sum(p.numel() for p in parameters.values())
        device = next(iter(parameters.values())).device
        self.weights = torch.empty(size, device=device)
        self.grads, self.mean, self.square = (torch.zeros_like(self.weights) for _ in range(3))
        self._spans: dict[str, tuple[slice, torch.Size]] = {}
        self._groups: list[_Group] = []
        self._group_of: dict[str, _Group] = {}
        start = 0
        for name in self.names:
            parameter = parameters[name]
            span = slice(start, start + parameter.numel())
            self._spans[name] = span, parameter.shape
            self._adopt(parameter, span)
            if name in moments:
                self._recall(name, moments[name])
            self._join(name, span, *order(name))
            start = span.stop

    def _adopt(self, parameter: nn.Parameter, span: slice) -> None:
        """Move the parameter's data and gradient into the buffers."""
        self.weights[span] = parameter.detach().flatten()
        parameter.data = self.weights[span].view(parameter.shape)
        parameter.grad = self.grads[span].view(parameter.shape)

    def _recall(self, name: str, moment: Moment) -> None:
        span, shape = self._spans[name]
        for given in (moment.mean.shape, moment.square.shape):
            if given != shape:
                raise ValueError(f"the moments of {name} are {list(given)}, not {list(shape)}")
        self.mean[span] = moment.mean.flatten()
        self.square[span] = moment.square.flatten()

    def _join(self, name: str, span: slice, decayed: bool, updates: int) -> None:
        decay = self.config.weight_decay if decayed else 0.0
        group = self._groups[-1] if self._groups else None
        if group is None or (group.decay, group.updates) != (decay, updates):
            group = _Group(slice(span.start, span.start), decay, updates, [])
            self._groups.append(group)
        offset = span.start - group.span.start
        # Query, key and value are three matrices to LAMB, though we multiply by them at once.
        parts = 3 if ".qkv." in name else 1
        length = (span.stop - span.start) // parts
        if decayed:
            group.tensors += [
                slice(offset + i * length, offset + (i + 1) * length) for i in range(parts)
            ]
        group.span = slice(group.span.start, span.stop)
        self._group_of[name] = group

    def norm(self) -> Tensor:
        """The accumulated gradients' norm over all tensors, a scalar on the device."""
        return torch.linalg.vector_norm(self.grads)

    def drop(self) -> None:
        """Forget the accumulated gradients: weights, moments and counts stay as they are."""
        self.grads.zero_()

    @torch.no_grad()
    def update(self, lr: float, norm: Tensor | None = None) -> Tensor:
        """One step along the accumulated gradients, which are then zero again.

        Args:
            lr: the learning rate.
            norm: the gradients' own, where it is known already.

        Returns:
            The gradients' norm before clipping, a scalar on the device.
        """
        norm = self.norm() if norm is None else norm
        if self.config.clip_norm:
            self.grads.mul_((self.config.clip_norm / (norm + 1e-6)).clamp(max=1.0))
        for group in self._groups:
            self._update(group, lr)
        self.grads.zero_()
        return norm

    def _update(self, group: _Group, lr: float) -> None:
        beta1, beta2 = self.config.beta1, self.config.beta2
        weights, grads = self.weights[group.span], self.grads[group.span]
        mean, square = self.mean[group.span], self.square[group.span]
        group.updates += 1
        mean.lerp_(grads, 1 - beta1)
        square.mul_(beta2).addcmul_(grads, grads, value=1 - beta2)
        root = square.div(1 - beta2**group.updates).sqrt_().add_(self.config.eps)
        step = mean.div(1 - beta1**group.updates).div_(root)
        if group.decay:
            step.add_(weights, alpha=group.decay)
        if self.config.name == "lamb":
            self._trust(step, weights, group.tensors)
        weights.sub_(step, alpha=lr)

    @staticmethod
    def _trust(step: Tensor, weights: Tensor, tensors: list[slice]) -> None:
        """Scale each tensor's step by ‖w‖ / ‖step‖, or by 1 where either is zero."""
        if not tensors:
            return
        steps = [step[span] for span in tensors]
        weight_norms = torch.stack(torch._foreach_norm([weights[span] for span in tensors]))
        step_norms = torch.stack(torch._foreach_norm(steps))
        known = (weight_norms > 0) & (step_norms > 0)
        ratios = torch.where(known, weight_norms / step_norms, torch.ones_like(step_norms))
        torch._foreach_mul_(steps, list(ratios.unbind()))

    def moments(self) -> Moments:
        """The moments by parameter name, as views of the buffers."""
        return {
            name: Moment(
                self.mean[span].view(shape),
                self.square[span].view(shape),
                self._group_of[name].updates,
            )
            for name, (span, shape) in self._spans.items()
        }
