"""A run's model as a folder for Hugging Face transformers, with tokenizer and model card.

Nothing here imports transformers, and torch only once it is known that there is a model.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mslt.layout import awaits, model_folders, read_facts

if TYPE_CHECKING:
    from mslt.model import Encoder


def export(run: Path, out: Path, stage: int | None = None, *, best: bool = False) -> Path:
    """Write a run's model as a folder that `transformers` loads, with tokenizer and model card.

    Args:
        run: a run's folder, or what `mslt import` has written.
        out: the folder to write: new, or empty.
        stage: the model at the end of this stage, counted from 1. Without it, the finished model
            or, of a run that is not finished, its newest good checkpoint.
        best: the checkpoint with the lowest held-out loss instead.

    Returns:
        The folder.

    Raises:
        ValueError: the run has no such model, it is damaged, or `out` is not empty.
        OSError: the disk is full or not writable; nothing is left under the final name.
    """
    if awaits(run):
        if best or stage is not None:
            option = "best" if best else "stage"
            raise ValueError(
                f"--{option} has no effect: {run} has not been trained since its import"
            )
        model, card = _imported(run)
    else:
        model, card = _trained(run, stage, best=best)

    from mslt.checkpoint import write_file
    from mslt.data.tokenizer import read_vocabulary
    from mslt.files import appearing
    from mslt.huggingface import config_to_hf, to_hf

    config, tokenizer = model.config, run / "tokenizer"
    told = json.loads((tokenizer / "tokenizer_config.json").read_bytes())
    told["model_max_length"] = config.max_position_embeddings
    texts = {
        "config.json": _json(config_to_hf(config, model.depth, read_vocabulary(tokenizer).pad)),
        "tokenizer_config.json": _json(told),
        "README.md": card,
    }
    with appearing(out) as folder:
        write_file(folder / "model.safetensors", to_hf(model.state_dict(), config))
        for name, text in texts.items():
            write_file(folder / name, text.encode())
        for name in ("tokenizer.json", "vocab.txt"):
            write_file(folder / name, (tokenizer / name).read_bytes())
    return out


def _trained(run: Path, stage: int | None, *, best: bool) -> tuple["Encoder", str]:
    """A model of a run, and its card."""
    read_facts(run)  # which the card needs
    folders = model_folders(run, stage, best=best)

    from mslt.card import Described, model_card
    from mslt.pretrained import first_good
    from mslt.run import Run

    opened = Run.open(run)
    model, facts = first_good(folders, opened.config.model)
    parameters = sum(tensor.numel() for tensor in model.state_dict().values())
    return model, model_card(Described(opened, facts["step"], facts["seconds"], parameters))


def _imported(run: Path) -> tuple["Encoder", str]:
    """The model that a run would begin with, and its card."""
    from mslt.card import imported_card
    from mslt.pretrained import brought

    model, start = brought(run)
    return model, imported_card(start)


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
