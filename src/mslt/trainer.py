"""One optimisation step: accumulate, clip, update. Built anew for each stage, never mutated."""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from mslt.config import OptimizerConfig
from mslt.data.instances import Batch
from mslt.devices import Precision
from mslt.dropout import deal_words
from mslt.graphs import Graphs
from mslt.growth import forward_only, learning
from mslt.kernels import find
from mslt.machine import Sent, keep_freed_memory, seed, to_device
from mslt.model import Encoder, equip
from mslt.objective import Inputs, Objective, pretraining, scores
from mslt.optim import Moments, Optimizer
from mslt.phases import Phases
from mslt.prefix import Kind, Prefix
from mslt.reducer import Reducer, Wire
from mslt.twin import Twin, room
from mslt.world import Sum, World

Made = TypeVar("Made")

SCORES = ("mlm_loss", "mlm_right", "pair_loss", "pair_right")

# Tokens of the next step that may wait behind the forward-only layers: 200 MB of BERT-Base in fp32.
AHEAD_TOKENS = 65_536


@dataclass(frozen=True)
class Settings:
    """How a step is computed, whatever the stage.

    Args:
        optimizer: LAMB or AdamW, and its constants.
        precision: of the layers' arithmetic.
        micro_batch: sequences that go through the learning layers at once.
        prefix_batch: sequences that go through the forward-only layers at once, a multiple of
            micro_batch; only as many as that where these layers are computed exactly.
        prefix: how the forward-only layers compute.
        recompute: save memory by computing the learning layers twice.
        compile: run layers, embeddings, loss and updates as torch.compile has fused them, but for
            what is packed for a CPU; alone on a GPU, from CUDA graphs.
        kernels: else on a CPU, let updates be our own functions in C, where there is a compiler for
            them, and what layers compute between products or, with AMX, all of a fixed layer.
        pair: whether there is a sentence-pair loss.
        seed: of the dropout.
        first: place of this process' first sequence in the batch of a step.
        reduce: how gradients travel between processes.
        look_ahead: pass the next step's forward-only layers while they do, or while a GPU would
            wait for its step to be accepted.
    """

    optimizer: OptimizerConfig
    precision: Precision
    micro_batch: int
    pair: bool
    seed: int
    prefix: Kind = "exact"
    prefix_batch: int = 0
    recompute: bool = False
    compile: bool = False
    kernels: bool = True
    first: int = 0
    reduce: Wire = "fp32"
    look_ahead: bool = False

    @property
    def group(self) -> int:
        """Sequences that do go through the forward-only layers at once.

        These layers save nothing for a backward pass, so that more sequences go through them than
        through those that learn; but no more where they have dropout, which is to fall as it does
        with other processes, that take micro-batches each.
        """
        if self.prefix == "exact":
            return self.micro_batch
        return max(1, self.prefix_batch // self.micro_batch) * self.micro_batch


# First sequence in the step's batch, inputs, and the forward-only layers' output if any.
Group = tuple[int, Inputs, Tensor | None]


@dataclass
class _Ahead:
    """What is done already of a step."""

    step: int
    batch: Batch
    counts: Tensor
    groups: list[Group]  # that have passed the forward-only layers, the first ones


class Trainer:
    """Trains the parameters of a model that ask for a gradient.

    Args:
        model: grown and frozen for the stage; fp32, on the device. Its weights move in place.
        settings: how a step is computed.
        moments: of every parameter that has any, by name; kept for those that do not learn now.
        world: where it runs.
        keep: makes of the forward-only layers something that keeps their output.
        objective: what a step minimises; by default the losses of pre-training.
    """

    def __init__(
        self,
        model: Encoder,
        settings: Settings,
        moments: Moments,
        world: World | None = None,
        keep: Callable[[Prefix], Callable[[Inputs], Tensor]] | None = None,
        objective: Objective | None = None,
    ) -> None:
        if model.device.type == "cpu":
            keep_freed_memory()
        elif model.device.type == "cuda":
            torch.cuda.set_device(model.device)  # of which graphs and events are then
        self.model = model
        self.settings = settings
        self.world = world or World()
        self.objective = objective or pretraining(settings.pair)
        self._moments = moments
        parameters = dict(learning(model))
        alone = self.world.size == 1 and model.device.type == "cuda"
        self._graphs = Graphs() if alone and settings.compile and not settings.recompute else None
        half = settings.precision == "bf16"
        on_cpu = model.device.type == "cpu" and model.dtype == torch.float32
        in_c = on_cpu and settings.kernels and not settings.compile
        kernels = find(torch.bfloat16 if half else torch.float32) if in_c else None
        self.optimizer = Optimizer(
            parameters,
            settings.optimizer,
            moments,
            copies=half,
            room=room(model),
            compile=settings.compile,
            kernels=kernels,
            record=partial(self._graphs, "update") if self._graphs else None,
        )
        where = self.optimizer.grads, self.optimizer.spans(), list(parameters)
        self.reducer = Reducer(*where, self.world, settings.reduce)
        complete = None if alone else self.reducer.complete
        self.twin = Twin(model, copies=self.optimizer.copies(), complete=complete)
        self.computing = self.twin.model.train()
        equip(self.computing, kernels)
        self.prefix = Prefix(self.computing, forward_only(model), settings.prefix)
        self._fast_prefix = keep(self.prefix) if keep else self.prefix
        self.phases = self.world.phases
        self._words: Tensor | None = None
        if settings.compile:
            if model.device.type == "cuda" and model.config.repeat == 1:
                # Where layers share a block they would share its masks too.
                self._words = deal_words(self.computing, model.device)
            _compile(self.computing, self.prefix)
        self._ahead: _Ahead | None = None

    def step(
        self,
        step: int,
        batch: Batch,
        lr: float,
        accept: Callable[[dict[str, float]], bool] | None = None,
        upcoming: Callable[[], Batch] | None = None,
    ) -> dict[str, Tensor]:
        """Train on one global batch.

        Args:
            step: the optimisation step, which seeds the dropout.
            batch: the sequences of the step that are this process' part.
            lr: the learning rate.
            accept: asked with what is returned before anything moves. Where it says no, weights,
                moments and their counts stay bit for bit as they were. It is asked the same in
                every process.
            upcoming: makes the batch of the next step, and keeps it for then. It is called while
                the device computes, or while gradients travel. So may be the forward-only layers
                of that step, which depend on nothing that this one changes.

        Returns:
            Scalars on the device: the objective's parts, means over the batch, and `grad_norm`,
            before clipping.
        """
        ahead, self._ahead = self._ahead, None
        if ahead is None or ahead.step != step or ahead.batch is not batch:
            ahead = _Ahead(step, batch, self._counts(batch), [])
        counts = ahead.counts
        counted = self.world.sum(counts)
        sums = torch.zeros(len(counts), device=self.world.device)
        end = self.settings.first + len(batch.lengths)
        self.twin.begin()
        for start, inputs, x_BLD in self._micro_batches(ahead):
            self._seed(step, "learning", start)
            last = start + len(inputs.input_ids) == end
            sums += self._learn(inputs, x_BLD, counts, counted, last=last)
        self.optimizer.drop(self.twin.left)
        following = None if upcoming is None else partial(self._follow, step + 1, upcoming)
        if self.world.size > 1:
            self._reduce(sums, following)
        with self.phases("optimizer"):
            norm = self.optimizer.norm()
            move = self.optimizer.ready(lr, norm)
        metrics = dict(zip(self.objective.names, sums / counts), grad_norm=norm)
        sent = Sent(torch.stack([*metrics.values()]))
        if self.world.size == 1 and following:
            following()
        # The one place that decides. What it is asked with are sums over all processes.
        if accept is None or accept(dict(zip(metrics, sent.arrived()))):
            with self.phases("optimizer"):
                move()
        return metrics

    def _learn(
        self, inputs: Inputs, x_BLD: Tensor | None, counts: Tensor, counted: Sum, *, last: bool
    ) -> Tensor:
        """Add a micro-batch's gradients; the objective's parts of it, sums [parts]."""

        def work(
            inputs: Inputs, x_BLD: Tensor | None, counts: Tensor
        ) -> tuple[Tensor, frozenset[str]]:
            with self.phases("forward"):
                parts = self._losses(inputs, x_BLD)
                counted.wait()
                loss = (parts / counts).sum()
            with self.phases("backward"):
                if last:
                    self.reducer.begin()
                self.twin.backward(loss)
            return parts.detach(), self.twin.left

        # The first gradients of a step are written, those of later micro-batches added.
        parts, self.twin.left = self._replayed(
            ("learn", self.twin.left), work, inputs, x_BLD, counts
        )
        return parts

    def _replayed(
        self, name: Hashable, work: Callable[..., Made], inputs: Inputs, *more: Tensor | None
    ) -> Made:
        """work(inputs, *more), on a GPU as a record of it, if there may be one."""
        if self._graphs is None or self.phases.timed:
            return work(inputs, *more)
        names = [field.name for field in fields(inputs) if field.name != "ids"]

        def of_tensors(*tensors: Any) -> Made:
            given = replace(inputs, **dict(zip(names, tensors)))
            return work(given, *tensors[len(names) :])

        return self._graphs(name, of_tensors, [*(getattr(inputs, n) for n in names), *more])

    def _losses(self, inputs: Inputs, x_BLD: Tensor | None) -> Tensor:
        """The objective's parts of a micro-batch, sums [parts]."""
        how, layers = self.settings.recompute, self.prefix.layers
        return torch.stack(
            list(self.objective.losses(self.computing, inputs, x_BLD, layers, recompute=how))
        )

    def _reduce(self, sums: Tensor, following: Callable[[], None] | None) -> None:
        """Add up gradients and losses over all processes, and use the time for the next step."""
        with self.phases("reduce"):
            self.reducer.finish()
            summed = self.world.sum(sums)
        if following:
            following()
        with self.phases("reduce"):
            self.reducer.wait()
            summed.wait()

    def _follow(self, step: int, upcoming: Callable[[], Batch]) -> None:
        """Make the batch of a step to come, and pass its forward-only layers.

        One group of it, and more until the gradients have arrived: passing more than the time
        allows costs nothing but memory, since it has to be done anyway.
        """
        with self.phases("data"):
            batch = upcoming()
        if not self.settings.look_ahead:
            return
        self._ahead = ahead = _Ahead(step, batch, self._counts(batch), [])
        tokens = 0
        for first in self._starts(batch):
            ahead.groups.append(self._group(step, batch, first))
            tokens += ahead.groups[-1][1].input_ids.numel()
            if self.world.size == 1 or tokens >= AHEAD_TOKENS or self.reducer.done():
                break

    def _counts(self, batch: Batch) -> Tensor:
        """By what the objective's parts are divided, on the device, for this process' batch."""
        return to_device(np.array(self.objective.counts(batch), np.float32), self.world.device)

    def _micro_batches(self, ahead: _Ahead) -> Iterator[Group]:
        """Cut this process' part of a batch up."""
        micro = self.settings.micro_batch
        for first, inputs, x_BLD in self._groups(ahead):
            for start in range(0, len(inputs.input_ids), micro):
                part = slice(start, start + micro)
                yield first + start, inputs[part], None if x_BLD is None else x_BLD[part]

    def _groups(self, ahead: _Ahead) -> Iterator[Group]:
        """What goes through the forward-only layers at once, those passed already first."""
        for first in self._starts(ahead.batch):
            done = ahead.groups
            yield done.pop(0) if done else self._group(ahead.step, ahead.batch, first)

    def _starts(self, batch: Batch) -> range:
        """Rows of this process' part where groups begin."""
        group = self.settings.group if self.prefix.layers else self.settings.micro_batch
        return range(0, len(batch.lengths), group)

    def _group(self, step: int, batch: Batch, row: int) -> Group:
        """The group that begins at a row, through the forward-only layers."""
        part = batch[row : row + self._starts(batch).step]
        inputs = self.objective.inputs(part, self.world.device)
        first = self.settings.first + row
        if not self.prefix.layers:
            return first, inputs, None
        with self.phases("prefix"):
            if self.prefix.kind == "exact" and self.world.device == "cpu":
                place = partial(self._seed, step, "prefix", first)
                return first, inputs, self.prefix(inputs, place)
            self._seed(step, "prefix", first)
            if self._fast_prefix is not self.prefix:  # it reads files
                return first, inputs, self._fast_prefix(inputs)
            return first, inputs, self._replayed("prefix", self.prefix, inputs)

    def time(self, phases: Phases) -> None:
        """Let all phases of the steps to come be timed: nothing has been done before its own."""
        self.phases, self._ahead = phases, None

    def _seed(self, step: int, part: str, start: int, more: int = 0) -> None:
        """Make dropout a function of the step and the place in its batch.

        So nothing but the step has to be remembered to resume.
        """
        place = (self.settings.seed, step, start + more, ("prefix", "learning").index(part))
        seed(self.world.device, hash(place) & (2**63 - 1))
        if self._words is not None:
            self._words.random_()

    @torch.no_grad()
    def evaluate(self, batches: list[Batch]) -> dict[str, float]:
        """Losses in nats and accuracies on held-out batches, without dropout."""
        self.computing.eval()
        size = self.settings.micro_batch
        parts = [b[i : i + size] for b in batches for i in range(0, len(b.lengths), size)]
        sums = torch.zeros(len(SCORES), dtype=torch.float64)
        try:
            with self.phases("evaluate"):
                for part in parts[self.world.rank :: self.world.size]:
                    values = scores(self.computing, Inputs.of(part, self.world.device))
                    sums += torch.tensor([float(values[n]) for n in SCORES], dtype=sums.dtype)
                sums = sums.to(self.world.device)
                self.world.sum(sums).wait()
        finally:
            self.computing.train()  # now, and not as a step begins, for which a GPU would wait
        found = dict(zip(SCORES, sums.tolist()))
        masked = sum(float(batch.masked_weights.sum()) for batch in batches)
        sequences = sum(len(batch.lengths) for batch in batches)
        result = {
            "mlm_loss": found["mlm_loss"] / masked,
            "mlm_accuracy": found["mlm_right"] / masked,
        }
        if self.settings.pair:
            result["pair_loss"] = found["pair_loss"] / sequences
            result["pair_accuracy"] = found["pair_right"] / sequences
        return result

    def moments(self) -> Moments:
        """Moments of every parameter that has any, the fixed ones' included."""
        return self._moments | self.optimizer.moments()


def _compile(model: Encoder, prefix: Prefix) -> None:
    """Let each layer run compiled.

    All layers of all stages are one function to the compiler: it makes one graph of it with and one
    without gradients, for all rows and for those needed, and keeps them on disk for the next run. A
    layer that it cannot compile runs as it is.
    """
    from torch._inductor import config as inductor  # takes a second

    torch._dynamo.config.suppress_errors = True
    # As many as there are kinds of batch and layer: beyond them all would run as it is, unsaid.
    torch._dynamo.config.recompile_limit = 64
    # Rows that one block of a GPU adds up in a LayerNorm's backward pass. With 131,072 rows in all
    # torch takes 64, two at a time, for which registers do not suffice: an eighth of a step.
    inductor.triton.mix_order_reduction_split_size = 16
    model.embeddings.compile(dynamic=False)
    model.head.slopes.compile(dynamic=False)
    for block in model.blocks[model.config.blocks(prefix.layers) :]:
        block.compile(dynamic=False)
    prefix.compile()
