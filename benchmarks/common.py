"""What the benchmarks of the model share: shapes, batches, and variants that take turns."""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from data import facts, made_up_split

from mslt.config import Config, InstanceConfig, ModelConfig, OptimizerConfig
from mslt.data.instances import Batch, Instances
from mslt.data.masking import prediction_slots
from mslt.data.store import TokenStore
from mslt.data.tokenizer import read_vocabulary
from mslt.job import fitting_micro_batch
from mslt.run import machine
from mslt.trainer import Precision, Settings, pick_device, pick_precision

LR = 1e-4
ADAMW = OptimizerConfig(name="adamw")
SLOWER = 1.5  # times the best of the rivals, in two blocks: such a variant is left out of the rest
HOPELESS = 3.0  # times as long for one layer in bf16 as in fp32: such a machine is not asked


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


SHAPES = {
    "tiny": Shape(_model(512, 4, 32), batch=4, gpu_batch=4, length=32, steps=1),
    "small": Shape(_model(8192, 12, 256), batch=32, gpu_batch=1024, length=128, steps=3),
    "base": Shape(_model(30_522, 12, 768), batch=8, gpu_batch=256, length=128, steps=1),
    "large": Shape(_model(30_522, 24, 1024), batch=4, gpu_batch=128, length=128, steps=1),
}


@dataclass(frozen=True)
class Setting:
    """What a benchmark measures in: shape, machine, precision, and where the text comes from."""

    name: str
    shape: Shape
    device: str
    precision: Precision
    blocks: int
    store: Path | None

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.shape.batch * self.shape.length

    @property
    def slots(self) -> int:
        """Predictions per sequence."""
        return prediction_slots(InstanceConfig().mask_prob, self.shape.length)

    @property
    def steps(self) -> int:
        """Steps of a block."""
        return self.shape.steps * (10 if self.device.startswith("cuda") else 1)

    def instances(self) -> Instances:
        """Of the store, or of made-up text of the shape's vocabulary."""
        if self.store:
            store = TokenStore.open(self.store)
            split, vocabulary = store.train, read_vocabulary(store.path / "tokenizer")
        else:
            size = self.shape.model.vocab_size
            split, vocabulary = made_up_split(min(1_000_000, 100 * size), size), facts(size)
        return Instances(split, InstanceConfig(), vocabulary, 0, self.shape.batch)

    def settings(self, optimizer: OptimizerConfig = ADAMW) -> Settings:
        """What a `Trainer` is told, as a run on this machine would tell it."""
        config = Config(batch_size=self.shape.batch, model=self.shape.model)
        return Settings(
            optimizer=optimizer,
            precision=self.precision,
            micro_batch=fitting_micro_batch(config, self.shape.length, self.device),
            pair=True,
            seed=0,
        )

    def facts(self) -> dict[str, Any]:
        """What the JSON line says of it."""
        return {
            "shape": self.name,
            "batch": self.shape.batch,
            "length": self.shape.length,
            "device": self.device,
            "precision": self.precision,
            "blocks": self.blocks,
            **machine(),
        }


