"""What a step takes on many processes, calculated from its parts. Imports no torch.

A step is forward-only layers, the forward and backward passes of what learns, the optimizer's
update, and the gradients' way from process to process: the traffic. What each part takes is a rate
(seconds per FLOP, per number that learns) times what the cost model counts, so that rates measured
or assumed for the whole model give the time of every stage of every plan.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, inf, log2

from mslt.config import ModelConfig
from mslt.cost import learning_parameters, step_cost
from mslt.plan import Plan, Stage

BUCKET = 1 << 23  # gradients that travel together, as in `mslt.reducer`


@dataclass(frozen=True)
class Parts:
    """Seconds that the parts of a step would take one after another.

    Args:
        prefix: the forward-only layers.
        forward: the learning layers and the output layer.
        backward: through them.
        update: the optimizer's.
        traffic: adding up the gradients over all processes.
        buckets: equal parts of the gradients that travel one after another, each as soon as the
            backward pass has completed it.
    """

    prefix: float
    forward: float
    backward: float
    update: float
    traffic: float
    buckets: int = 1

    @property
    def exposed(self) -> float:
        """Traffic that the backward pass does not hide.

        It ends no sooner than the last bucket, which leaves at the end of the backward pass, and
        than all of them one after another, of which the first leaves once it is complete.
        """
        hidden = self.backward * (1 - 1 / self.buckets)
        return max(self.traffic / self.buckets, self.traffic - hidden)

    def seconds(self, look_ahead: bool = False) -> float:
        """Of a step.

        Args:
            look_ahead: the forward-only layers of the next step run while gradients travel.
        """
        hidden = min(self.prefix, self.exposed) if look_ahead else 0.0
        return (self.prefix + self.forward + self.backward + self.exposed + self.update) - hidden

    @property
    def r(self) -> float:
        """All but the forward pass, in forward passes: the paper's backward / forward."""
        forward = self.prefix + self.forward
        return (self.seconds() - forward) / forward


@dataclass(frozen=True)
class Rates:
    """What a process and its link take for what the cost model counts.

    Args:
        forward: seconds per FLOP of a forward pass.
        backward: seconds per FLOP of a backward pass.
        update: seconds per number that learns.
        traffic: seconds per number that learns, however many processes add theirs up.
        latency: seconds that a bucket takes beyond that.
        bucket: numbers that travel together; inf lets all travel after the backward pass.
    """

    forward: float
    backward: float
    update: float
    traffic: float
    latency: float = 0.0
    bucket: float = BUCKET

    @classmethod
    def of(
        cls, whole: Parts, model: ModelConfig, stage: Stage, sequences: int, slots: float
    ) -> "Rates":
        """What the measured parts of the whole model's step say.

        Args:
            whole: its parts; of the traffic what was not hidden, taken to grow with the gradients.
            model: the shape; its vocabulary must be known.
            stage: the one in which all of it learns, and the sequence length.
            sequences: of a step on one process.
            slots: positions per sequence for which logits are computed.
        """
        cost = step_cost(model, stage, sequences, slots)
        numbers = learning_parameters(model, stage)
        return cls(
            forward=whole.forward / (cost.layers + cost.head),
            backward=whole.backward / cost.backward,
            update=whole.update / numbers,
            traffic=whole.exposed / numbers,
            bucket=inf,
        )

    def parts(self, model: ModelConfig, stage: Stage, sequences: int, slots: float) -> Parts:
        """Of a step in a stage; arguments as in `Rates.of`."""
        cost = step_cost(model, stage, sequences, slots)
        numbers = learning_parameters(model, stage)
        buckets = max(1, ceil(numbers / self.bucket))
        return Parts(
            prefix=self.forward * cost.prefix,
            forward=self.forward * (cost.layers + cost.head),
            backward=self.backward * cost.backward,
            update=self.update * numbers,
            traffic=self.traffic * numbers + self.latency * buckets,
            buckets=buckets,
        )


def mean_seconds(plan: Plan, seconds: Callable[[Stage], float]) -> float:
    """Of a plan's steps, by what a step takes in each stage."""
    return sum(stage.steps * seconds(stage) for stage in plan.stages) / plan.steps


def simple_ratio(r: float) -> float:
    """How many times as fast as the whole model MSLT is, by the layers' passes alone: T0 / T.

    With k = 4 and 20 % of the steps retraining, head, embeddings and their traffic left out. Of
    the whole model's forward pass (1) and backward pass (r), stage i takes i/4 and r/4.
    """
    return 10 * (1 + r) / (7 + 4 * r)


def simple_ratio_ahead(r: float, hidden: float) -> float:
    """The same where forward-only layers run while gradients travel.

    Args:
        r: backward over forward pass of the whole model, traffic included.
        hidden: what of r is traffic that waits for nothing else. A quarter of it, of each of the
            stages 2 to 4, hides their forward-only layers of 1/4, 2/4 and 3/4 as far as it goes.
    """
    saved = 0.2 * sum(min(layers / 4, hidden / 4) for layers in (1, 2, 3))
    return (1 + r) / ((7 + 4 * r) / 10 - saved)


@dataclass(frozen=True)
class Accelerator:
    """A GPU, by what training gets out of it.

    Args:
        flops: FLOP/s of forward and backward passes alike.
        memory: bytes/s of the optimizer's update.
    """

    flops: float
    memory: float


@dataclass(frozen=True)
class Network:
    """The slowest link of the ring that all processes form.

    Where several GPUs share a machine and its port, a ring still passes the port once each way.

    Args:
        name: what it is.
        bandwidth: bytes/s, each way.
        hop: seconds that a message takes at the least.
    """

    name: str
    bandwidth: float
    hop: float

    def traffic(self, ranks: int, width: int) -> float:
        """Seconds per number that is summed: each rank sends it 2 (n-1)/n times.

        Args:
            ranks: processes (n).
            width: bytes of a number.
        """
        return 2 * (ranks - 1) / ranks * width / self.bandwidth

    def latency(self, ranks: int) -> float:
        """Seconds of a bucket beyond that: up and down a tree of all ranks."""
        return 2 * ceil(log2(ranks)) * self.hop


# 989 TFLOP/s dense in bf16 at an MFU of 40 %; 3.35 TB/s at 80 %. The shares are assumptions.
H100 = Accelerator(flops=0.40 * 989e12, memory=0.80 * 3.35e12)

# Hops are assumptions.
NETWORKS = (
    Network("25 GbE", bandwidth=25e9 / 8, hop=20e-6),
    Network("100 GbE", bandwidth=100e9 / 8, hop=10e-6),
    Network("NVLink", bandwidth=450e9, hop=2e-6),
)

UPDATE_BYTES = 40  # that LAMB reads and writes for each number that learns


def cluster(gpu: Accelerator, network: Network, ranks: int, width: int = 4) -> Rates:
    """Of as many processes with a GPU each, where buckets travel during the backward pass.

    Args:
        gpu: of each process.
        network: what joins them.
        ranks: processes.
        width: bytes of a gradient on its way.
    """
    return Rates(
        forward=1 / gpu.flops,
        backward=1 / gpu.flops,
        update=UPDATE_BYTES / gpu.memory,
        traffic=network.traffic(ranks, width),
        latency=network.latency(ranks),
    )
