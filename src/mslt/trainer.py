"""One optimisation step: accumulate, clip, update. Built anew for each stage, never mutated.

In bf16, the layers and heads that compute are copies of the fp32 weights that learn: cast once per
step, or once per stage where they are fixed. Embeddings stay in fp32, since a frequent token's
gradient is a sum of hundreds of terms.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mslt.config import OptimizerConfig
from mslt.data.instances import Batch
from mslt.growth import forward_only, learning
from mslt.model import Encoder
from mslt.objective import Inputs, losses, scores
from mslt.optim import Moments, Optimizer
from mslt.phases import Phases
from mslt.prefix import Kind, Prefix
from mslt.world import World

Precision = Literal["fp32", "bf16"]


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
        compile: run layers that torch.compile has fused, but for int8 ones.
        pair: whether there is a sentence-pair loss.
        seed: of the dropout.
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

    @property
    def group(self) -> int:
        """Sequences that do go through the forward-only layers at once.

        These layers save nothing for a backward pass, so that more sequences go through them than
        through those that learn; except where dropout within them, seeded by micro-batch, is to be
        the same as in the learning layers' own pass.
        """
        if self.prefix == "exact":
            return self.micro_batch
        return max(1, self.prefix_batch // self.micro_batch) * self.micro_batch


class Trainer:
    """Trains the parameters of a model that ask for a gradient.

    Args:
        model: grown and frozen for the stage; fp32, on the device. Its weights move in place.
        settings: how a step is computed.
        moments: of every parameter that has any, by name; kept for those that do not learn now.
        world: where it runs.
        keep: makes of the forward-only layers something that keeps their output.
    """

    def __init__(
        self,
        model: Encoder,
        settings: Settings,
        moments: Moments,
        world: World | None = None,
        keep: Callable[[Prefix], Callable[[Inputs], Tensor]] | None = None,
    ) -> None:
        self.model = model
        self.settings = settings
        self.world = world or World()
        self._moments = moments
        parameters = dict(learning(model))
        self.optimizer = Optimizer(parameters, settings.optimizer, moments)
        self._compute = _half(model) if settings.precision == "bf16" else model
        self.prefix = Prefix(self._compute, forward_only(model), settings.prefix)
        self._pass_prefix = keep(self.prefix) if keep else self.prefix
        self.phases = Phases()
        if settings.compile:
            _compile(self._compute, self.prefix)
        halves = dict(self._compute.named_parameters())
        # Tensors that compute in bf16, beside the fp32 weights that they stand for.
        self._cast = [(halves[n], p) for n, p in parameters.items() if halves[n] is not p]

    def step(
        self,
        step: int,
        batch: Batch,
        lr: float,
        accept: Callable[[dict[str, float]], bool] | None = None,
    ) -> dict[str, Tensor]:
        """Train on one global batch.

        Args:
            step: the optimisation step, which seeds the dropout.
            batch: all sequences of the step.
            lr: the learning rate.
            accept: asked with what is returned before anything moves. Where it says no, weights,
                moments and their counts stay bit for bit as they were.

        Returns:
            Scalars on the device: `mlm_loss` and `pair_loss`, the means over the batch in nats,
            and `grad_norm`, before clipping. No `pair_loss` where there is no pair objective.
        """
        self._compute.train()
        sequences = len(batch.lengths)
        masked = float(batch.masked_weights.sum())
        mlm_sum = torch.zeros((), device=self.world.device)
        pair_sum = torch.zeros_like(mlm_sum)
        for start, inputs, x_BLD in self._micro_batches(step, batch):
            self._seed(step, start, "learning")
            with self.phases("forward"):
                mlm, pair = losses(
                    self._compute,
                    inputs,
                    x_BLD,
                    self.prefix.layers,
                    recompute=self.settings.recompute,
                )
                loss = mlm / masked
                if self.settings.pair:
                    loss = loss + pair / sequences
            with self.phases("backward"):
                loss.backward()
                self._collect()
            mlm_sum += mlm.detach()
            pair_sum += pair.detach()
        with self.phases("optimizer"):
            norm = self.optimizer.norm()
        metrics = {"mlm_loss": mlm_sum / masked, "grad_norm": norm}
        if self.settings.pair:
            metrics["pair_loss"] = pair_sum / sequences
        # The one place that decides: with several processes, theirs must agree here.
        if accept is None or accept({name: float(value) for name, value in metrics.items()}):
            with self.phases("optimizer"):
                self.optimizer.update(lr, norm)
                self._spread()
        else:
            self.optimizer.drop()
        return metrics

    def _micro_batches(
        self, step: int, batch: Batch
    ) -> Iterator[tuple[int, Inputs, Tensor | None]]:
        """Cut a batch up: first sequence, inputs, and the forward-only layers' output if any."""
        micro = self.settings.micro_batch
        group = self.settings.group if self.prefix.layers else micro
        for first in range(0, len(batch.lengths), group):
            inputs = Inputs.of(batch[first : first + group], self.world.device)
            x_BLD = None
            if self.prefix.layers:
                self._seed(step, first, "prefix")
                with self.phases("prefix"):
                    x_BLD = self._pass_prefix(inputs)
            for start in range(0, len(inputs.input_ids), micro):
                part = slice(start, start + micro)
                yield first + start, inputs[part], None if x_BLD is None else x_BLD[part]

    def _seed(self, step: int, start: int, part: str) -> None:
        """Make dropout a function of the step and the place in its batch.

        So nothing but the step has to be remembered to resume.
        """
        place = (self.settings.seed, step, start, ("prefix", "learning").index(part))
        seed = hash(place) & (2**63 - 1)
        if self.world.device == "cpu":
            # torch.manual_seed formats a stack trace for the GPUs that are not in use: 0.25 ms.
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)

    @torch.no_grad()
    def _collect(self) -> None:
        """Add the bf16 gradients of a micro-batch to the fp32 ones."""
        for half, full in self._cast:
            if half.grad is not None and full.grad is not None:
                full.grad += half.grad
                half.grad = None

    @torch.no_grad()
    def _spread(self) -> None:
        """Cast the updated weights for the next step."""
        for half, full in self._cast:
            half.copy_(full)

    @torch.no_grad()
    def evaluate(self, batches: list[Batch]) -> dict[str, float]:
        """Losses in nats and accuracies on held-out batches, without dropout."""
        self._compute.eval()
        sums: dict[str, float] = {}
        masked = sequences = 0.0
        for batch in batches:
            for start in range(0, len(batch.lengths), self.settings.micro_batch):
                part = batch[start : start + self.settings.micro_batch]
                parts = scores(self._compute, Inputs.of(part, self.world.device))
                sums = {name: sums.get(name, 0.0) + float(value) for name, value in parts.items()}
            masked += float(batch.masked_weights.sum())
            sequences += len(batch.lengths)
        result = {"mlm_loss": sums["mlm_loss"] / masked, "mlm_accuracy": sums["mlm_right"] / masked}
        if self.settings.pair:
            result["pair_loss"] = sums["pair_loss"] / sequences
            result["pair_accuracy"] = sums["pair_right"] / sequences
        return result

    def moments(self) -> Moments:
        """Moments of every parameter that has any, the fixed ones' included."""
        return self._moments | self.optimizer.moments()


