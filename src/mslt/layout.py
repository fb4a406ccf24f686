"""A run's folder: how it is laid out, and reading it. Imports no torch.

RUN/config.yaml              the resolved config, which --config accepts
    run.json                 data, versions, machine, stages, baseline, resumes
    metrics.jsonl            one line per logged step, evaluation, skipped step and going back
    tokenizer/               as in the store
    start/                   the trained model that the run begins with, if it does (mslt import)
    checkpoints/step-N/      what --resume goes on from: the last ones, and the one that was
                             evaluated best; step-N.damaged is what it could not use,
                             step-N.abandoned what was saved after training had broken down
    stages/I-depth-N/        the model at the end of stage I
    scores.json              with fine-tuning: by the paper's columns (MNLI, SQuAD1.1 F1, ...), in
                             percent; under "seeds" by the seeds of fine-tuning
    tensorboard/, wandb/, mlflow/, trackio/    with --track
    .lock                    held while a process trains
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mslt import foreign
from mslt.config import Config, ModelConfig, made

CONFIG, FACTS, METRICS, LOCK = "config.yaml", "run.json", "metrics.jsonl", ".lock"
SCORES = "scores.json"
COMPARISON = "compare.json"  # of a folder that holds the runs of several plans

# What the plans of a comparison have in common (sections 4.2 and 4.3).
Budget = Literal["steps", "time", "recipe"]
START = "start"

# What the readers of run.json and of metrics.jsonl count on.
_COUNTS = {"tokens": int, "sentences": int, "documents": int}
_FACTS: dict[str, Any] = {
    "data": str,
    "store_sha256": str,
    "text": {"train": _COUNTS, "heldout": _COUNTS},
    "device": str,
    "precision": Literal["fp32", "bf16"],
    "prefix": str,
    "stages": list,
    "micro_batches": list[int],
    "baseline_mlm_loss": float,
    "versions": {"mslt": str},
    "hardware": {"processor": str, "cores": int | None, "threads": int, "gpu": str | None},
}
_LINES: dict[str, Any] = {
    "train": {"mlm_loss": float | None, "seconds": float},
    "heldout": {"mlm_loss": float, "mlm_accuracy": float, "seconds": float},
}


@dataclass(frozen=True)
class Start:
    """The trained model that a run begins with.

    Args:
        folder: of its weights.
        name: of where it is from.
        depth: layers that it has.
        model: its shape, as deep as it is.
    """

    folder: Path
    name: str
    depth: int
    model: ModelConfig


def read_start(run: Path) -> Start | None:
    """The trained model in a run's folder, whether the run has begun or not; None without one.

    Raises:
        ValueError: what is known of it is damaged.
    """
    file = run / START / "state.json"
    if not file.is_file():
        return None
    facts = foreign.read_json_object(file)
    foreign.require(facts, {"name": str, "depth": int, "model": dict}, str(file))
    try:
        model = made(ModelConfig, facts["model"], "model.")
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from None
    if model.num_hidden_layers != facts["depth"] or not model.vocab_size:
        raise ValueError(f"{file} is damaged: depth is {facts['depth']}")
    return Start(run / START, facts["name"], facts["depth"], model)


def awaits(run: Path) -> bool:
    """Whether a folder holds a trained model for a run that has not begun yet."""
    return (run / START).is_dir() and not (run / CONFIG).exists()


def read_config(run: Path) -> Config:
    """The resolved config of a run's folder.

    Raises:
        ValueError: the folder holds no run, or a damaged config.
    """
    file = run / CONFIG
    if not file.is_file():
        raise ValueError(f"{run} is not a run: it has no {CONFIG} (mslt pretrain)")
    values = foreign.read_yaml(file)
    try:
        return Config.from_dict(values)
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from None


def read_facts(run: Path) -> dict[str, Any]:
    """What run.json says.

    Raises:
        ValueError: it is missing or damaged.
    """
    file = run / FACTS
    if not file.exists():
        raise ValueError(f"{run} is not a run: it has no {FACTS} (mslt pretrain)")
    facts = foreign.read_json_object(file)
    foreign.require(facts, _FACTS, str(file))
    if facts.get("start") is not None:
        foreign.require(facts["start"], {"name": str, "depth": int}, f"start in {file}")
    sizes, stages = facts["micro_batches"], facts["stages"]
    if len(sizes) != len(stages) or not all(size > 0 for size in sizes):
        raise ValueError(f"{file} is damaged: micro_batches is {sizes} of {len(stages)} stages")
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
        where = f"{file}, line {number}"
        line = foreign.parse_json(text, where)
        foreign.require(line, {"kind": str, "step": int}, where)
        foreign.require(line, _LINES.get(line["kind"], {}), where)
        lines.append(line)
    return lines


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of a step is, or would be."""
    return run / "checkpoints" / f"step-{step:08d}"


def checkpoint_folders(run: Path) -> list[Path]:
    """Checkpoint folders, oldest first, without those that were set aside."""
    paths = run.glob("checkpoints/step-*")
    return sorted((p for p in paths if re.fullmatch("step-[0-9]{1,15}", p.name)), key=step_of)


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
            facts = foreign.read_json_object(path / "state.json")
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


def model_folders(run: Path, stage: int | None = None, *, best: bool = False) -> list[Path]:
    """Where a model of a run may be, the first choice first.

    Args:
        run: the folder.
        stage: the model at the end of this stage, counted from 1. Without it, the finished model
            or, of a run that is not finished, its checkpoints, newest first.
        best: the checkpoint with the lowest held-out loss instead.

    Raises:
        ValueError: the run has no such model.
    """
    if best:
        if stage is not None:
            raise ValueError("--best has no effect beside --stage: leave one of them out")
        if (folder := best_checkpoint(run)) is None:
            raise ValueError(f"{run} has no checkpoint that was evaluated: leave --best out")
        return [folder]
    stages, ended = read_config(run).stages().stages, stage_folders(run)
    if stage is not None:
        if stage not in ended:
            which = f"these have: {', '.join(map(str, ended))}" if ended else "none has"
            raise ValueError(f"stage {stage} of {len(stages)} has not ended in {run}; {which}")
        return [ended[stage]]
    if len(stages) in ended:
        return [ended[len(stages)]]
    checkpoints = checkpoint_folders(run)
    if not checkpoints:
        raise ValueError(f"{run} has no checkpoint yet: there is no model in it")
    return checkpoints[::-1]


def compared_run(comparison: Path, plan: str, seed: int) -> Path:
    """Where a comparison keeps the run of a plan and a seed."""
    return comparison / "runs" / f"{plan}-seed{seed}"
