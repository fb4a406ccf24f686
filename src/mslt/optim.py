"""LAMB and AdamW over one flat buffer; moments kept by parameter name.

AdamW and LAMB share their update: Adam's step plus decoupled weight decay (Loshchilov and Hutter
2019). LAMB (You et al. 2019, algorithm 2) scales it, tensor by tensor, by the trust ratio
‖w‖ / ‖update‖. All tensors that learn lie in one buffer, so that an update is a handful of
operations whatever their number, and clipping needs one norm.

The buffer is cut into rows, and each tensor begins one: what holds for an element, its rate, its
decay and how young its moments are, is a number of its row.

Shapes: R rows, C elements of a row, T tensors, as LAMB counts them.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mslt.config import OptimizerConfig
from mslt.machine import to_device


class Moment(NamedTuple):
    """What Adam remembers of one parameter: mean gradient, mean square, and updates so far."""

    mean: Tensor
    square: Tensor
    updates: int


Moments = dict[str, Moment]

# Elements that are updated at once where it is not compiled: on a CPU 2 MB in each of six buffers,
# best of 0.1 to 4. A GPU takes more, so that its kernels fill it.
CHUNK, GPU_CHUNK = 1 << 19, 1 << 26

# Elements of a row, at most.
ROW = 128

Given = list[Tensor | None]
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


def _matrices(name: str) -> int:
    """How many tensors LAMB takes it for: by query, key and value we multiply at once."""
    return 3 if ".qkv." in name and decays(name) else 1


def at_once(work: Work, given: Given) -> None:
    """Do work that is not recorded."""
    work(*given)


class Optimizer:
    """LAMB or AdamW on the parameters that learn.

    The parameters' data is moved into one flat fp32 buffer, and their `grad` is a view of another,
    in which the gradients of a step are to be put together.

    Args:
        parameters: by name; fp32, on one device.
        config: which of the two, and its constants.
        moments: of an earlier stage or run, by name; parameters without any start from zero.
        room: keep `copies` in bf16, with room for so many elements of a parameter where these are
            more than it has; None for no copies.
        compile: let torch.compile make one pass of an update, or two of LAMB's.
        run: does work on tensors that it is given, or repeats a record of it.

    Raises:
        ValueError: nothing learns, or a moment has another shape than its parameter.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        config: OptimizerConfig,
        moments: Moments | None = None,
        *,
        room: Mapping[str, int] | None = None,
        compile: bool = False,
        run: Callable[[Work, Given], Any] = at_once,
    ) -> None:
        if not parameters:
            raise ValueError("no parameter learns: there is nothing to optimise")
        self.config = config
        moments = moments or {}

        def order(name: str) -> tuple[bool, int]:
            return decays(name), moments[name].updates if name in moments else 0

        sizes = {name: parameters[name].numel() for name in sorted(parameters, key=order)}
        row = math.gcd(ROW, *(size // 3 for name, size in sizes.items() if _matrices(name) == 3))
        self._spans: dict[str, tuple[slice, torch.Size]] = {}
        self._room: dict[str, slice] = {}
        start = 0
        for name, size in sizes.items():
            most = math.ceil(max(size, (room or {}).get(name, 0)) / row) * row
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
        self._copies = None if room is None else self.weights.bfloat16()
        self._cut(row)
        self._run = run
        self._chunk = CHUNK if device.type == "cpu" else GPU_CHUNK
        # Without a compiler, torch's own kernel reads and writes all once.
        self._fused = config.name == "adamw" and not compile
        self._compiles = compile
        self._adamw: Work = _adamw
        self._direct: Callable[..., Tensor] = _direct
        self._move: Work = _move
        if compile:
            self._chunk = start
            self._adamw, self._move = torch.compile(_adamw), torch.compile(_move)
            self._direct = torch.compile(_direct)

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
            each = (stop - first) // _matrices(name)
            for start in range(first, stop, each):
                tensor_R[start : start + each] = len(self._tensors)
                self._tensors.append(slice(start, start + each))
                self._groups_T.append(self._group_of[name])
                adapted.append(decays(name))
        device = self.weights.device
        self._tensor_R = torch.from_numpy(tensor_R).to(device)
        self._adapted_T = torch.tensor(adapted, device=device)
        self._buffers = [
            None if buffer is None else buffer.view(count, row)
            for buffer in (self.grads, self.mean, self.square, self.weights, self._copies)
        ]

    def spans(self) -> dict[str, slice]:
        """Where each parameter lies in the buffers, by name, first to last."""
        return {name: span for name, (span, _) in self._spans.items()}

    def copies(self) -> dict[str, Tensor] | None:
        """The weights in bf16, which follow them, by name: flat, and zeros in the room behind."""
        if self._copies is None:
            return None
        return {name: self._copies[room] for name, room in self._room.items()}

    def norm(self) -> Tensor:
        """The accumulated gradients' norm over all tensors, a scalar on the device."""
        return torch.linalg.vector_norm(self.grads)

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
        """Prepare a step, so that once it is decided on nothing has to wait: it is only called.

        Args:
            lr: the learning rate.
            norm: that of the gradients, before clipping.
        """
        scale = torch.ones_like(norm)
        if self.config.clip_norm:
            scale = (self.config.clip_norm / (norm + 1e-6)).clamp(max=1.0)
        if self._fused:
            return partial(self._count, partial(self._fuse, lr, scale))
        numbers = torch.tensor([self._numbers(group, lr) for group in self._groups_T]).numpy()
        given: Given = [to_device(numbers, str(self.weights.device)), scale]
        return partial(self._count, partial(self._run, self._take, given))

    def _numbers(self, group: _Group, lr: float) -> tuple[float, ...]:
        """The learning rate, and what else a direction depends on: see `_directed`."""
        betas, updates = (self.config.beta1, self.config.beta2), group.updates + 1
        return lr, group.decay, *(1 - beta**updates for beta in betas)

    def _count(self, step: Callable[[], None]) -> None:
        for group in self._groups:
            group.updates += 1
        with torch.no_grad():
            step()

    def _fuse(self, lr: float, scale: Tensor) -> None:
        """AdamW by torch's kernel."""
        # A CPU can tell whether anything is to be clipped, and else spare to write gradients back.
        clips = scale.device.type != "cpu" or bool(scale < 1)
        for group in self._groups:
            for part in self._parts(group.span, self._chunk):
                torch._fused_adamw_(
                    [self.weights[part]],
                    [self.grads[part]],
                    [self.mean[part]],
                    [self.square[part]],
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
                    self._copies[part] = self.weights[part]

    def _take(self, numbers_T4: Tensor, scale: Tensor) -> None:
        """Take the step of all tensors at once."""
        rate_R1, *numbers = numbers_T4[self._tensor_R].split(1, 1)
        *adam, copies = self._buffers
        if self.config.name == "adamw":
            for part in self._chunks(copies, rate_R1, *adam, *numbers):
                self._adamw(*part, scale, self.config)
            return
        norms = [self._direct(*part, scale, self.config) for part in self._chunks(*adam, *numbers)]
        rate_T1 = numbers_T4[:, :1] * self._ratios(torch.cat(norms))[:, None]
        step, *_, weights = adam
        for part in self._chunks(weights, copies, rate_T1[self._tensor_R], step):
            self._move(*part)

    def _chunks(self, *of_rows: Tensor | None) -> Iterator[list[Any]]:
        """The rows of each that are dealt with at once."""
        row = len(self.weights) // len(self._tensor_R)
        for rows in self._parts(slice(0, len(self._tensor_R)), self._chunk // row):
            parts = [None if x is None else x[rows] for x in of_rows]
            for part in parts if self._compiles else ():
                if part is not None:  # one function for the buffers of all stages
                    torch._dynamo.maybe_mark_dynamic(part, 0)
            yield parts

    @staticmethod
    def _parts(span: slice, size: int) -> Iterator[slice]:
        for start in range(span.start, span.stop, size):
            yield slice(start, min(start + size, span.stop))

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


def _directed(
    grads_RC: Tensor,
    mean_RC: Tensor,
    square_RC: Tensor,
    weights_RC: Tensor,
    decay_R1: Tensor,
    mean_bias_R1: Tensor,
    square_bias_R1: Tensor,
    scale: Tensor,
    config: OptimizerConfig,
) -> Tensor:
    """Adam's direction [R, C]; moves the moments.

    Args:
        grads_RC: gradients.
        mean_RC: first moments.
        square_RC: second moments.
        weights_RC: what decays.
        decay_R1: of the weights.
        mean_bias_R1: what the first moments lack, being young.
        square_bias_R1: what the second ones lack.
        scale: by which gradients are clipped.
        config: the constants.
    """
    clipped_RC = grads_RC * scale
    mean_RC.lerp_(clipped_RC, 1 - config.beta1)
    square_RC.mul_(config.beta2).addcmul_(clipped_RC, clipped_RC, value=1 - config.beta2)
    root_RC = (square_RC / square_bias_R1).sqrt_().add_(config.eps).mul_(mean_bias_R1)
    return torch.div(mean_RC, root_RC).addcmul_(weights_RC, decay_R1)


def _adamw(copies_RC: Tensor | None, rate_R1: Tensor, *adam: Any) -> None:
    """Take a step; `adam` is what `_directed` takes."""
    _move(adam[3], copies_RC, rate_R1, _directed(*adam))


def _direct(*adam: Any) -> Tensor:
    """Put the direction in the gradients' place; norms of the rows of weights and directions."""
    direction_RC = _directed(*adam)
    adam[0].copy_(direction_RC)
    return torch.stack([x.square().sum(1).sqrt() for x in (adam[3], direction_RC)], 1)


def _move(
    weights_RC: Tensor, copies_RC: Tensor | None, rate_R1: Tensor, direction_RC: Tensor
) -> None:
    """Take a step, and keep the copies alike."""
    weights_RC.addcmul_(direction_RC, rate_R1, value=-1)
    if copies_RC is not None:
        copies_RC.copy_(weights_RC)
