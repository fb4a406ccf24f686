"""Folders that are either whole or not there: safetensors and JSON, verified by SHA-256.

A folder is written under a temporary name, flushed to the disk, given its manifest last and then
renamed, so that whatever stops the process leaves the previous ones as they were.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mslt import foreign
from mslt.cost import parameters
from mslt.files import appearing, sha256
from mslt.guard import Watch
from mslt.model import Encoder
from mslt.optim import Moment, Moments
from mslt.shape import ModelConfig

MANIFEST, WEIGHTS = "manifest.json", "model.safetensors"
STATE, MOMENTS = "state.json", "moments.safetensors"
FACTS = {"step": int, "seconds": float}  # that state.json holds of training, among others
_MORE_FACTS = {
    "updates": dict,
    "watch": {"recent": list[list[float]], "refused": int, "passed_over": int},
}
_DTYPES = {torch.float32: "F32"}


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


def verify_folder(path: Path, *needed: str) -> None:
    """Compare the files of a folder with its manifest.

    Args:
        path: the folder.
        needed: files that the manifest must cover; others may be there.

    Raises:
        Damaged: naming the file that is missing or damaged.
    """
    try:
        hashes = foreign.read_json_object(path / MANIFEST).get("sha256")
        if not isinstance(hashes, dict) or not set(needed) <= set(hashes):
            raise Damaged(f"{path} is damaged: {MANIFEST} does not cover {', '.join(needed)}")
        for name in hashes:
            foreign.require_name(name, f"{path / MANIFEST}")
        damaged = [name for name in hashes if sha256(path / name) != hashes[name]]
    except OSError as error:
        raise Damaged(f"{path} is damaged: {error}") from None
    except ValueError as error:
        raise Damaged(str(error)) from None
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
    verify_folder(path, WEIGHTS, STATE)
    return _read_model(path, config)


def _read_model(path: Path, config: ModelConfig) -> tuple[Encoder, dict[str, Any]]:
    facts, file = _read_facts(path, {"depth": int}), path / WEIGHTS
    if not 1 <= facts["depth"] <= config.num_hidden_layers:
        raise ValueError(
            f"{path / STATE} does not fit the model's config: depth must be 1 to "
            f"{config.num_hidden_layers}, not {facts['depth']}"
        )
    needs = 4 * parameters(config, facts["depth"])
    if file.stat().st_size < needs:  # before so much memory is taken
        raise ValueError(f"{file} does not fit the model's config, which needs {needs:,} bytes")
    model = Encoder(config, facts["depth"])
    model.load_state_dict(load_tensors(file, model.state_dict()), strict=True)
    return model, facts


def load_tensors(file: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Args:
        file: the file; none of its content is read before its header has been found right.
        wanted: tensors of the names, shapes and types that it must have.

    Raises:
        Damaged: it is no safetensors file, or a number in it is not finite.
        ValueError: it has other tensors than these.
    """
    try:
        with safe_open(file, "pt") as opened:
            names = set(opened.keys())
            if odd := names ^ set(wanted):
                which = "lacks" if min(odd) in wanted else "has a tensor that the model has not,"
                raise ValueError(f"{file} does not fit the model's config: it {which} {min(odd)}")
            for name, tensor in wanted.items():
                has, needs = opened.get_slice(name), list(tensor.shape)
                if has.get_shape() != needs or has.get_dtype() != _DTYPES[tensor.dtype]:
                    raise ValueError(
                        f"{file} does not fit the model's config: {name} is {has.get_dtype()} "
                        f"{has.get_shape()}, not {_DTYPES[tensor.dtype]} {needs}"
                    )
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise Damaged(f"{file} is damaged: {error}") from None
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise Damaged(f"{file} is damaged: a number in {name} is not finite")
    return tensors


def _model_files(model: Encoder, facts: Mapping[str, Any]) -> dict[str, Content]:
    state = json.dumps({"depth": model.depth, **facts}, indent=1).encode()
    return {WEIGHTS: dict(model.state_dict()), STATE: state}


def save_state(path: Path, state: State) -> None:
    """Write a checkpoint."""
    write_folder(path, state_files(state))


def state_files(state: State) -> dict[str, Content]:
    """What a checkpoint holds: the whole model, every moment, step and time. Shares memory."""
    tensors: dict[str, Tensor] = {}
    for name, moment in state.moments.items():
        tensors[f"{name}/mean"] = moment.mean
        tensors[f"{name}/square"] = moment.square
    return _model_files(state.model, state_facts(state)) | {MOMENTS: tensors}


def state_facts(state: State) -> dict[str, Any]:
    """What state.json says of a checkpoint: all that is no tensor."""
    return {
        "depth": state.model.depth,
        "step": state.step,
        "seconds": state.seconds,
        "updates": {name: moment.updates for name, moment in state.moments.items()},
        "watch": asdict(state.watch),
    }


def load_state(path: Path, config: ModelConfig) -> State:
    """Read a checkpoint back, verified.

    Raises:
        Damaged: it is not as it was written.
        ValueError: it does not fit the config.
    """
    verify_folder(path, WEIGHTS, STATE, MOMENTS)
    facts = _read_facts(path, FACTS | _MORE_FACTS)
    model, _ = _read_model(path, config)
    weights, updates = dict(model.named_parameters()), facts["updates"]
    if not set(updates) <= set(weights):
        raise Damaged(f"{path / STATE} is damaged: its updates are not of the model's weights")
    wanted = {f"{name}/{kind}": weights[name] for name in updates for kind in Moment._fields[:2]}
    tensors = load_tensors(path / MOMENTS, wanted)
    moments = {
        name: Moment(tensors[f"{name}/mean"], tensors[f"{name}/square"], count)
        for name, count in updates.items()
    }
    return _described(facts, model, moments)


def blank_state(facts: Mapping[str, Any], config: ModelConfig) -> State:
    """The state that state.json's facts describe, whose tensors are still to be filled."""
    model = Encoder(config, facts["depth"])
    weights = model.state_dict()
    moments = {
        name: Moment(torch.zeros_like(weights[name]), torch.zeros_like(weights[name]), count)
        for name, count in facts["updates"].items()
    }
    return _described(facts, model, moments)


def _described(facts: Mapping[str, Any], model: Encoder, moments: Moments) -> State:
    recent = tuple((loss, norm) for loss, norm in facts["watch"]["recent"])
    watch = Watch(**{**facts["watch"], "recent": recent})
    return State(facts["step"], model, moments, facts["seconds"], watch)


def _read_facts(path: Path, schema: Mapping[str, Any]) -> dict[str, Any]:
    """What state.json says, each value of the type that it must have.

    Raises:
        Damaged: naming what it lacks, or has wrong.
    """
    file = path / STATE
    try:
        facts = foreign.read_json_object(file)
        foreign.require(facts, schema, str(file))
    except ValueError as error:
        raise Damaged(str(error)) from None
    recent = facts["watch"]["recent"] if "watch" in schema else []
    counts = facts["updates"].values() if "updates" in schema else []
    if any(len(pair) != 2 for pair in recent) or not all(foreign.fits(n, int) for n in counts):
        raise Damaged(f"{file} is damaged: a count or a pair in it is none")
    return facts
