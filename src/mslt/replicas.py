"""The same model in every process of a run: handed out by the main one, and compared."""

import json
from collections.abc import Iterator

import torch
from torch import Tensor

from mslt.checkpoint import MOMENTS, WEIGHTS, State, blank_state, state_facts, state_files
from mslt.config import ModelConfig
from mslt.model import Encoder
from mslt.optim import Moment
from mslt.world import World

Facts = list[tuple[str, str]]  # name and value of what must be the same in every process


def hand_out(world: World, state: State | None, config: ModelConfig) -> State | None:
    """The main process' state in every process, on its device; None where that has none.

    So no other process has to read the run's folder, and none starts from numbers of its own.

    Args:
        world: the processes.
        state: of the main process; what the others give does not count.
        config: of the model.
    """
    if world.size == 1:
        if state is not None:
            state.model.to(world.device)
        return state
    mine = state if world.main else None
    facts = world.tell("" if mine is None else json.dumps(state_facts(mine)))
    if not facts:
        return None
    state = mine or blank_state(json.loads(facts), config)
    state.model.to(world.device)
    for name, (mean, square, updates) in state.moments.items():
        state.moments[name] = Moment(mean.to(world.device), square.to(world.device), updates)
    for tensor in _tensors(state):
        world.hand_out(tensor)
    return state


def _tensors(state: State) -> Iterator[Tensor]:
    """Every tensor of a state, in the same order in every process."""
    files = state_files(state)
    for file in (WEIGHTS, MOMENTS):
        tensors = files[file]
        assert isinstance(tensors, dict)
        yield from (tensors[name] for name in sorted(tensors))


def structure(model: Encoder) -> Facts:
    """Shape of every parameter, and whether it learns: what a stage has made of the model."""
    return [
        (name, f"{list(p.shape)}, which {'learns' if p.requires_grad else 'is fixed'}")
        for name, p in model.named_parameters()
    ]


@torch.no_grad()
def checksums(model: Encoder) -> Facts:
    """A number for every parameter, by which two that differ anywhere are told apart.

    It is the sum of their bits as whole numbers, which no order of adding up changes.
    """
    parameters = dict(model.named_parameters())
    bits = [p.detach().contiguous().view(torch.int32) for p in parameters.values()]
    sums = torch.stack([part.sum(dtype=torch.int64) for part in bits])
    return [(name, f"of checksum {number}") for name, number in zip(parameters, sums.tolist())]
