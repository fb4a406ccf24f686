"""Made-up gradients, and updates along them.

In float64, where only the order of operations is left to differ: a relative 1e-12 is some thousand
roundings, and a wrong formula is off by far more.
"""

import pytest
import torch
from torch import Tensor, nn

from mslt.config import ModelConfig, OptimizerConfig
from mslt.model import Encoder
from mslt.optim import Moment, Moments, Optimizer

CLOSE = {"rtol": 1e-12, "atol": 1e-15}
CLIPPED = {"rtol": 1e-7, "atol": 1e-8}  # AdamW's kernel takes the factor in fp32
LAMB = OptimizerConfig("lamb", weight_decay=0.1, clip_norm=0.0)
ADAMW = OptimizerConfig("adamw", weight_decay=0.1, clip_norm=0.0)
BOTH = pytest.mark.parametrize("config", [LAMB, ADAMW], ids=lambda config: config.name)


Parameters = dict[str, nn.Parameter]


def parameters_of(config: ModelConfig) -> Parameters:
    """Those of a two-layer model, biases filled as well; the same at each call."""
    model = Encoder(config, 2, seed=1)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return dict(model.named_parameters())


def gradients(parameters: Parameters, step: int) -> dict[str, Tensor]:
    """Made-up gradients of very different sizes."""
    generator = torch.Generator().manual_seed(step)
    return {
        name: torch.randn(p.shape, generator=generator) * 10.0 ** (i % 7 - 4)
        for i, (name, p) in enumerate(parameters.items())
    }


def lr(step: int) -> float:
    """A rate that changes."""
    return 0.01 / (1 + step % 3)


def train(
    parameters: Parameters, config: OptimizerConfig, steps: range, moments: Moments | None = None
) -> Optimizer:
    """Some updates along the made-up gradients."""
    optimizer = Optimizer(parameters, config, moments)
    for step in steps:
        for name, gradient in gradients(parameters, step).items():
            parameters[name].grad.copy_(gradient)
        optimizer.update(lr(step))
    return optimizer


def assert_close(
    parameters: Parameters, expected: dict[str, Tensor], bounds: dict[str, float] = CLOSE
) -> None:
    """The parameters are what is expected, by name."""
    for name, tensor in expected.items():
        torch.testing.assert_close(parameters[name].data, tensor.data, **bounds, msg=name)


def values(parameters: Parameters) -> dict[str, Tensor]:
    """As they are now."""
    return {name: p.detach().clone() for name, p in parameters.items()}


def aged(parameters: Parameters) -> Moments:
    """Moments of the first three of them, two after 3 updates and one after 20."""
    return {
        name: Moment(torch.full_like(p, 1e-3), torch.full_like(p, 1e-2), updates)
        for updates, (name, p) in zip((3, 3, 20), parameters.items())
    }
