"""A model that was trained before: a run, a part of one, or a Hugging Face folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mslt import foreign, huggingface
from mslt.checkpoint import FACTS, STATE, load_model
from mslt.config import ModelConfig
from mslt.layout import CONFIG, START, Start, awaits, model_folders, read_config, read_start
from mslt.model import Encoder


@dataclass(frozen=True)
class Pretrained:
    """A model and what belongs to it.

    Args:
        name: for tables and messages: the folder's, or of a part of a run both.
        model: in fp32 on the CPU, as deep as it was saved.
        tokenizer: the folder of its tokenizer, as `mslt.data.tokenizer.given` reads it.
        fresh: tensors that the folder has no weights for, in Hugging Face's names: heads that
            begin at random.
    """

    name: str
    model: Encoder
    tokenizer: Path
    fresh: tuple[str, ...] = ()


def open_model(path: Path) -> Pretrained:
    """The model of a folder.

    Args:
        path: a run (its finished model or, of a run that is not finished, its newest good
            checkpoint), one of its stages (RUN/stages/2-depth-6) or checkpoints
            (RUN/checkpoints/step-N), what `mslt import` has written (RUN before it begins, and
            RUN/start later on), or a Hugging Face folder of a BERT or ALBERT in safetensors.

    Raises:
        ValueError: the folder is none of these, or damaged.
        OSError: it cannot be read.
    """
    path = Path(path)
    if awaits(path):
        return Pretrained(path.resolve().name, brought(path)[0], path / "tokenizer")
    if (path / CONFIG).is_file():
        model, _ = first_good(model_folders(path), read_config(path).model)
        return Pretrained(path.resolve().name, model, path / "tokenizer")
    if (path / STATE).is_file() and path.resolve().name == START:
        run = path.resolve().parent
        return Pretrained(f"{run.name}/{START}", brought(run)[0], run / "tokenizer")
    if (path / STATE).is_file():
        run = path.resolve().parents[1]
        model, _ = load_model(path, read_config(run).model)
        return Pretrained(f"{run.name}/{path.resolve().name}", model, run / "tokenizer")
    if (path / "config.json").is_file():
        model, fresh = huggingface.load(path)
        return Pretrained(path.resolve().name, model, path, fresh)
    raise ValueError(
        f"{path} holds no model: it is no run, no stage or checkpoint of one, and no Hugging Face "
        f"folder with config.json and model.safetensors"
    )


def brought(run: Path) -> tuple[Encoder, Start]:
    """The model that `mslt import` has written into a run's folder, and what is known of it.

    Raises:
        ValueError: it is damaged.
    """
    start = read_start(run)
    if start is None:
        raise ValueError(f"{run / START} is damaged: it has no {STATE}")
    return load_model(start.folder, start.model)[0], start


def first_good(folders: Sequence[Path], config: ModelConfig) -> tuple[Encoder, dict[str, Any]]:
    """Model and facts of the first of a run's folders that verifies; the others are told of.

    Raises:
        ValueError: none does.
    """

    def load(folder: Path) -> tuple[Encoder, dict[str, Any]]:
        model, facts = load_model(folder, config)
        foreign.require(facts, FACTS, str(folder / STATE))
        return model, facts

    *before, last = folders
    for folder in before:
        try:
            return load(folder)
        except ValueError as error:
            print(f"mslt: {error}; trying the checkpoint before it", flush=True)
    return load(last)
