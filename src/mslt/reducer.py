"""Adding up the gradients of all processes, while the backward pass still computes.

Torch's own wrapper is not used: gradients already lie in one buffer, of those parameters alone that
learn in the stage, so that slices of it travel as they are; and a trainer is built anew for each
stage, so that nothing of an earlier stage's trainable set can be left over.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from mslt.world import Sum, World

Wire = Literal["fp32", "bf16"]

# Elements of a bucket: about one layer of BERT-Base, 32 MB in fp32.
BUCKET = 1 << 23


def buckets(spans: Mapping[str, slice], order: Sequence[str]) -> list[tuple[slice, list[str]]]:
    """Cut a buffer into slices of whole tensors: those that are complete first come first.

    Args:
        spans: where each tensor lies, by name; neighbours, but for gaps that align them.
        order: names in the order of the forward pass, whose reverse is that of the backward pass.

    Returns:
        Slice and names of each bucket.
    """
    cut: list[tuple[slice, list[str]]] = []
    for name, span in reversed(list(spans.items())):
        last = cut[-1][0] if cut else None
        if last is None or last.stop - span.start > BUCKET:
            cut.append((span, [name]))
        else:
            cut[-1] = slice(span.start, last.stop), [*cut[-1][1], name]
    place = {name: number for number, name in enumerate(order)}
    return sorted(cut, key=lambda bucket: -min(place[name] for name in bucket[1]))


class Reducer:
    """Sums a buffer of gradients over all processes, each bucket as soon as it is complete.

    Buckets leave in the same order in every process, whatever the order of their completion.

    Args:
        grads: the buffer, fp32.
        spans: where each parameter's gradient lies in it.
        order: names in the order of the forward pass.
        world: the processes; alone, nothing happens.
        wire: bf16 rounds what travels, and halves the bytes.
    """

    def __init__(
        self,
        grads: Tensor,
        spans: Mapping[str, slice],
        order: Sequence[str],
        world: World,
        wire: Wire = "fp32",
    ) -> None:
        self.bytes = 0  # handed over for reduction in the last step
        self._grads = grads
        self._world = world
        self._wire = wire
        self._buckets = buckets(spans, order) if world.size > 1 else []
        self._bucket_of = {n: i for i, (_, names) in enumerate(self._buckets) for n in names}
        self._missing: list[set[str]] = []
        self._sent: list[tuple[Sum, slice, Tensor]] = []

    def begin(self) -> None:
        """From now on a gradient that is `complete` may travel: the last backward pass begins."""
        self._missing = [set(names) for _, names in self._buckets]
        self.bytes = 0

    def complete(self, name: str) -> None:
        """Say that a parameter's gradient has this process' whole part of the step."""
        if self._missing and name in self._bucket_of:
            self._missing[self._bucket_of[name]].discard(name)
            while len(self._sent) < len(self._missing) and not self._missing[len(self._sent)]:
                self._send()

    def finish(self) -> None:
        """Send what is left: all gradients are complete."""
        while len(self._sent) < len(self._buckets):
            self._send()
        self._missing = []

    def _send(self) -> None:
        span, _ = self._buckets[len(self._sent)]
        part = self._grads[span]
        if self._wire == "bf16":
            part = part.bfloat16()
        self.bytes += part.nbytes
        self._sent.append((self._world.sum(part), span, part))

    def done(self) -> bool:
        """Whether all have arrived, so that `wait` would return at once."""
        return all(on_its_way.done() for on_its_way, _, _ in self._sent)

    @torch.no_grad()
    def wait(self) -> None:
        """Return when the buffer holds the sums.

        Raises:
            ConnectionError: another process is gone.
        """
        for on_its_way, span, part in self._sent:
            on_its_way.wait()
            if self._wire == "bf16":
                self._grads[span] = part
        self._sent = []
