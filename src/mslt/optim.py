"""LAMB and AdamW over one flat buffer; moments kept by parameter name.

All tensors that learn lie in one buffer, so that an update is a handful of operations whatever
their number, and clipping needs one norm. The buffer is cut into rows, and each tensor begins one:
what holds for an element, its rate, its decay and how young its moments are, is known by its row.

Shapes: R rows, C elements of a row, T tensors, as LAMB counts them.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mslt.config import OptimizerConfig
from mslt.kernels import Kernels
from mslt.machine import to_device
from mslt.update import PLAIN, Rows, compiled, in_c


class Moment(NamedTuple):
    """What Adam remembers of one parameter: mean gradient, mean square, and updates so far."""

    mean: Tensor
    square: Tensor
    updates: int


Moments = dict[str, Moment]

# Elements that several passes update at once: on a CPU 2 MB in each of six buffers, best of 0.1 to
# 16. A GPU takes more, so that its kernels fill it.
CHUNK, GPU_CHUNK = 1 << 19, 1 << 26

# Elements of a row, at most.
ROW = 128

Work = Callable[..., None]


@dataclass
class _Group:
    """Neighbours in the buffer with the same weight decay and number of updates."""

    span: slice
    decay: float
    updates: int


def decays(name: str) -> bool:
    """Whether weight decay and LAMB's trust ratio apply: not to biases, nor to LayerNorm."""
    return not (name.endswith("bias") or ".norm." in name)


def _matrices(name: str, config: OptimizerConfig) -> int:
    """How many tensors LAMB takes it for: by query, key and value we multiply at once."""
    return 3 if config.name == "lamb" and ".qkv." in name and decays(name) else 1


