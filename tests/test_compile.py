"""Compiled layers: the same training, and graphs that all stages share."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest
import torch
from made_up_updates import aged

from mslt.config import ModelConfig, OptimizerConfig
from mslt.data.instances import Batch
from mslt.growth import freeze
from mslt.model import Encoder
from mslt.optim import Optimizer
from mslt.trainer import Settings, Trainer

EAGER = Settings(
    *(OptimizerConfig("adamw"), "fp32"),
    micro_batch=8,
    pair=True,
    seed=7,
    prefix="fp32",
    kernels=False,
)


def loss(config: ModelConfig, settings: Settings, depth: int, below: int, batch: Batch) -> float:
    model = Encoder(config, depth, seed=1)
    freeze(model, below)
    trainer = Trainer(model, settings, {})
    trainer.step(0, batch, 1e-3)
    return float(trainer.step(1, batch, 1e-3)["mlm_loss"])


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_layers_train_alike_and_later_stages_make_no_new_graph(
    tiny: ModelConfig, random_batch: Callable[..., Batch]
) -> None:
    torch._dynamo.reset()
    graphs = []
    for depth, below in [(3, 0), (3, 1), (4, 2)]:
        compiled = loss(tiny, replace(EAGER, compile=True), depth, below, random_batch())
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        assert compiled == pytest.approx(loss(tiny, EAGER, depth, below, random_batch()), abs=1e-5)
    # The second makes those of the layers that only run forward; after it there is nothing new.
    assert 0 < graphs[0] < graphs[1] == graphs[2]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_an_update_is_the_same_when_it_is_compiled_and_one_function_for_all_stages(
    tiny: ModelConfig, name: Literal["adamw", "lamb"]
) -> None:
    """With moments of three ages, and copies of the weights in bf16; AdamW as on a GPU."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for depth in (2, 3, 4):
        torch.testing.assert_close(*(updated(tiny, depth, name, how) for how in (False, True)))
        made = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        assert made == (1 if name == "adamw" else 2)


def updated(
    config: ModelConfig, depth: int, name: Literal["adamw", "lamb"], compiled: bool
) -> torch.Tensor:
    """The weights after four made-up updates."""
    parameters = dict(Encoder(config, depth, seed=1).named_parameters())
    moments = aged(parameters)
    given = parameters, OptimizerConfig(name, clip_norm=1.0), moments
    optimizer = Optimizer(*given, copies=True, compile=compiled)
    optimizer._fused = not compiled and name == "adamw"
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        for parameter in parameters.values():
            assert parameter.grad is not None
            parameter.grad.copy_(torch.randn(parameter.shape, generator=generator))
        optimizer.update(1e-2)
    copies = optimizer.copies()
    assert copies is not None
    for key, span in optimizer.spans().items():
        half = copies[key][: span.stop - span.start]
        assert torch.equal(half, optimizer.weights[span].bfloat16())
    return optimizer.weights
