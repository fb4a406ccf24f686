"""What the benchmarks of the model share: shapes, batches, and variants that take turns."""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from invented import made_up_job

from mslt.config import Config, ModelConfig, OptimizerConfig, PlanConfig
from mslt.cost import step_cost
from mslt.data.instances import Batch
from mslt.data.masking import prediction_slots
from mslt.data.store import TokenStore
from mslt.devices import Precision
from mslt.job import Job
from mslt.plan import Stage
from mslt.run import machine

LR = 1e-4
STEPS = 1000  # of the plan, whose stages are weighed by theirs
ADAMW = OptimizerConfig(name="adamw")
SLOWER = 1.5  # times the best of the rivals, in two blocks: such a variant is left out of the rest
WARM_UP = 4  # steps before a GPU is timed: it records what it then repeats in the third
HOPELESS = 3.0  # times as long for one layer in one precision as in the other: it is not asked


@dataclass(frozen=True)
class Shape:
    """A model and the batches that it is timed on.

    Args:
        model: with BERT's dropout of 0.1.
        batch: sequences per step on a CPU.
        gpu_batch: sequences per step on a GPU.
        length: tokens per sequence.
        steps: per block on a CPU; ten times as many on a GPU.
    """

    model: ModelConfig
    batch: int
    gpu_batch: int
    length: int
    steps: int


def _model(vocab_size: int, layers: int, width: int) -> ModelConfig:
    return ModelConfig(vocab_size=vocab_size, num_hidden_layers=layers, hidden_size=width)


def _albert(model: ModelConfig, groups: int) -> ModelConfig:
    """The same with so many blocks of weights, and embeddings of a sixth of the width."""
    narrow = model.hidden_size // 6
    return replace(model, embedding_size=narrow, num_hidden_groups=groups, hidden_act="gelu_new")


SHAPES = {
    "tiny": Shape(_model(512, 4, 32), batch=4, gpu_batch=4, length=32, steps=1),
    "small": Shape(_model(8192, 12, 256), batch=32, gpu_batch=1024, length=128, steps=1),
    "base": Shape(_model(30_522, 12, 768), batch=8, gpu_batch=256, length=128, steps=1),
    "large": Shape(_model(30_522, 24, 1024), batch=4, gpu_batch=128, length=128, steps=1),
}
# As section 3.3 has it: a block of weights for each stage in which the model grows.
SHAPES |= {
    f"albert_{name}": replace(SHAPES[name], model=_albert(SHAPES[name].model, groups))
    for name, groups in (("tiny", 2), ("base", 4))
}


@dataclass(frozen=True)
class Setting:
    """What a benchmark measures in: a run's job, and how often.

    Args:
        name: of the shape.
        job: as a run on this machine would have it.
        blocks: per variant.
        steps: of a block.
        scratch: a folder for what a run writes; None where nothing does.
    """

    name: str
    job: Job
    blocks: int
    steps: int
    scratch: Path | None

    @property
    def model(self) -> ModelConfig:
        """The shape of the finished model."""
        return self.job.config.model

    @property
    def batch_size(self) -> int:
        """Sequences of a step."""
        return self.job.config.batch_size

    @property
    def length(self) -> int:
        """Tokens of a sequence."""
        return self.job.plan.stages[0].seq_len

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.batch_size * self.length

    @property
    def slots(self) -> int:
        """Predictions per sequence."""
        return prediction_slots(self.job.config.instances.mask_prob, self.length)

    @property
    def whole(self) -> Stage:
        """The stage in which the whole model learns."""
        return Stage(self.model.num_hidden_layers, 0, seq_len=self.length)

    @property
    def device(self) -> str:
        """Where it runs."""
        return self.job.world.device

    def flops(self, stage: Stage, speed: float = 1.0) -> float:
        """Those that a step of a stage needs; speed is that of its forward-only layers.

        Our kernels leave padding out, which is about the same share of all that is counted.
        """
        settings, lengths = self.job.settings(0), self.batch(0).lengths
        ours = settings.kernels and not settings.compile and self.device == "cpu"
        share = float(lengths.mean()) / self.length if ours else 1.0
        return step_cost(self.model, stage, self.batch_size, self.slots).total(speed) * share

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        return self.job.instances.batch(step, self.length)

    def facts(self) -> dict[str, Any]:
        """What the JSON line says of it."""
        return {
            "shape": self.name,
            "batch": self.batch_size,
            "length": self.length,
            "device": self.device,
            "precision": self.job.precision,
            "compile": self.job.settings(0).compile,
            "optimizer": self.job.config.optimizer.name,
            "blocks": self.blocks,
            "clock": _clocks[-1].__name__,
            **machine(),
        }


