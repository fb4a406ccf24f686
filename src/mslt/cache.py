"""The forward-only layers' output, computed once for each instance and then read from a disk.

Their weights are fixed, so where instances come again (`instances.dupe_factor`) their output does
too. A record holds it for the group of sequences that goes through the layers at once, in bf16. It
is that group or nothing: sequences in other company are computed with other rounding.

The output is rounded to bf16 whether it is kept or not, at each depth from which a stage of the
plan learns. So a record that an earlier stage kept, taken through the layers that were fixed since,
is bit for bit what the tokens give; and a folder that is full, lost, damaged or left by another run
changes the time that training takes, and nothing else.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mslt.data.instances import Instances
from mslt.model import Encoder
from mslt.objective import Inputs
from mslt.plan import Plan
from mslt.prefix import Prefix
from mslt.records import ORIGIN, Records


@dataclass(frozen=True)
class Visits:
    """When the batches of one length go through forward-only layers, and which of them come again.

    Args:
        start: the first such step of the plan.
        stop: the one after the last.
        period: steps after which a batch comes again.
    """

    start: int
    stop: int
    period: int

    @classmethod
    def of(cls, plan: Plan, seq_len: int, period: int) -> "Visits":
        """Those of a length in a plan; none where no stage of that length fixes layers."""
        spans = [
            (end - stage.steps, end)
            for stage, end in zip(plan.stages, plan.ends)
            if stage.learns_from and stage.seq_len == seq_len
        ]
        return cls(spans[0][0], spans[-1][1], period) if spans else cls(0, 0, period)

    @property
    def batches(self) -> int:
        """Batches that are seen more than once: those of the first of these steps."""
        return max(0, min(self.period, self.stop - self.start - self.period))

    def place(self, step: int) -> int:
        """Which batch a step has, counted from the first of these steps."""
        return (step - self.start) % self.period


def cuts(plan: Plan, index: int) -> tuple[int, ...]:
    """Depths, ascending, at which the output is rounded in stage `index`; the last is its own."""
    stages = plan.stages[: index + 1]
    length = stages[-1].seq_len
    return tuple(sorted({s.learns_from for s in stages if s.learns_from and s.seq_len == length}))


def origins(model: Encoder, depths: tuple[int, ...], facts: Mapping[str, Any]) -> dict[int, bytes]:
    """What identifies the output of a model's lowest layers, by their number.

    Args:
        model: the fp32 weights.
        depths: ascending numbers of layers, at each of which the output is rounded.
        facts: all that decides the output beside the weights, as JSON has it.
    """
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    _add(digest, model.embeddings)
    found, below = {}, 0
    for depth in depths:
        _add(digest, model.blocks[model.config.blocks(below) : model.config.blocks(depth)])
        digest.update(f"rounded at {depth}".encode())
        found[depth] = digest.digest()[:ORIGIN]
        below = depth
    return found


def _add(digest: Any, module: nn.Module) -> None:
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy())


class CachedPrefix:
    """A `Prefix` whose output is kept, and read where it was kept.

    Args:
        prefix: what computes it, without dropout.
        records: where it is kept.
        origins: what identifies the output by depth, ascending; the last is the prefix' own.
        number: of the record for a group of sequences.
        tally: counts the groups that were `read`, `carried` on from an earlier depth, `computed`.
    """

    def __init__(
        self,
        prefix: Prefix,
        records: Records,
        origins: Mapping[int, bytes],
        number: Callable[[Inputs], int],
        tally: Counter[str],
    ) -> None:
        assert prefix.kind != "exact", "dropout is new each time"
        assert prefix.layers == max(origins)
        self.prefix = prefix
        self._records = records
        self._origins = dict(origins)
        self._depths = {origin: depth for depth, origin in origins.items()}
        self._number = number
        self._tally = tally

    @torch.no_grad()
    def __call__(self, inputs: Inputs) -> Tensor:
        """Output of the highest of the layers, in the dtype of those that learn: [B, L, D]."""
        number = self._number(inputs)
        depth, x_BLD = self._kept(number, inputs)
        left = [cut for cut in self._origins if cut > depth]
        self._tally["computed" if not depth else "carried" if left else "read"] += 1
        for cut in left:
            x_BLD = self.prefix.through(inputs, x_BLD, depth, cut).bfloat16()
            depth = cut
        assert x_BLD is not None
        if left:
            words_BLD = x_BLD.contiguous().view(torch.int16).cpu().numpy()
            self._records.write(number, self._origins[depth], words_BLD)
        return x_BLD.to(self.prefix.dtype)

    def _kept(self, number: int, inputs: Inputs) -> tuple[int, Tensor | None]:
        """How many layers a group has passed already, and their output; 0 where none is kept."""
        depth = self._depths.get(self._records.origin(number), 0)
        if not depth:
            return 0, None
        words_BLD = np.empty((*inputs.input_ids.shape, self.prefix.width), np.int16)
        if not self._records.read(number, words_BLD):
            return 0, None
        x_BLD = torch.from_numpy(words_BLD).view(torch.bfloat16)
        return depth, x_BLD.to(inputs.input_ids.device)


Keep = Callable[[Prefix], CachedPrefix]


class PrefixCache:
    """The records of a run, stage after stage.

    Args:
        records: where they are kept.
        plan: the stages.
        instances: what comes again.
        rows: by stage, which sequences of a batch are this process' part.
        facts: what decides the output beside weights, length and grouping, as JSON has it.
        say: tells the user something.
    """

    def __init__(
        self,
        records: Records,
        plan: Plan,
        instances: Instances,
        rows: Callable[[int], slice],
        facts: Mapping[str, Any],
        say: Callable[[str], None],
    ) -> None:
        self._records = records
        self._plan = plan
        self._instances = instances
        self._rows = rows
        self._facts = facts
        self._say = say
        self._tally: Counter[str] = Counter()

    def stage(self, index: int, model: Encoder, group: int) -> Keep | None:
        """What makes a `CachedPrefix` of a stage's prefix; None where no layer is only forward.

        Args:
            index: of the stage.
            model: as it stands there, fp32.
            group: sequences that go through the layers at once.
        """
        self.report()
        stage = self._plan.stages[index]
        if not stage.learns_from:
            if not any(later.learns_from for later in self._plan.stages[index:]):
                self._records.drop()
            return None
        batch_size = self._instances.batch_size
        first, end, _ = self._rows(index).indices(batch_size)
        visits = Visits.of(self._plan, stage.seq_len, self._instances.period(stage.seq_len))
        order = {"seq_len": stage.seq_len, "group": group, "start": visits.start}
        facts = order | {"rows": [first, end], **self._facts}
        known = origins(model, cuts(self._plan, index), facts)
        groups = -(-(end - first) // group)
        size = min(group, end - first) * stage.seq_len * model.config.hidden_size * 2
        self._make_room(visits, visits.batches * groups, size, set(known.values()))

        def number(inputs: Inputs) -> int:
            step, row = divmod(int(inputs.ids[0]), batch_size)
            return visits.place(step) * groups + (row - first) // group

        return partial(
            CachedPrefix,
            records=self._records,
            origins=known,
            number=number,
            tally=self._tally,
        )

    def _make_room(self, visits: Visits, count: int, size: int, known: set[bytes]) -> None:
        room = self._records.shape(count, size)
        text = (
            f"{visits.batches:,} batches come again after {visits.period:,} steps, "
            f"{count * size / 1e9:,.3g} GB"
        )
        if room < count:
            text += (
                f", of which {room * size / 1e9:,.3g} fit (prefix_cache_gb); "
                f"the rest is computed each time"
            )
        ours, others = self._records.made_from(known)
        if ours:
            text += f"; {ours:,} of {room:,} records are there already"
        if others:
            text += f"; {others:,} of other weights or settings will be replaced"
        self._say(f"prefix cache: {text}")

    def report(self) -> None:
        """Say what a stage's steps have found, once it is over."""
        if self._tally:
            self._say(
                f"prefix cache: {self._tally['read']:,} groups of sequences read, "
                f"{self._tally['carried']:,} carried on from the layers below, "
                f"{self._tally['computed']:,} computed"
            )
        self._tally.clear()
