"""What a step of any stage takes: calculated from rates, or from steps that were timed.

Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Protocol

import numpy as np

from mslt.analysis.scale import Accelerator, Network, Parts, Rates, cluster
from mslt.config import Config
from mslt.cost import learning_parameters, parameters, step_cost
from mslt.forecast import prefix_speed, slots
from mslt.plan import Plan, Stage

Way = tuple[int, int, int]  # depth, learns_from and seq_len: all that a step's time depends on

WIRE = {"fp32": 4, "bf16": 2}  # bytes of a gradient between processes
_LOGITS = 1 << 24  # that exist at once, at the most (see mslt.objective)


def way(stage: Stage) -> Way:
    """What the time of a stage's steps depends on."""
    return stage.depth, stage.learns_from, stage.seq_len


def all_ways(*plans: Plan) -> Plan:
    """Every way in which a step of some plans is computed, once, as a plan that can be trained."""
    found = sorted({way(stage) for plan in plans for stage in plan.stages})
    return Plan(tuple(Stage(d, below, 1, length) for d, below, length in found))


@dataclass(frozen=True)
class Machine:
    """What a run is to be computed on.

    Args:
        gpus: processes, each with a device of its own.
        network: what joins them; None where there is one.
        accelerated: these are GPUs that need not be at hand; else it is the machine at hand.
    """

    gpus: int = 1
    network: Network | None = None
    accelerated: bool = False

    def sequences(self, config: Config) -> int:
        """Of a step on each device."""
        return ceil(config.batch_size / self.gpus)

    def sent(self, config: Config, stage: Stage) -> float:
        """Bytes that each device sends in a step; 0 where it is alone."""
        numbers = learning_parameters(config.model, stage)
        return 2 * (self.gpus - 1) / self.gpus * WIRE[config.reduce] * numbers


class Estimate(Protocol):
    """Knows what a step takes."""

    @property
    def by(self) -> str:
        """What it was derived from, in words."""

    def parts(self, stage: Stage) -> Parts:
        """Seconds of the parts of a step in a stage."""


@dataclass(frozen=True)
class Calculated:
    """By FLOPs and bytes over the rates of a device.

    Args:
        config: the run, its vocabulary known.
        machine: on which it runs.
        device: its sustained rates.
        by: where these are from, in words.
    """

    config: Config
    machine: Machine
    device: Accelerator
    by: str

    def parts(self, stage: Stage) -> Parts:
        """Seconds of the parts of a step in a stage."""
        config, machine = self.config, self.machine
        network = machine.network or Network("none", bandwidth=np.inf, hop=0.0)
        rates = cluster(self.device, network, machine.gpus, WIRE[config.reduce])
        found = rates.parts(config.model, stage, machine.sequences(config), slots(config, stage))
        return replace(found, prefix=found.prefix / prefix_speed(config))


@dataclass(frozen=True)
class Measured:
    """By steps that were timed; ways that were not are fitted to those that were.

    Args:
        config: the run, its vocabulary known.
        machine: on which it is to run; its traffic is calculated, since one device was timed.
        took: seconds of a step and of its forward-only layers, by way.
        by: how often and where, in words.
    """

    config: Config
    machine: Machine
    took: Mapping[Way, tuple[float, float]]
    by: str

    def parts(self, stage: Stage) -> Parts:
        """Seconds of the parts of a step in a stage."""
        seconds, prefix = self.took.get(way(stage)) or self._fitted(stage)
        cost = step_cost(self.config.model, stage, 1, slots(self.config, stage))
        forward = (seconds - prefix) * (1 - cost.backward / (cost.total() - cost.prefix))
        alone = Parts(prefix, forward, seconds - prefix - forward, update=0.0, traffic=0.0)
        if self.machine.network is None:
            return alone
        nothing = Accelerator(flops=np.inf, memory=np.inf)
        rates: Rates = cluster(
            nothing, self.machine.network, self.machine.gpus, WIRE[self.config.reduce]
        )
        sent = rates.parts(self.config.model, stage, 1, 1)
        return replace(alone, traffic=sent.traffic, buckets=sent.buckets)

    def _fitted(self, stage: Stage) -> tuple[float, float]:
        """Seconds in proportion to FLOPs, and something for every step and number that learns."""
        ways = [Stage(depth, below, 1, length) for depth, below, length in self.took]
        seconds = np.array([total for total, _ in self.took.values()])
        # Relative errors count, and nothing takes a negative time.
        costs = np.array([self._amounts(one) for one in ways]) / seconds[:, None]
        rates = _nonnegative(costs, np.ones(len(ways)))
        amounts = np.array(self._amounts(stage))
        return float(amounts @ rates), float(amounts[0] * rates[0])

    def _amounts(self, stage: Stage) -> tuple[float, float, float]:
        cost = step_cost(self.config.model, stage, 1, slots(self.config, stage))
        learning = learning_parameters(self.config.model, stage)
        return cost.prefix, cost.total() - cost.prefix, float(learning)


def _nonnegative(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The x >= 0 with the least |a x - b|: of all subsets of columns, the best that fits so."""
    best, left = np.zeros(a.shape[1]), float(b @ b)
    for mask in range(1, 1 << a.shape[1]):
        columns = [i for i in range(a.shape[1]) if mask >> i & 1]
        found = np.linalg.lstsq(a[:, columns], b, rcond=None)[0]
        error = float(((a[:, columns] @ found - b) ** 2).sum())
        if (found >= 0).all() and error < left:
            best, left = np.zeros(a.shape[1]), error
            best[columns] = found
    return best


def step_seconds(estimate: Estimate, config: Config, stage: Stage) -> float:
    """Of one step, as the run's options have it."""
    return estimate.parts(stage).seconds(config.look_ahead)


def bound_seconds(estimate: Estimate, stage: Stage) -> float:
    """Of one step whose forward-only layers cost nothing."""
    return replace(estimate.parts(stage), prefix=0.0).seconds()


def expected_memory(config: Config, plan: Plan, index: int, micro_batch: int, half: bool) -> float:
    """Bytes of tensors at the peak of a stage, beside what Python and torch take themselves.

    What a layer saves for its backward pass is 34 D + 5 L H bytes per token in 16 bits (Korthikanti
    et al. 2022, equation 1), and twice that in 32; with `recompute`, its input alone.

    Args:
        config: the run, its vocabulary known.
        plan: its stages.
        index: of the stage.
        micro_batch: sequences that go through the model at once.
        half: whether layers compute in bf16.
    """
    model, stage = config.model, plan.stages[index]
    D, L, H = model.hidden_size, stage.seq_len, model.num_attention_heads
    stand, learn = parameters(model, stage.depth), learning_parameters(model, stage)
    before = max((parameters(model, s.depth) for s in plan.stages[:index]), default=0)
    # Weights and copies of them; gradients and moments of what learns; the moments of all that
    # learned in a stage before, which are kept beside them.
    tensors = stand * (4 + 2 * half) + learn * (4 + 2 * half + 8) + 8 * before
    learning = stage.depth - stage.learns_from
    width = 2 if half else 4
    saved = (34 * D + 5 * L * H) * width // 2
    layers = learning * D * width + saved if config.recompute else learning * saved
    logits = min(_LOGITS, micro_batch * slots(config, stage) * model.vocab_size)
    return tensors + micro_batch * L * layers + 2 * logits * width