def _half(model: Encoder) -> Encoder:
    """A copy that shares the embeddings and holds the layers and heads in bf16."""
    embeddings = model.embeddings
    shared = {id(tensor): tensor for tensor in embeddings.parameters()}
    half = copy.deepcopy(model, shared)
    half.blocks.to(torch.bfloat16)
    half.head.to(torch.bfloat16)
    return half


def _compile(model: Encoder, prefix: Prefix) -> None:
    """Let each layer run compiled.

    All layers of all stages are one function to the compiler: it makes one graph of it with and one
    without gradients, for all rows and for those needed, and keeps them on disk for the next run. A
    layer that it cannot compile runs as it is.
    """
    torch._dynamo.config.suppress_errors = True
    for block in model.blocks[prefix.layers :]:
        block.compile(dynamic=False)
    if prefix.kind != "int8":
        for block in prefix.blocks:
            block.compile(dynamic=False)


def pick_precision(wanted: str, device: str) -> Precision:
    """bf16 where the device multiplies bf16 matrices in hardware, else fp32.

    Raises:
        ValueError: bf16 is asked for on a GPU that lacks it.
    """
    if device.startswith("cuda"):
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        if wanted == "bf16" and not fast:
            raise ValueError("precision bf16 is not supported by this GPU: use fp32")
    else:
        # AMX is what makes it pay; AVX512-bf16 alone gains little, and emulation loses.
        fast = torch.cpu._is_amx_tile_supported()
    if wanted == "auto":
        return "bf16" if fast else "fp32"
    return "bf16" if wanted == "bf16" else "fp32"


def pick_device(wanted: str) -> str:
    """The device to train on: `auto` is the first GPU, else the CPU.

    Raises:
        ValueError: a GPU is asked for and there is none.
    """
    if wanted == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {wanted} was asked for, but torch sees no GPU")
    return wanted
