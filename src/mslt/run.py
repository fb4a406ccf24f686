"""A run's folder: what was asked for, what happened, and what came of it.

RUN/config.yaml              the resolved config, which --config accepts
    run.json                 data, versions, machine, stages, baseline
    metrics.jsonl            one line per logged step and per evaluation
    tokenizer/               as in the store
    checkpoints/step-N/      what --resume goes on from
    stages/I-depth-N/        the model at the end of stage I
    tensorboard/             with --tensorboard
"""

import json
import math
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

import mslt
from mslt.checkpoint import State, load_state, save_model, save_state, verify_folder
from mslt.config import Config
from mslt.model import Encoder
from mslt.plan import Plan


class Clock:
    """Counts training time: only what runs inside `with clock:`, until the device is done."""

    def __init__(self, seconds: float, device: str) -> None:
        self.seconds = seconds
        self._cuda = device.startswith("cuda")

    def _now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time of the block."""
        start = self._now()
        yield
        self.seconds += self._now() - start


class Run:
    """The folder of one run."""

    def __init__(self, path: Path, config: Config) -> None:
        self.path = path
        self.config = config
        # Opened by the first value, so that reading a run's folder leaves it as it is.
        self._tensorboard: Any = None

    @classmethod
    def create(cls, path: Path, config: Config, facts: Mapping[str, Any], tokenizer: Path) -> "Run":
        """Lay out a new folder.

        Raises:
            ValueError: the folder already holds a run, or something else.
        """
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            hint = "go on with --resume, or " if (path / "run.json").exists() else ""
            raise ValueError(f"{path} is not empty: {hint}choose another --out")
        if config.tensorboard:
            _summary_writer()  # complains before there is a folder
        path.mkdir(parents=True, exist_ok=True)
        shutil.copytree(tokenizer, path / "tokenizer")
        write_text(path / "config.yaml", yaml.safe_dump(config.to_dict(), sort_keys=False))
        write_text(path / "run.json", to_json({**facts, **machine()}, indent=1))
        return cls(path, config)

    @classmethod
    def open(cls, path: Path) -> "Run":
        """A folder that is there.

        Raises:
            ValueError: it holds no run, or a damaged config.
        """
        return cls(path, read_config(path))

    def facts(self) -> dict[str, Any]:
        """What run.json says."""
        return json.loads((self.path / "run.json").read_text(encoding="utf-8"))

    def record(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl.

        Args:
            kind: `train` or `heldout`.
            step: optimisation steps done.
            values: numbers; one that is not finite is written as null.
        """
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(to_json({"kind": kind, "step": step, **values}) + "\n")
        if self.config.tensorboard:
            if self._tensorboard is None:
                self._tensorboard = _summary_writer()(str(self.path / "tensorboard"))
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._tensorboard.add_scalar(f"{kind}/{name}", value, step)

    def metrics(self) -> list[dict[str, Any]]:
        """Every whole line of metrics.jsonl."""
        path = self.path / "metrics.jsonl"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        return [json.loads(line) for line in whole.splitlines()]

    def rewind(self, step: int) -> None:
        """Drop the lines of steps after `step`, which will be trained again."""
        kept = [line for line in self.metrics() if line["step"] <= step]
        write_text(self.path / "metrics.jsonl", "".join(to_json(line) + "\n" for line in kept))

    def checkpoints(self) -> list[Path]:
        """Checkpoint folders, oldest first."""
        return sorted((self.path / "checkpoints").glob("step-*"))

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of a step is, or would be."""
        return self.path / "checkpoints" / f"step-{step:08d}"

    def save(self, state: State) -> None:
        """Write a checkpoint, then drop the oldest ones beyond `keep`."""
        path = self.checkpoint(state.step)
        save_state(path, state)
        verify_folder(path)
        for old in self.checkpoints()[: -self.config.keep]:
            shutil.rmtree(old)

    def latest(self) -> State | None:
        """The newest checkpoint that verifies; a damaged one is named, passed over and kept."""
        for path in reversed(self.checkpoints()):
            try:
                return load_state(path, self.config.model)
            except ValueError as error:
                print(f"mslt: {error}; trying the checkpoint before it", flush=True)
        return None

    def stage_folders(self) -> list[Path]:
        """Folders of the stages that have ended, first to last."""
        folders = (self.path / "stages").glob("[0-9]*-depth-*")  # not what a kill left
        return sorted(folders, key=lambda folder: int(folder.name.partition("-")[0]))

    def save_stage(self, index: int, plan: Plan, model: Encoder, facts: Mapping[str, Any]) -> None:
        """Keep the model that stands at the end of stage `index` (counted from 0)."""
        stage = plan.stages[index]
        path = self.path / "stages" / f"{index + 1}-depth-{stage.depth}"
        save_model(path, model, {"stage": index + 1, **facts})

    def close(self) -> None:
        """Flush what is still to be written."""
        if self._tensorboard is not None:
            self._tensorboard.close()


def read_config(path: Path) -> Config:
    """The resolved config of a run's folder.

    Raises:
        ValueError: the folder holds no run, or a damaged config.
    """
    file = path / "config.yaml"
    if not file.is_file():
        raise ValueError(f"{path} is not a run: it has no config.yaml (mslt pretrain)")
    try:
        return Config.from_dict(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (yaml.YAMLError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is damaged: {error}") from None


def machine() -> dict[str, Any]:
    """Versions and hardware, for run.json."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "versions": {
            "mslt": mslt.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "hardware": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": gpu,
        },
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def to_json(values: Any, indent: int | None = None) -> str:
    """JSON that every reader accepts: numbers that are not finite become null."""
    return json.dumps(_finite(values), indent=indent, allow_nan=False, ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_text(path: Path, text: str) -> None:
    """Write a file that appears whole under its name."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError("tensorboard is not installed: pip install 'mslt[tensorboard]'") from None
    return SummaryWriter