def options(description: str) -> argparse.ArgumentParser:
    """The options that the model's benchmarks have in common."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--shape", choices=list(SHAPES), default="small")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:N")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--compile", choices=["auto", "on", "off"], default="auto", help="ours")
    parser.add_argument("--batch", type=int, help="sequences per step instead of the shape's")
    parser.add_argument("--length", type=int, help="tokens per sequence instead of the shape's")
    parser.add_argument("--blocks", type=int, default=5, help="blocks per variant (default 5)")
    parser.add_argument("--steps", type=int, help="in a block (default 1, on a GPU 10)")
    parser.add_argument(
        "--busy",
        action="store_true",
        help="for a machine with other work: one thread, by the processor's time, not the clock's",
    )
    parser.add_argument("--store", type=Path, help="a prepared corpus instead of a made-up one")
    return parser


def setting(
    given: argparse.Namespace, plan: PlanConfig, scratch: Path | None = None, **config: Any
) -> Setting:
    """The options as one value.

    Args:
        given: what `options` has parsed.
        plan: the stages, but for their length.
        scratch: a folder for what a run writes; None where nothing does.
        config: more of the run's `Config`.

    Raises:
        ValueError: a device that is not there, a store that is none, or a plan that does not fit.
    """
    shape, gpu = SHAPES[given.shape], given.device.startswith("cuda")
    if given.busy:
        by_processor(given.device)
    made_up = given.store is None
    config = {
        "steps": STEPS,
        "batch_size": given.batch or (shape.gpu_batch if gpu else shape.batch),
        "device": given.device,
        "precision": given.precision,
        "compile": given.compile,
        "model": shape.model if made_up else replace(shape.model, vocab_size=0),
        "plan": replace(plan, seq_len=given.length or shape.length),
        "optimizer": ADAMW,
        **config,
    }
    run = Config(**config)
    return Setting(
        name=given.shape,
        job=made_up_job(run) if made_up else Job.prepare(run, TokenStore.open(given.store)),
        blocks=given.blocks,
        steps=given.steps or shape.steps * (10 if gpu else 1),
        scratch=scratch,
    )


@dataclass
class Variant:
    """Something that is timed in turns with others.

    Args:
        name: for the table.
        step: does it once; told how many times it was done before. Where it returns a float,
            those are the seconds that it took, elsewhere.
        rivals: the name of a group in which only what is fast stays to the end, if in any.
        rest: what is done when its turn is over, if anything.
        seconds: per step, one for each block.
        note: why there is none or no more of it.
    """

    name: str
    step: Callable[[int], object]
    rivals: str = ""
    rest: Callable[[], object] | None = None
    seconds: list[float] = field(default_factory=list)
    note: str = ""

    @property
    def median(self) -> float:
        """Seconds per step."""
        return statistics.median(self.seconds)

    def over(self) -> None:
        """Its turn is."""
        if self.rest:
            self.rest()

    @property
    def finished(self) -> bool:
        """Whether it ran in every block."""
        return bool(self.seconds) and not self.note

    def facts(self) -> dict[str, Any]:
        """What the JSON line says of it."""
        return {"seconds": self.seconds, **({"left_out": self.note} if self.note else {})}


def take_turns(
    variants: Sequence[Variant], blocks: int, steps: int, device: str, *, quiet: bool = False
) -> None:
    """Time every variant in every block, so that what else the machine does falls on all alike.

    A turn begins with the last step of the turn before, which is not timed: at first, caches and
    freed memory are those of whoever had the turn in between. Of rivals, those stay to the end that
    may be the best; what is left out says so in its `note`.
    """
    first = WARM_UP if device.startswith("cuda") else 1
    for variant in variants:
        if not variant.note:
            seconds = _timed(variant.step, range(first), device)
            if not quiet:
                print(f"first of {variant.name}: {seconds:.2f} s", flush=True)
            variant.over()
    for block in range(blocks):
        for variant in variants:
            if not variant.note:
                begin = 1 + block * steps
                variant.step(begin - 1)
                seconds = _timed(variant.step, range(begin, begin + steps), device)
                variant.seconds.append(seconds / steps)
                variant.over()
        for variant, rivals in _rivalries(variants):
            times = min(variant.seconds) / min(max(rival.seconds) for rival in rivals)
            if block and times > SLOWER:
                variant.note = f"left out after {block + 1} blocks: {times:.1f}x as long as others"


def _rivalries(variants: Sequence[Variant]) -> list[tuple[Variant, list[Variant]]]:
    """Each variant that still runs, and those like it that do."""
    left = [v for v in variants if v.rivals and not v.note]
    return [(v, [rival for rival in left if rival.rivals == v.rivals]) for v in left]


def _timed(step: Callable[[int], object], numbers: range, device: str) -> float:
    start = now(device)
    elsewhere = [seconds for seconds in map(step, numbers) if isinstance(seconds, float)]
    return sum(elsewhere) if elsewhere else now(device) - start


_clocks = [time.perf_counter]  # the last one counts


def by_processor(device: str) -> None:
    """From now on, one thread computes, and the time that it has a processor for is what is told.

    Raises:
        ValueError: a GPU, whose work no processor's time shows.
    """
    if device != "cpu":
        raise ValueError("--busy tells the processor's time, which a GPU's work does not take")
    torch.set_num_threads(1)
    _clocks.append(time.process_time)


def counts_processor() -> bool:
    """Whether that is so."""
    return _clocks[-1] is time.process_time


def now(device: str) -> float:
    """Seconds, once the device has done what it was told."""
    synchronize(device)
    return _clocks[-1]()


def synchronize(device: str) -> None:
    """Wait until the device has done what it was told."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def hopeless(device: str, chosen: Precision) -> dict[str, str]:
    """Why a precision is not worth a try on this machine, by the precision; most often nothing.

    A machine without bf16 takes many times as long in it, and a GPU in fp32.
    """
    gpu = device.startswith("cuda")
    size = 4096 if gpu else 256
    times = {}
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        x = torch.randn(size, size, device=device, dtype=dtype)
        layer = torch.nn.Linear(size, size, device=device, dtype=dtype)
        step = partial(_there_and_back, layer, x)
        times[precision] = min(_timed(step, range(1), device) for _ in range(3))
    return {
        precision: f"left out: a layer takes {seconds / min(times.values()):.0f}x as long in it"
        for precision, seconds in times.items()
        if seconds > HOPELESS * min(times.values()) and precision != chosen
    }


def _there_and_back(layer: torch.nn.Module, x: torch.Tensor, _: int) -> None:
    layer(x).sum().backward()


def matrix_product(device: str, precision: Precision) -> tuple[Callable[[int], object], float]:
    """A large matrix product, which is as fast as the machine computes, and its FLOPs."""
    size = 8192 if device.startswith("cuda") else 1536
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return lambda _: torch.mm(a, b, out=out), 2.0 * size**3


def finish(result: dict[str, Any]) -> None:
    """The last line."""
    print(json.dumps(_rounded(result), allow_nan=False))


def _rounded(value: Any) -> Any:
    """Floats of five digits, in whatever holds them."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
