"""Models and jobs that need no corpus: random weights, and text that is made up."""

import numpy as np
import torch
from data import facts, made_up_split

from mslt.config import Config, ModelConfig
from mslt.data.instances import Instances
from mslt.devices import pick_device
from mslt.job import Job, choices
from mslt.model import Encoder
from mslt.world import World


def made_up_model(config: ModelConfig, depth: int, device: str) -> Encoder:
    """A model with random weights; on a GPU drawn there, where that takes no time."""
    if not device.startswith("cuda"):
        return Encoder(config, depth)
    with torch.device("meta"):
        model = Encoder(config, depth)
    model.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".norm.weight" in name:
                parameter.fill_(1.0)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.normal_(std=config.initializer_range, generator=generator)
    return model


def made_up_job(config: Config) -> Job:
    """What `Job.prepare` makes, on made-up text and without the held-out part of it."""
    plan, size = config.stages(), config.model.vocab_size
    world = World(device=pick_device(config.device))
    tokens = min(1_000_000, 100 * size)
    if config.instances.dupe_factor:  # to come again within the plan
        tokens = max(20_000, 20 * config.batch_size * plan.stages[0].seq_len)
    split = made_up_split(tokens, size)
    return Job(
        config=config,
        plan=plan,
        world=world,
        **choices(config, plan, {}, world),
        instances=Instances(split, config.instances, facts(size), config.seed, config.batch_size),
        heldout=[],
        baseline=0.0,
        frequencies=np.zeros(0),
        store_sha256="",
    )
