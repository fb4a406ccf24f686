"""Who takes part in a run: a small value that is passed in, not a global."""

from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """One process among many. Today a run has exactly one.

    Args:
        rank: this process, counted from 0.
        size: processes in all.
        device: what its tensors live on, as torch spells it (`cpu`, `cuda:0`).
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"
