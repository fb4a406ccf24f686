"""A run's folder: how it is laid out, and reading it. Imports no torch.

RUN/config.yaml              the resolved config, which --config accepts
    run.json                 data, versions, machine, stages, baseline, resumes
    metrics.jsonl            one line per logged step, evaluation, skipped step and going back
    tokenizer/               as in the store
    checkpoints/step-N/      what --resume goes on from: the last ones, and the one that was
                             evaluated best; step-N.damaged is what it could not use,
                             step-N.abandoned what was saved after training had broken down
    stages/I-depth-N/        the model at the end of stage I
    tensorboard/             with --tensorboard
    .lock                    held while a process trains
"""

import json
from pathlib import Path
from typing import Any

import yaml

from mslt.config import Config

CONFIG, FACTS, METRICS, LOCK = "config.yaml", "run.json", "metrics.jsonl", ".lock"

# What the readers of run.json count on.
_FACTS = (
    *("data", "store_sha256", "text", "device", "precision", "prefix", "stages", "micro_batches"),
    *("baseline_mlm_loss", "versions", "hardware"),
)


def read_config(run: Path) -> Config:
    """The resolved config of a run's folder.

    Raises:
        ValueError: the folder holds no run, or a damaged config.
    """
    file = run / CONFIG
    if not file.is_file():
        raise ValueError(f"{run} is not a run: it has no {CONFIG} (mslt pretrain)")
    try:
        return Config.from_dict(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (yaml.YAMLError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{file} is damaged: {error}") from None


def read_facts(run: Path) -> dict[str, Any]:
    """What run.json says.

    Raises:
        ValueError: it is missing or damaged.
    """
    file = run / FACTS
    try:
        facts = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{run} is not a run: it has no {FACTS} (mslt pretrain)") from None
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from None
    if not isinstance(facts, dict):
        raise ValueError(f"{file} is damaged: it is no object of JSON")
    for key in _FACTS:
        if key not in facts:
            raise ValueError(f"{file} is damaged: it lacks {key}")
    return facts


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Every line of metrics.jsonl but a last one that a kill left without its end.

    Raises:
        ValueError: naming a line that is damaged.
    """
    file = run / METRICS
    content = file.read_bytes() if file.exists() else b""
    lines = []
    for number, text in enumerate(content.split(b"\n")[:-1], 1):
        try:
            line = json.loads(text)
            whole = isinstance(line["kind"], str) and isinstance(line["step"], int)
        except (ValueError, TypeError, KeyError):
            whole = False
        if not whole:
            raise ValueError(
                f"{file}, line {number} is damaged: it is no JSON with a kind and a step"
            )
        lines.append(line)
    return lines


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of a step is, or would be."""
    return run / "checkpoints" / f"step-{step:08d}"


def checkpoint_folders(run: Path) -> list[Path]:
    """Checkpoint folders, oldest first, without those that were set aside."""
    paths = run.glob("checkpoints/step-*")
    return sorted((p for p in paths if p.name.removeprefix("step-").isdigit()), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint's folder is named after."""
    return int(checkpoint.name.removeprefix("step-"))


def best_checkpoint(run: Path) -> Path | None:
    """The checkpoint that was evaluated best: of the deepest models the lowest held-out loss.

    None where no checkpoint was evaluated. Damaged ones do not count.
    """
    losses = {m["step"]: m["mlm_loss"] for m in read_metrics(run) if m["kind"] == "heldout"}
    ranks = {}
    for path in checkpoint_folders(run):
        try:
            facts = json.loads((path / "state.json").read_bytes())
            ranks[path] = (-facts["depth"], losses[facts["step"]])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return min(ranks, key=lambda path: ranks[path]) if ranks else None


def stage_folder(run: Path, number: int, depth: int) -> Path:
    """Where the model of a stage, counted from 1, is kept."""
    return run / "stages" / f"{number}-depth-{depth}"


def stage_folders(run: Path) -> dict[int, Path]:
    """Folders of the stages that have ended, by number, first to last."""
    stages = enumerate(read_config(run).stages().stages, 1)
    folders = {number: stage_folder(run, number, stage.depth) for number, stage in stages}
    return {number: folder for number, folder in folders.items() if folder.is_dir()}
