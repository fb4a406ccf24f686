"""Folders that are either whole or not there: safetensors and JSON, verified by SHA-256.

A folder is written under a temporary name, flushed to the disk, given its manifest last and then
renamed, so that whatever stops the process leaves the previous ones as they were.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mslt.config import ModelConfig
from mslt.files import appearing, sha256
from mslt.guard import Watch
from mslt.model import Encoder
from mslt.optim import Moment, Moments

MANIFEST = "manifest.json"


class Damaged(ValueError):
    """A folder is not as it was written."""


@dataclass
class State:
    """All that training carries from one step to the next, across stages and across runs.

    Args:
        step: optimisation steps done.
        model: as deep as the stage that this step belongs to.
        moments: the optimizer's, by parameter name.
        seconds: training time so far; evaluation, saving and set-up do not count.
        watch: what the guard of the numbers remembers.
    """

    step: int
    model: Encoder
    moments: Moments = field(default_factory=dict)
    seconds: float = 0.0
    watch: Watch = field(default_factory=Watch)


Content = bytes | dict[str, Tensor]


def write_folder(path: Path, files: Mapping[str, Content]) -> None:
    """Write files as one folder that appears whole, with a manifest of their hashes.

    Args:
        path: the folder; one that stands there already is replaced.
        files: content by file name; tensors are written as safetensors.

    Raises:
        OSError: the disk is full or not writable; nothing is left under the final name.
    """
    with appearing(path, replace=True) as folder:
        for name, content in files.items():
            write_file(folder / name, content)
        hashes = {name: sha256(folder / name) for name in files}
        write_file(folder / MANIFEST, json.dumps({"sha256": hashes}, indent=1).encode())


def verify_folder(path: Path) -> None:
    """Compare the files of a folder with its manifest.

    Raises:
        Damaged: naming the file that is missing or damaged.
    """
    try:
        hashes = json.loads((path / MANIFEST).read_bytes())["sha256"]
        damaged = [name for name in hashes if sha256(path / name) != hashes[name]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{path} is damaged: {error}") from None
    if damaged:
        raise Damaged(f"{path / damaged[0]} is damaged: its SHA-256 is not the manifest's")


def write_file(path: Path, content: Content) -> None:
    """Write bytes as they are, or tensors as safetensors.

    Raises:
        OSError: the disk is full or not writable.
    """
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in content.items()}
        path.touch()
        mode = path.stat().st_mode
        try:
            save_file(tensors, path, metadata={"format": "pt"})
        except SafetensorError as error:  # what the library makes of a full disk
            raise OSError(f"{path} cannot be written: {error}") from None
        path.chmod(mode)  # the library lets nobody but the owner read, whatever the umask


def snapshot(files: Mapping[str, Content]) -> dict[str, Content]:
    """A copy in the CPU's memory, which training does not change any more."""
    return {
        name: content
        if isinstance(content, bytes)
        else {key: tensor.detach().to("cpu", copy=True) for key, tensor in content.items()}
        for name, content in files.items()
    }


def size(files: Mapping[str, Content]) -> int:
    """Bytes of files, but for headers."""
    return sum(
        len(content) if isinstance(content, bytes) else sum(t.nbytes for t in content.values())
        for content in files.values()
    )


def save_model(path: Path, model: Encoder, facts: Mapping[str, Any]) -> None:
    """Write model.safetensors, and state.json with its depth and the facts given."""
    write_folder(path, _model_files(model, facts))


def load_model(path: Path, config: ModelConfig) -> tuple[Encoder, dict[str, Any]]:
    """The model and the facts of a folder, verified.

    Raises:
        Damaged: the folder is not as it was written.
        ValueError: the weights do not fit the config.
    """
    verify_folder(path)
    facts = json.loads((path / "state.json").read_bytes())
    model = Encoder(config, facts["depth"])
    try:
        model.load_state_dict(load_file(path / "model.safetensors"), strict=True)
    except RuntimeError as error:
        raise ValueError(f"{path}: the weights do not fit the model's config: {error}") from None
    return model, facts


def _model_files(model: Encoder, facts: Mapping[str, Any]) -> dict[str, Content]:
    state = json.dumps({"depth": model.depth, **facts}, indent=1).encode()
    return {"model.safetensors": dict(model.state_dict()), "state.json": state}


def save_state(path: Path, state: State) -> None:
    """Write a checkpoint."""
    write_folder(path, state_files(state))


def state_files(state: State) -> dict[str, Content]:
    """What a checkpoint holds: the whole model, every moment, step and time. Shares memory."""
    tensors: dict[str, Tensor] = {}
    for name, moment in state.moments.items():
        tensors[f"{name}/mean"] = moment.mean
        tensors[f"{name}/square"] = moment.square
    updates = {name: moment.updates for name, moment in state.moments.items()}
    facts = {"step": state.step, "seconds": state.seconds, "updates": updates}
    facts["watch"] = asdict(state.watch)
    return _model_files(state.model, facts) | {"moments.safetensors": tensors}


def load_state(path: Path, config: ModelConfig) -> State:
    """Read a checkpoint back, verified.

    Raises:
        Damaged: it is not as it was written.
        ValueError: it does not fit the config.
    """
    model, facts = load_model(path, config)
    tensors = load_file(path / "moments.safetensors")
    moments = {
        name: Moment(tensors[f"{name}/mean"], tensors[f"{name}/square"], updates)
        for name, updates in facts["updates"].items()
    }
    watch = facts["watch"]
    watch["recent"] = tuple((loss, norm) for loss, norm in watch["recent"])
    return State(facts["step"], model, moments, facts["seconds"], Watch(**watch))
