"""The room that a run takes on the disk, known before it begins. Imports no torch."""

from pathlib import Path

from mslt.config import Config, ModelConfig
from mslt.cost import parameters

_WEIGHT = 4  # bytes; a checkpoint holds each weight and its two moments
_HEADERS = 1 << 20  # bytes beside the tensors of one folder, generously


def checkpoint_bytes(model: ModelConfig, depth: int) -> int:
    """Of one checkpoint: the model and two moments of each weight."""
    return 3 * _WEIGHT * parameters(model, depth) + _HEADERS


def run_bytes(config: Config) -> int:
    """The most that a run's folder ever takes, but for lines of text.

    These are the checkpoints to keep, the best one, the one that is being written, and the model
    of every stage's end.
    """
    deepest = checkpoint_bytes(config.model, config.model.num_hidden_layers)
    ends = (
        _WEIGHT * parameters(config.model, stage.depth) + _HEADERS
        for stage in config.stages().stages
    )
    return (config.keep + 2) * deepest + sum(ends)


def taken(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
