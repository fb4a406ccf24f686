"""What each part of a step is worth, beside the plain way to compute it.

    python benchmarks/parts.py [--shape base|small|tiny] [--device cuda] [--only NAME ...]

Attention forward and backward at 128 and 512 tokens, with and without dropout; dropout itself; one
update of the optimizers; an encoder layer compiled and not; forward-only layers of each kind. The
ways take turns, block by block; figures are medians over the blocks, in milliseconds, with their
range. The last line is one JSON object.
"""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from common import ADAMW, Setting, Variant, finish, options, setting, take_turns
from torch import Tensor, nn

from mslt.analysis.formats import aligned
from mslt.attention import attend
from mslt.config import OptimizerConfig, PlanConfig
from mslt.dropout import dropout
from mslt.growth import freeze
from mslt.machine import generator
from mslt.model import Encoder
from mslt.objective import Inputs
from mslt.prefix import Kind
from mslt.trainer import Trainer

Ways = dict[str, Callable[[int], object]]


def there_and_back(compute: Callable[..., Tensor], *inputs: Tensor) -> Callable[[int], object]:
    """Forward, and backward to all inputs."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    slope = torch.randn_like(compute(*leaves))

    def run(_: int) -> None:
        torch.autograd.grad(compute(*leaves), leaves, slope)

    return run


def plain_attention(q: Tensor, k: Tensor, v: Tensor, p: float) -> Tensor:
    """As the textbook has it."""
    weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
    return F.dropout(weights, p) @ v


def attentions(setting: Setting) -> Iterator[tuple[str, Ways]]:
    """As many tokens as a step of the shape has, at two lengths."""
    model = setting.model
    heads, width = model.num_attention_heads, model.hidden_size // model.num_attention_heads
    for length in (128, 512):
        size = max(1, setting.tokens // length), heads, length, width
        qkv = [torch.randn(size, device=setting.device) for _ in range(3)]
        for p in (0.0, 0.1):
            yield (
                f"attention, {length} tokens, dropout {p}",
                {
                    "ours": there_and_back(lambda *x, p=p: attend(*x, None, p), *qkv),
                    "SDPA": there_and_back(
                        lambda *x, p=p: F.scaled_dot_product_attention(*x, dropout_p=p), *qkv
                    ),
                    "plain": there_and_back(lambda *x, p=p: plain_attention(*x, p), *qkv),
                },
            )


def dropouts(setting: Setting) -> Iterator[tuple[str, Ways]]:
    """Of what one sub-layer of a step puts out."""
    x = torch.randn(setting.tokens, setting.model.hidden_size, device=setting.device)
    yield (
        "dropout",
        {
            "ours": there_and_back(lambda x: dropout(x, 0.1, training=True), x),
            "torch": there_and_back(lambda x: F.dropout(x, 0.1), x),
        },
    )


def updates(setting: Setting) -> Iterator[tuple[str, Ways]]:
    """Of every parameter of the model."""

    def ours(config: OptimizerConfig) -> Callable[[int], object]:
        model = Encoder(setting.model).to(setting.device)
        how = replace(setting.job.settings(0), optimizer=config)
        optimizer = Trainer(model, how, {}, setting.job.world).optimizer  # as a run has it
        optimizer.grads.fill_(1e-3)
        return lambda _: optimizer.update(1e-4)

    def theirs(**how: bool) -> Callable[[int], object]:
        tensors = list(Encoder(setting.model).to(setting.device).parameters())
        for tensor in tensors:
            tensor.grad = torch.full_like(tensor, 1e-3)
        adamw = torch.optim.AdamW(tensors, lr=1e-4, **how)

        def update(_: int) -> None:
            nn.utils.clip_grad_norm_(tensors, 1.0)
            adamw.step()

        return update

    yield (
        "update",
        {
            "ours, LAMB": ours(replace(ADAMW, name="lamb")),
            "ours, AdamW": ours(ADAMW),
            "torch, AdamW fused": theirs(fused=True),
            "torch, AdamW foreach": theirs(foreach=True),
        },
    )


FIXED = 3  # layers that only run forward


def layers(setting: Setting) -> Iterator[tuple[str, Ways]]:
    """One layer that learns, and several that only run forward."""
    shape = setting.batch_size, setting.length
    model = Encoder(replace(setting.model, num_hidden_layers=2)).to(setting.device).train()
    x = torch.randn(*shape, setting.model.hidden_size, device=setting.device)
    block = model.blocks[0]
    compiled = copy.deepcopy(block)
    compiled.compile(dynamic=False)
    yield "layer", {"eager": there_and_back(block, x), "compiled": there_and_back(compiled, x)}

    model = Encoder(replace(setting.model, num_hidden_layers=FIXED + 1)).to(setting.device)
    freeze(model, FIXED)
    ids = torch.zeros(shape, dtype=torch.int64, device=setting.device)
    inputs = Inputs(ids, ids, None, ids, ids, ids, ids, np.arange(setting.batch_size))
    kinds: list[Kind] = ["exact", "fp32", "bf16", "int8"]
    if setting.device.startswith("cuda"):
        kinds.remove("int8")
    ways: Ways = {}

    def seed(place: int) -> None:
        generator().manual_seed(place)

    for kind in kinds:  # as a run has them
        how = replace(setting.job.settings(0), prefix=kind)
        prefix = Trainer(model, how, {}, setting.job.world).prefix
        # From the embeddings' output on: those are no part of the layers.
        ways[kind] = lambda _, p=prefix: p.through(inputs, x, 0, FIXED, seed)
    yield f"{FIXED} forward-only layers", ways


PARTS = {"attention": attentions, "dropout": dropouts, "update": updates, "layer": layers}


def main(arguments: list[str] | None = None) -> None:
    """Measure part after part."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    given = parser.parse_args(arguments)
    where = setting(given, PlanConfig("whole"))
    result: dict[str, dict[str, float]] = {}
    for part in given.only:
        for name, ways in PARTS[part](where):
            variants = [Variant(way, step) for way, step in ways.items()]
            take_turns(variants, where.blocks, 3, where.device, quiet=True)
            best = min(v.median for v in variants)
            rows = [[name, "ms", "range", "times the best"]]
            for v in variants:
                ms = [1e3 * seconds for seconds in v.seconds]
                span = f"{min(ms):.2f} to {max(ms):.2f}"
                rows.append([v.name, f"{1e3 * v.median:.2f}", span, f"{v.median / best:.2f}"])
                result.setdefault(name, {})[v.name] = round(1e3 * v.median, 3)
            print(aligned(rows) + "\n", flush=True)
    finish({"milliseconds": result, **where.facts()})


if __name__ == "__main__":
    main()
