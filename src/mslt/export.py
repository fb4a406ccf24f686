"""A run's model as a folder for Hugging Face transformers, with tokenizer and model card.

Nothing here imports transformers, and torch only once it is known that there is a model.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mslt.layout import model_folders, read_facts


def export(run: Path, out: Path, stage: int | None = None, *, best: bool = False) -> Path:
    """Write a run's model as a folder that `transformers` loads, with tokenizer and model card.

    Args:
        run: a run's folder.
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
    read_facts(run)  # which the model card needs
    folders = model_folders(run, stage, best=best)

    from mslt.card import Described, model_card
    from mslt.checkpoint import write_file
    from mslt.data.tokenizer import read_vocabulary
    from mslt.files import appearing
    from mslt.huggingface import config_to_hf, to_hf
    from mslt.pretrained import first_good
    from mslt.run import Run

    opened = Run.open(run)
    config, pad = opened.config.model, read_vocabulary(run / "tokenizer").pad
    model, facts = first_good(folders, config)
    tensors = to_hf(model.state_dict(), config)
    parameters = sum(tensor.numel() for tensor in tensors.values())
    told = json.loads((run / "tokenizer" / "tokenizer_config.json").read_bytes())
    told["model_max_length"] = config.max_position_embeddings
    texts = {
        "config.json": _json(config_to_hf(config, model.depth, pad)),
        "tokenizer_config.json": _json(told),
        "README.md": model_card(Described(opened, facts["step"], facts["seconds"], parameters)),
    }
    with appearing(out) as folder:
        write_file(folder / "model.safetensors", tensors)
        for name, text in texts.items():
            write_file(folder / name, text.encode())
        for name in ("tokenizer.json", "vocab.txt"):
            write_file(folder / name, (run / "tokenizer" / name).read_bytes())
    return out


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