class Optimizer:
    """LAMB or AdamW on the parameters that learn.

    The parameters' data is moved into one flat fp32 buffer, and their `grad` is a view of another,
    in which the gradients of a step are to be put together.

    Args:
        parameters: by name; fp32, on one device.
        config: which of the two, and its constants.
        moments: of an earlier stage or run, by name; parameters without any start from zero.
        copies: keep `copies` of the weights in bf16.
        room: elements of a copy, by name, where these are more than the parameter has.
        compile: let torch.compile make one pass of an update, or two of LAMB's.
        kernels: on a CPU, of the copies' type if there are any: functions in C that do so.
        record: does work on tensors that it is given, and later repeats it on others.

    Raises:
        ValueError: nothing learns, or a moment has another shape than its parameter.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        config: OptimizerConfig,
        moments: Moments | None = None,
        *,
        copies: bool = False,
        room: Mapping[str, int] = MappingProxyType({}),
        compile: bool = False,
        kernels: Kernels | None = None,
        record: Callable[[Work, list[Tensor]], Any] | None = None,
    ) -> None:
        if not parameters:
            raise ValueError("no parameter learns: there is nothing to optimise")
        self.config = config
        moments = moments or {}

        def order(name: str) -> tuple[bool, int]:
            return decays(name), moments[name].updates if name in moments else 0

        sizes = {name: parameters[name].numel() for name in sorted(parameters, key=order)}
        parts = {name: _matrices(name, config) for name in sizes}
        row = math.gcd(ROW, *(size // 3 for name, size in sizes.items() if parts[name] == 3))
        self._spans: dict[str, tuple[slice, torch.Size]] = {}
        self._room: dict[str, slice] = {}
        start = 0
        for name, size in sizes.items():
            most = math.ceil(max(size, room.get(name, 0)) / row) * row
            self._spans[name] = slice(start, start + size), parameters[name].shape
            self._room[name] = slice(start, start + most)
            start += most
        device = next(iter(parameters.values())).device
        self.weights = torch.zeros(start, device=device)
        self.grads, self.mean, self.square = (torch.zeros_like(self.weights) for _ in range(3))
        self._groups: list[_Group] = []
        self._group_of: dict[str, _Group] = {}
        for name in sizes:
            self._adopt(name, parameters[name])
            if name in moments:
                self._recall(name, moments[name])
            self._join(name, *order(name))
        self._copies = self.weights.bfloat16() if copies else None
        self._cut(row)
        self._record = record
        self._compiles = compile
        self._ways = in_c(kernels) if kernels else compiled() if compile else PLAIN
        on_gpu = device.type != "cpu"
        at_once = kernels is not None or (compile and on_gpu)
        self._chunk = start if at_once else GPU_CHUNK if on_gpu else CHUNK
        # torch has one kernel for AdamW, which reads and writes all once, but for the copies.
        self._fused = config.name == "adamw" and not at_once

    def _adopt(self, name: str, parameter: nn.Parameter) -> None:
        """Move the parameter's data and gradient into the buffers."""
        span, shape = self._spans[name]
        self.weights[span] = parameter.detach().flatten()
        parameter.data = self.weights[span].view(shape)
        parameter.grad = self.grads[span].view(shape)

    def _recall(self, name: str, moment: Moment) -> None:
        span, shape = self._spans[name]
        for given in (moment.mean.shape, moment.square.shape):
            if given != shape:
                raise ValueError(f"the moments of {name} are {list(given)}, not {list(shape)}")
        self.mean[span] = moment.mean.flatten()
        self.square[span] = moment.square.flatten()

    def _join(self, name: str, decayed: bool, updates: int) -> None:
        span, _ = self._spans[name]
        decay = self.config.weight_decay if decayed else 0.0
        group = self._groups[-1] if self._groups else None
        if group is None or (group.decay, group.updates) != (decay, updates):
            group = _Group(span, decay, updates)
            self._groups.append(group)
        group.span = slice(group.span.start, span.stop)
        self._group_of[name] = group

    def _cut(self, row: int) -> None:
        """Cut the buffers into rows, and find what tensor each is of."""
        count = len(self.weights) // row
        tensor_R = np.zeros(count, np.int32)
        self._tensors: list[slice] = []  # their rows
        self._groups_T: list[_Group] = []
        adapted: list[bool] = []
        for name, (span, _) in self._spans.items():
            first, stop = span.start // row, math.ceil(span.stop / row)
            each = (stop - first) // _matrices(name, self.config)
            for start in range(first, stop, each):
                tensor_R[start : start + each] = len(self._tensors)
                self._tensors.append(slice(start, start + each))
                self._groups_T.append(self._group_of[name])
                adapted.append(decays(name))
        device = self.weights.device
        self._adapted_T = torch.tensor(adapted, device=device)
        buffers = self.grads, self.mean, self.square, self.weights, self._copies
        rows = (None if x is None else x.view(count, row) for x in buffers)
        self._rows = Rows._make([torch.from_numpy(tensor_R).to(device), *rows])

    def spans(self) -> dict[str, slice]:
        """Where each parameter lies in the buffers, by name, first to last."""
        return {name: span for name, (span, _) in self._spans.items()}

    def copies(self) -> dict[str, Tensor] | None:
        """All weights in bf16, which follow them, by name: flat, and zeros in the room behind."""
        if self._copies is None:
            return None
        return {name: self._copies[room] for name, room in self._room.items()}

    def norm(self) -> Tensor:
        """The accumulated gradients' norm over all tensors, a scalar on the device."""
        if self.grads.device.type != "cpu":
            return torch.linalg.vector_norm(self.grads)
        # Of 46 million numbers at once torch loses 0.4 % on a CPU, and takes twice as long.
        norms_R = torch.linalg.vector_norm(self._rows.grads, dim=1)
        return torch.linalg.vector_norm(norms_R, dtype=torch.float64).to(norms_R.dtype)

    def drop(self, names: Iterable[str]) -> None:
        """Let the gradients of some parameters be zero; nothing else changes."""
        for name in names:
            self.grads[self._spans[name][0]] = 0.0

    def update(self, lr: float) -> Tensor:
        """One step along the accumulated gradients, which are no gradients any more after it.

        Args:
            lr: the learning rate.

        Returns:
            The gradients' norm before clipping, a scalar on the device.
        """
        norm = self.norm()
        self.ready(lr, norm)()
        return norm

    @torch.no_grad()
    def ready(self, lr: float, norm: Tensor) -> Callable[[], None]:
        """A step along the gradients as they are now, yet to be taken, or to be forgotten.

        Args:
            lr: the learning rate.
            norm: that of the gradients, before clipping.

        Returns:
            What takes it, with as little as possible left to do, for which a GPU would wait.
        """
        scale = torch.ones_like(norm)
        if self.config.clip_norm:
            scale = (self.config.clip_norm / (norm + 1e-6)).clamp(max=1.0)
        given: list[Tensor] = []
        if not self._fused:
            numbers_T4 = torch.tensor([self._numbers(group, lr) for group in self._groups_T])
            given = [to_device(numbers_T4.numpy(), str(self.weights.device)), scale]

        @torch.no_grad()
        def take() -> None:
            for group in self._groups:
                group.updates += 1
            if self._fused:
                self._fuse(lr, scale)
            elif self._record:
                self._record(self._take, given)
            else:
                self._take(*given)

        return take

    def _numbers(self, group: _Group, lr: float) -> tuple[float, ...]:
        """The learning rate of the next step, and what else its direction depends on."""
        betas, updates = (self.config.beta1, self.config.beta2), group.updates + 1
        return lr, group.decay, *(1 - beta**updates for beta in betas)

    def _fuse(self, lr: float, scale: Tensor) -> None:
        """AdamW by torch's kernel."""
        # A CPU can tell whether anything is to be clipped, and else spare to write gradients back.
        clips = scale.device.type != "cpu" or bool(scale < 1)
        for group in self._groups:
            span = group.span
            torch._fused_adamw_(
                [self.weights[span]],
                [self.grads[span]],
                [self.mean[span]],
                [self.square[span]],
                [],
                [torch.full((), group.updates, dtype=torch.float32, device=scale.device)],
                lr=lr,
                beta1=self.config.beta1,
                beta2=self.config.beta2,
                weight_decay=group.decay,
                eps=self.config.eps,
                amsgrad=False,
                maximize=False,
                grad_scale=scale.reciprocal().float() if clips else None,
            )
            if self._copies is not None:
                self._copies[span] = self.weights[span]

    def _take(self, numbers_T4: Tensor, scale: Tensor) -> None:
        """Take the step of all tensors at once."""
        given = self._any_number(numbers_T4), scale, self.config
        count, row = self._rows.weights.shape
        size = self._chunk // row
        parts = [self._part(slice(i, i + size)) for i in range(0, count, size)]
        if self.config.name == "adamw":
            for part in parts:
                self._ways.adamw(part, *given)
            return
        norms_R2 = torch.cat([self._ways.direct(part, *given) for part in parts])
        rate_T1 = numbers_T4[:, :1] * self._ratios(norms_R2)[:, None]
        for part in parts:
            self._ways.move(part, part.grads, self._any_number(rate_T1))

    def _part(self, rows: slice) -> Rows:
        """Those that are dealt with at once."""
        parts = (None if x is None else self._any_number(x[rows]) for x in self._rows)
        return Rows._make(parts)

    def _any_number(self, x: Tensor) -> Tensor:
        """Let a compiler make one function for all numbers of rows: for all stages."""
        if self._compiles:
            torch._dynamo.maybe_mark_dynamic(x, 0)
        return x

    def _ratios(self, norms_R2: Tensor) -> Tensor:
        """LAMB's trust ratios [T], by the norms of the rows of weights and steps."""
        columns = norms_R2.T.contiguous()
        found = torch._foreach_norm([column[rows] for column in columns for rows in self._tensors])
        weights_T, steps_T = torch.stack(found).view(2, -1)
        known = self._adapted_T & (weights_T > 0) & (steps_T > 0)
        return torch.where(known, weights_T / steps_T, 1.0)

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