def options(description: str) -> argparse.ArgumentParser:
    """The options that the model's benchmarks have in common."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--shape", choices=list(SHAPES), default="small")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:N")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--batch", type=int, help="sequences per step instead of the shape's")
    parser.add_argument("--length", type=int, help="tokens per sequence instead of the shape's")
    parser.add_argument("--blocks", type=int, default=5, help="blocks per variant (default 5)")
    parser.add_argument("--store", type=Path, help="a prepared corpus instead of a made-up one")
    return parser


def setting(given: argparse.Namespace) -> Setting:
    """The options as one value.

    Raises:
        ValueError: a device that is not there, or a store that is none.
    """
    shape, device = SHAPES[given.shape], pick_device(given.device)
    batch = shape.gpu_batch if device.startswith("cuda") else shape.batch
    model = shape.model
    if given.store:
        model = replace(model, vocab_size=TokenStore.open(given.store).vocab_size)
    return Setting(
        name=given.shape,
        shape=replace(
            shape, model=model, batch=given.batch or batch, length=given.length or shape.length
        ),
        device=device,
        precision=pick_precision(given.precision, device),
        blocks=given.blocks,
        store=given.store,
    )


@dataclass
class Variant:
    """Something that is timed in turns with others.

    Args:
        name: for the table.
        step: does it once; told how many times it was done before.
        rivals: the name of a group in which only what is fast stays to the end, if in any.
        seconds: per step, one for each block.
        note: why there is none or no more of it.
    """

    name: str
    step: Callable[[int], object]
    rivals: str = ""
    seconds: list[float] = field(default_factory=list)
    note: str = ""

    @property
    def median(self) -> float:
        """Seconds per step."""
        return statistics.median(self.seconds)

    @property
    def finished(self) -> bool:
        """Whether it ran in every block."""
        return bool(self.seconds) and not self.note

    def facts(self) -> dict[str, Any]:
        """What the JSON line says of it."""
        known = [round(s, 5) for s in self.seconds]
        return {"seconds": known, **({"dropped": self.note} if self.note else {})}


def take_turns(
    variants: Sequence[Variant], blocks: int, steps: int, device: str, *, quiet: bool = False
) -> None:
    """Time every variant in every block, so that what else the machine does falls on all alike.

    Of rivals, those stay to the end that may be the best; what is left out says so in its `note`.
    """
    for variant in variants:
        if not variant.note:
            seconds = _timed(variant.step, range(1), device)
            if not quiet:
                print(f"first step of {variant.name}: {seconds:.2f} s", flush=True)
    for block in range(blocks):
        for variant in variants:
            if not variant.note:
                begin = 1 + block * steps
                seconds = _timed(variant.step, range(begin, begin + steps), device)
                variant.seconds.append(seconds / steps)
        for variant, rivals in _rivalries(variants):
            times = min(variant.seconds) / min(max(rival.seconds) for rival in rivals)
            if block and times > SLOWER:
                variant.note = f"left out after {block + 1} blocks: {times:.1f}x as long as others"


def _rivalries(variants: Sequence[Variant]) -> list[tuple[Variant, list[Variant]]]:
    """Each variant that still runs, and those like it that do."""
    left = [v for v in variants if v.rivals and not v.note]
    return [(v, [rival for rival in left if rival.rivals == v.rivals]) for v in left]


def _timed(step: Callable[[int], object], numbers: range, device: str) -> float:
    synchronize(device)
    start = time.perf_counter()
    for number in numbers:
        step(number)
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: str) -> None:
    """Wait until the device has done what it was told."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def bf16_slowness(device: str) -> float:
    """How many times as long one linear layer takes in bf16 as in fp32, forward and backward."""
    x, layer = torch.randn(1024, 256, device=device), torch.nn.Linear(256, 256, device=device)

    def step(_: int) -> None:
        layer(x).sum().backward()

    full = min(_timed(step, range(1), device) for _ in range(3))
    x, layer = x.bfloat16(), layer.bfloat16()
    layer.zero_grad(set_to_none=True)
    return min(_timed(step, range(1), device) for _ in range(2)) / full


def matrix_product(device: str, precision: Precision) -> tuple[Callable[[int], object], float]:
    """A large matrix product, which is as fast as the machine computes, and its FLOPs."""
    size = 8192 if device.startswith("cuda") else 1536
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return lambda _: torch.mm(a, b, out=out), 2.0 * size**3


def batches(setting: Setting, count: int) -> list[Batch]:
    """The first batches of the run."""
    instances = setting.instances()
    return [instances.batch(step, setting.shape.length) for step in range(count)]


def finish(result: dict[str, Any]) -> None:
    """The last line."""
    print(json.dumps(result, allow_nan=False))
